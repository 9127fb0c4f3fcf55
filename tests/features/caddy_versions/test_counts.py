"""What the doors of a real Caddy count."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

import pytest

from mlplatform.adapters.caddy_versions import CaddyVersions
from mlplatform.core.seen import Unknown
from mlplatform.ports.split import Counts
from tests.conformance.traffic.acts import put
from tests.conformance.traffic.caddy_versions_site import Entry

from .conftest import Versions

pytestmark = [pytest.mark.xdist_group("caddy")]

SLOW_SECONDS = 2.5
"""A bucket of Caddy's that no quick request reaches, however busy the machine."""
WITHIN_SECONDS = 60.0


def counted(split: CaddyVersions, version: str = "v1") -> Counts:
    found = split.counts(SLOW_SECONDS)[version]
    assert isinstance(found, Counts), found
    return found


def numbers(counts: Counts) -> tuple[float, float, float | None, float | None]:
    return counts.requests, counts.errors, counts.timed, counts.slow


def until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return so


@pytest.fixture
def split(entry: Entry) -> CaddyVersions:
    """All requests go to v1, and nothing is counted yet."""
    found = entry.split()
    put(found, {"v1": 100, "v2": 0}, 1)
    return found


@pytest.mark.parametrize(
    ("path", "errors"),
    [
        ("/", 0),
        ("/404", 0),
        ("/422", 0),
        ("/429", 1),
        ("/500", 1),
        ("/501", 1),
        ("/503", 1),
        ("/504", 1),
        ("/reset", 1),
    ],
)
def test_what_an_answer_counts_for(
    entry: Entry, split: CaddyVersions, path: str, errors: int
) -> None:
    entry.post(path)
    assert until(lambda: counted(split).requests == 1)
    assert numbers(counted(split)) == (1, errors, 1, 0)
    assert numbers(counted(split, "v2")) == (0, 0, 0, 0)


def test_servers_that_cannot_be_reached(entry: Entry, split: CaddyVersions, dead: str) -> None:
    """It is the version's error, and nobody else is asked in its place."""
    split.admit("v1", [dead], epoch=1, writer="w")
    assert [entry.post()[0] for _ in range(3)] == [502] * 3
    assert until(lambda: counted(split).requests == 3)
    assert numbers(counted(split)) == (3, 3, 3, 0)
    assert numbers(counted(split, "v2")) == (0, 0, 0, 0)


def test_a_dead_server_beside_a_good_one_is_not_covered_up(
    entry: Entry, split: CaddyVersions, versions: Versions, dead: str
) -> None:
    """Least connections asks each by turns here; no retry hides what clients met."""
    split.admit("v1", [dead, versions.running[0].address], epoch=1, writer="w")
    statuses = [entry.post()[0] for _ in range(20)]
    failed = statuses.count(502)
    assert 0 < failed < 20
    assert until(lambda: counted(split).requests == 20)
    assert counted(split).errors == failed


def held(entry: Entry, versions: Versions) -> http.client.HTTPConnection:
    """A client whose request waits at the gate."""
    client = entry.client()
    client.request("POST", "/held", b"{}")
    assert versions.held.acquire(timeout=WITHIN_SECONDS)
    return client


def test_slow_requests(entry: Entry, split: CaddyVersions, versions: Versions) -> None:
    entry.post()
    client = held(entry, versions)
    time.sleep(1.1 * SLOW_SECONDS)
    versions.gate.set()
    assert client.getresponse().read() == b"v1"
    client.close()
    assert until(lambda: counted(split).requests == 2)
    assert numbers(counted(split)) == (2, 0, 2, 1)
    assert counted(split).slow_seconds == SLOW_SECONDS


@pytest.mark.parametrize(
    ("asked_for", "end"),
    [(0.3, 0.5), (0.5, 0.5), (0.0, 0.005), (10.0, 10.0), (10.1, None)],
)
def test_the_bucket_by_which_slow_is_counted(
    entry: Entry, split: CaddyVersions, asked_for: float, end: float | None
) -> None:
    entry.post()
    found = split.counts(asked_for)["v1"]
    assert isinstance(found, Counts)
    assert found.slow_seconds == end
    assert (found.timed is None) == (found.slow is None) == (end is None)


def test_clients_that_break_off(entry: Entry, split: CaddyVersions, versions: Versions) -> None:
    """At once: nothing at all. After more than `slow_seconds`: it was slow, and no request. The
    server is told, so that it need not go on."""
    at_once = held(entry, versions)
    at_once.close()
    assert versions.broken_off.acquire(timeout=WITHIN_SECONDS)
    waited = held(entry, versions)
    time.sleep(1.1 * SLOW_SECONDS)
    waited.close()
    assert until(lambda: counted(split).timed == 1)
    assert numbers(counted(split)) == (0, 0, 1, 1)
    assert versions.broken_off.acquire(timeout=WITHIN_SECONDS)


def test_an_answer_that_breaks_off_in_the_middle_is_not_counted(
    entry: Entry, split: CaddyVersions
) -> None:
    """The client sees it; Caddy's metrics do not say who broke it off."""
    with pytest.raises((http.client.HTTPException, OSError)):
        entry.post("/halves")
    entry.post()
    assert until(lambda: counted(split).requests > 0)
    assert numbers(counted(split)) == (1, 0, 1, 0)


def test_who_looks_does_not_count(entry: Entry, split: CaddyVersions) -> None:
    """Probes ask how it is, and would hide a bad version behind their answers."""
    entry.get()
    entry.get("/500")
    client = entry.client()
    client.request("POST", "/500", b"x" * 200_000)
    assert client.getresponse().read() == b"v1"
    client.close()
    assert until(lambda: counted(split).requests == 1)
    assert numbers(counted(split)) == (1, 1, 1, 0)


def test_our_changes_do_not_lose_what_was_counted(
    entry: Entry, split: CaddyVersions, versions: Versions
) -> None:
    """They are no reset, although Caddy's counters begin again with each."""
    entry.post("/500")
    assert until(lambda: counted(split).requests == 1)
    began = counted(split).began
    put(split, {"v1": 50, "v2": 50}, 1)
    split.admit("v1", [versions.start("v1")], epoch=1, writer="w")
    put(split, {"v1": 100, "v2": 0}, 2)
    entry.post()
    assert until(lambda: counted(split).requests == 2)
    assert numbers(counted(split)) == (2, 1, 2, 0)
    assert counted(split).began == began
    fresh = counted(entry.split())
    assert numbers(fresh) == (1, 0, 1, 0)
    assert fresh.began != began


@pytest.mark.parametrize(
    "how", ["a change by others", "a change by others after ours", "a restart"]
)
def test_counters_that_began_again(entry: Entry, split: CaddyVersions, how: str) -> None:
    """It shows, even when more has been counted since."""
    entry.post("/500")
    assert until(lambda: counted(split).requests == 1)
    before = counted(split)
    if how == "a restart":
        entry.restart()
    else:
        if how == "a change by others after ours":
            put(split, {"v1": 100, "v2": 0}, 2)
        entry.ask("PUT", "/config/apps/http/grace_period", 10**10)
    for _ in range(3):
        entry.post()
    assert until(lambda: counted(split).requests == 3)
    after = counted(split)
    assert numbers(after) == (3, 0, 3, 0)
    assert after.began != before.began


def test_a_door_that_is_not_there(make_entry: Callable[..., Entry], versions: Versions) -> None:
    """Never asked is zero; never admitted is not known."""
    entry = make_entry(
        {"v1": [versions.start("v1")], "v2": []}, doors={"v1": [versions.running[0].address]}
    )
    counts = entry.split("v1", "v2").counts(SLOW_SECONDS)
    assert counts.keys() == {"v1", "v2"}
    assert isinstance(counts["v1"], Counts)
    assert counts["v1"].requests == 0
    assert isinstance(counts["v2"], Unknown)
    assert "admitted" in str(counts["v2"])


def test_versions_of_old_are_counted_while_their_doors_are_there(entry: Entry) -> None:
    put(entry.split(), {"v1": 100, "v2": 0}, 1)
    counts = entry.split("v1", "v3").counts(SLOW_SECONDS)
    assert isinstance(counts["v2"], Counts)
    assert isinstance(counts["v3"], Unknown)


def test_metrics_that_are_off(make_entry: Callable[..., Entry], versions: Versions) -> None:
    """Nothing is known until they are on; `admit` turns them on."""
    address = versions.start("v1")
    entry = make_entry({"v1": [address]}, metrics=False)
    split = entry.split()
    off = split.counts(SLOW_SECONDS)["v1"]
    assert isinstance(off, Unknown)
    assert "`metrics`" in str(off)
    split.admit("v1", [address], epoch=1, writer="w")
    assert numbers(counted(split)) == (0, 0, 0, 0)
