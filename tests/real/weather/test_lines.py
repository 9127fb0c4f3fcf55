"""Bad lines, by toxiproxy: whatever the weather, an outcome in bounded time and nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from mlplatform.replication.transfer import Settings
from mlplatform.replication.verify import Verdict
from tests.real.servers.toxics import Line

from .conftest import MIB, World
from .sites import Site


@contextmanager
def once_sending(
    world: World, begin: Callable[[], None], end: Callable[[], None] | None = None, *, after: float
) -> Iterator[None]:
    """`begin` as soon as a part has arrived in the far region; `end` so many seconds after that."""
    started, over = threading.Event(), threading.Event()

    def run() -> None:
        started.wait()
        if not over.is_set():
            begin()
        if end is not None and not over.wait(after):
            end()

    def hear(region: str, _: int) -> None:
        if region == "far":
            started.set()

    world.told.on_sent = hear
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        world.told.on_sent = lambda region, sent_bytes: None
        over.set()
        started.set()
        thread.join()


def calm(line: Line) -> None:
    """Toxiproxy is cut first: it may hang for ever where a toxic is removed under a connection that
    another toxic ends."""
    line.cut()
    line.calm()


def retries(caplog: pytest.LogCaptureFixture) -> int:
    return sum("retried" in record.getMessage() for record in caplog.records)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt is a log line."""
    caplog.set_level("INFO", "mlplatform.control.retry")


def break_bodies(world: World, site: Site, line: Line) -> None:
    """A connection ends in the middle of the second body that it carries or the one after, and
    every third is reset besides. A first body gets through."""
    world.settings = Settings(budget_bytes=32 * MIB, senders_per_target=1)
    line.add("limit_data", "upstream", bytes=(7 if site.scheme == "s3" else 2) * MIB + 300_000)
    line.add("reset_peer", "upstream", 0.3, timeout=30)


def test_connections_that_break_in_the_middle_of_bodies(
    world: World, site: Site, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish()
    world.regions["far"] = site.url(line.url)
    break_bodies(world, site, line)
    report = world.replicate()
    assert report.exit_code == 0, report
    assert retries(caplog) > 0
    world.require_whole("far")


def test_a_line_that_stalls_without_closing(
    world: World, site: Site, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of the transfer nothing comes or goes any more, and nothing is closed."""
    world.publish()
    world.regions["far"] = site.url(line.url)
    line.add("bandwidth", "upstream", rate=8_000)
    began = time.monotonic()
    with once_sending(
        world, lambda: line.add("timeout", "upstream", timeout=0), partial(calm, line), after=1.5
    ):
        report = world.replicate()
    assert report.exit_code == 0, report
    assert retries(caplog) > 0
    assert time.monotonic() - began < 60
    world.require_whole("far")


def test_a_stall_that_lasts(world: World, site: Site, line: Line) -> None:
    """Ends in bounded time with an error that says so; the next run goes on from what is there."""
    world.publish()
    world.regions["far"] = site.url(line.url)
    line.add("bandwidth", "upstream", rate=8_000)
    began = time.monotonic()
    with once_sending(world, lambda: line.add("timeout", "upstream", timeout=0), after=0):
        report = world.replicate(replicas=world.replicas(attempts=2))
    calm(line)
    assert time.monotonic() - began < 60
    (outcome,) = report.outcomes
    assert not outcome.ok
    assert outcome.error in ("Unavailable", "DeadlineExceeded")
    assert not world.is_visible("far")
    again = world.replicate()
    assert again.exit_code == 0
    world.require_whole("far")


def test_a_source_that_is_read_short(
    world: World, site: Site, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections end early, in the middle of what is read: read again, never taken for all."""
    world.publish()
    world.regions["far"] = site.url(line.url)
    assert world.replicate().exit_code == 0
    world.regions["near"] = f"file://{world.folder}/near"
    line.add("limit_data", bytes=int(2.5 * MIB))
    report = world.replicate("near", source="far")
    assert report.exit_code == 0, report
    assert retries(caplog) > 0
    world.require_whole("near")


def test_a_source_that_is_always_short(world: World, site: Site, line: Line) -> None:
    """No part ever comes whole: an error, nothing visible; and all is well when the line is."""
    world.publish()
    world.regions["far"] = site.url(line.url)
    assert world.replicate().exit_code == 0
    world.regions["near"] = f"file://{world.folder}/near"
    replicas = world.replicas(attempts=3)
    assert {check.verdict for check in world.check("far").values()} == {Verdict.GOOD}
    line.add("limit_data", bytes=600_000)
    report = world.replicate("near", source="far", replicas=replicas)
    (outcome,) = report.outcomes
    assert (outcome.ok, outcome.error) == (False, "Unavailable"), outcome
    assert not world.is_visible("near")
    (check,) = world.check("far", replicas=world.replicas(attempts=2)).values()
    assert check.verdict is Verdict.UNKNOWN
    calm(line)
    assert world.replicate("near", source="far").exit_code == 0
    world.require_whole("near")


def test_a_slow_target_holds_nobody_up(world: World, site: Site, line: Line) -> None:
    """The others are done, and visible, long before; it leaves the shared read when the buffers
    are full, and what that costs is told."""
    world.publish()
    world.settings = Settings(budget_bytes=6 * MIB, readers=2)
    # The proxy takes bodies sooner than the server gets them, and an answer takes that long.
    far = site.url(line.url, stall_seconds=10)
    world.regions |= {"far": far, "near": f"file://{world.folder}/near"}
    line.add("bandwidth", "upstream", rate=3_000 if site.scheme == "s3" else 700)
    seen: list[bool] = []
    world.told.on_done = lambda region: seen.append(world.is_visible("far"))
    report = world.replicate()
    assert report.exit_code == 0, report
    assert world.told.done_at["near"] < world.told.done_at["far"] - 1
    assert seen == [False, True]
    by_region = {action.region: action.key for action in report.plan.actions}
    measured = {outcome.action: outcome.measured for outcome in report.outcomes}
    reads = measured[by_region["near"]]["reads_per_source_byte"]
    assert 1.0 <= reads < 2.1
    assert measured[by_region["far"]]["own_reads"] == (reads > 1.0)
    calm(line)
    world.require_whole("far")
    world.require_whole("near")


def test_a_region_that_is_cut_off(world: World, site: Site, line: Line) -> None:
    """It is unknown, not absent; the others get theirs, and the next run does what is left."""
    world.publish()
    world.regions |= {"far": site.url(line.url), "near": f"file://{world.folder}/near"}
    line.cut()
    report = world.replicate(replicas=world.replicas(attempts=2))
    assert report.exit_code == 5
    assert [(hold.region, hold.unknown) for hold in report.plan.holds] == [("far", True)]
    assert [outcome.ok for outcome in report.outcomes] == [True]
    calm(line)
    rest = world.replicate()
    assert [action.region for action in rest.plan.actions] == ["far"]
    assert rest.exit_code == 0
    world.require_whole("far")
    assert world.told.sent == dict.fromkeys(("home", "near", "far"), world.size_bytes)


def test_a_target_that_is_cut_off_in_the_middle(world: World, site: Site, line: Line) -> None:
    """It fails alone; the next run sends it what is missing."""
    world.publish()
    world.regions |= {"far": site.url(line.url), "near": f"file://{world.folder}/near"}
    line.add("bandwidth", "upstream", rate=6_000)
    with once_sending(world, line.cut, after=0):
        report = world.replicate(replicas=world.replicas(attempts=2))
    calm(line)
    assert report.exit_code == 8, report
    assert not world.is_visible("far")
    world.require_whole("near")
    rest = world.replicate()
    assert [action.region for action in rest.plan.actions] == ["far"]
    assert rest.exit_code == 0
    assert rest.outcomes[0].measured["sent_bytes"] < world.size_bytes
    world.require_whole("far")


def test_publishing_over_a_line_that_breaks(world: World, site: Site, line: Line) -> None:
    """Into its home region directly."""
    world.regions["far"] = site.url(line.url)
    break_bodies(world, site, line)
    report = world.publish("far")
    assert report.exit_code == 0, report
    world.require_whole("far")
