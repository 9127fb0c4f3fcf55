"""The fixtures of the traffic suite, and what makes its table binding."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlplatform.ports.traffic import RouteState, Traffic
from tests.conformance.conftest import cases_of, judge, server_marks

from .matrix import ROWS, TABLE, Row
from .site import Site

SETTLED_WITHIN_SECONDS = 60.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "actuator" in metafunc.fixturenames:
        metafunc.parametrize(
            "actuator",
            [pytest.param(row, id=row.server, marks=server_marks(row.fixture)) for row in ROWS],
            scope="session",
        )


@pytest.fixture
def make_site(
    actuator: Row, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], Site]]:
    """Makes fresh sites on the row's actuator."""
    server = request.getfixturevalue(actuator.fixture) if actuator.fixture else tmp_path
    with ExitStack() as stack:

        def make() -> Site:
            site: AbstractContextManager[Site] = actuator.site(server)
            return stack.enter_context(site)

        yield make


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    """A fresh route over a, b and c."""
    return make_site()


@pytest.fixture
def traffic(site: Site) -> Traffic:
    """An adapter on it."""
    return site.open()


@pytest.fixture
def settled() -> Callable[[Traffic, RouteState], bool]:
    """Whether a state comes into force, given time."""

    def wait(traffic: Traffic, state: RouteState) -> bool:
        deadline = time.monotonic() + SETTLED_WITHIN_SECONDS
        while not (in_force := traffic.in_force(state)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return in_force

    return wait


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    outcome = yield
    cases = cases_of(item)
    row = cases.pop("actuator", None)
    if isinstance(row, Row):
        judge(item, call, outcome.get_result(), row, f"traffic, {row.scheme}", cases, TABLE)
