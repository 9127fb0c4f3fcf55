"""The real servers as fixtures, and the account at the end of which ones ran.

A server starts when the first test asks for it, once for each worker. One that is not built skips
its tests by name, or fails them where ``MLPLATFORM_REQUIRE_SERVERS=1``. Every test that uses one
carries the mark ``real``, from which the account is made; where a test asks for its server by
``getfixturevalue``, its parameter says so itself: ``pytest.mark.real("minio")``.
"""

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.servers.catalogue import BY_NAME, SERVERS, Server
from tests.real.servers.cluster import Cluster, cluster_of
from tests.real.servers.control_plane import ControlPlane, control_plane
from tests.real.servers.launch import Endpoint, ServerMissing, running

pytest_plugins = ("tests.conformance.report",)

_PROPERTY = "real_server"
_REQUIRED = os.environ.get("MLPLATFORM_REQUIRE_SERVERS") == "1"

if _REQUIRED:
    from hypothesis import settings

    # The gate asks the same questions each time, so that a red one is about the change at hand;
    # every other run draws new ones, and what they find becomes an example of its own.
    settings.register_profile("gate", derandomize=True)
    settings.load_profile("gate")


def _fixture_name(server: str) -> str:
    return server.replace("-", "_")


_SERVER_OF = {_fixture_name(name): name for name in BY_NAME}


def _require(server: Server) -> None:
    """Skip the test where its server is not built; fail it where every server is required."""
    if not server.built:
        why = str(ServerMissing(server))
        if _REQUIRED:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)


def _server(name: str) -> Callable[[], Iterator[Endpoint]]:
    """The fixture of one server: an ``Endpoint``, up for the rest of the session."""

    @pytest.fixture(scope="session", name=_fixture_name(name))
    def start() -> Iterator[Endpoint]:
        _require(BY_NAME[name])
        with running(name) as endpoint:
            yield endpoint

    return start


def _tool(name: str) -> Callable[[], Path]:
    """The fixture of one tool: the path of its program."""

    @pytest.fixture(scope="session", name=_fixture_name(name))
    def find() -> Path:
        _require(BY_NAME[name])
        return BY_NAME[name].path

    return find


minio = _server("minio")
versitygw = _server("versitygw")
moto = _server("moto")
fake_gcs_server = _server("fake-gcs-server")
gcp_storage_emulator = _server("gcp-storage-emulator")
gcsemulator = _server("gcsemulator")
azurite = _server("azurite")
toxiproxy = _server("toxiproxy")
caddy = _server("caddy")
etcd = _server("etcd")
bind = _server("bind")
powerdns = _server("powerdns")
unbound = _server("unbound")
prometheus = _server("prometheus")
promtool = _tool("promtool")
rclone = _tool("rclone")
kwok = _tool("kwok")
tritonclient = _tool("tritonclient")
tensorrt_rtx = _tool("tensorrt-rtx")
schemathesis = _tool("schemathesis")
atheris = _tool("atheris")


@pytest.fixture(scope="session")
def kubernetes(etcd: Endpoint) -> Iterator[ControlPlane]:
    """An API server, up for the rest of the session."""
    _require(BY_NAME["kubernetes"])
    with control_plane(etcd) as plane:
        yield plane


_ENDS: dict[str, ExitStack] = {}
"""By group: what is ended with its last test, where one worker has all of the group."""


@pytest.fixture(scope="session")
def kubernetes_cluster(kwok: Path) -> Iterator[Cluster]:
    """A control plane with its controllers, and simulated nodes, which take a third of a core for
    as long as they are up: until the last test of the group."""
    for name in ("kubernetes", "etcd"):
        _require(BY_NAME[name])
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane(stack.enter_context(running("etcd"))))
        _ENDS["kubernetes_cluster"] = stack
        yield stack.enter_context(cluster_of(plane))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``real`` what has a real server among its fixtures: ``-m 'not real'`` works."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in _SERVER_OF:
                item.add_marker(pytest.mark.real(_SERVER_OF[fixture]))
            if fixture == "kubernetes_cluster":
                item.add_marker(pytest.mark.xdist_group(fixture))
    _keep_together(items)


def _keep_together(items: list[pytest.Item]) -> None:
    """What has one group has one worker, and its servers are started once. xdist 3.8 writes a group
    into what was a test's id before pytest 9.2 (pytest-dev/pytest-xdist#1386)."""
    for item in items:
        if (group := _group(item)) and _is_grouped(item.config) and hasattr(item, "_id"):
            item._id = type(item._id).parse(f"{item.nodeid}@{group}")


def _group(item: pytest.Item) -> str:
    return "_".join(sorted({mark.args[0] for mark in item.iter_markers("xdist_group")}))


def _is_grouped(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "loadgroup", False))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what only one group needed, once the worker has come to another."""
    if _is_grouped(item.config) and nextitem is not None and _group(nextitem) != _group(item):
        _ENDS.pop(_group(item), ExitStack()).close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write a test's servers into its report, which travels from a worker to the summary."""
    report = yield
    names = {name for mark in item.iter_markers("real") for name in mark.args}
    report.user_properties += [(_PROPERTY, name) for name in sorted(names)]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real servers ran, with how many tests, and which were not there; and that torch's
    tests, which have an environment of their own, did not."""
    ran = Counter(
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    )
    terminalreporter.section("real servers")
    for server in SERVERS:
        if tests := ran[server.name]:
            line = f"ran      {server.name} {server.version}: {tests} test{'s' * (tests > 1)}"
        elif server.built:
            line = f"not used {server.name} {server.version}"
        else:
            line = f"MISSING  {server.name} {server.version}: its tests did not run; make servers"
        terminalreporter.line(line)
    not_run = [
        each for each in terminalreporter.stats.get("skipped", ()) if "torch" in each.keywords
    ]
    if not_run:
        terminalreporter.line(f"NOT RUN  {len(not_run)} tests that need PyTorch; make test-torch")
