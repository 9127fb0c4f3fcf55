"""What a report tells of rollouts that were carried out in memory and virtual time; and that its
page and its Markdown are safe to forward, whatever was typed."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.money import Basis, Cost, Item
from mlplatform.core.seen import Unknown
from mlplatform.rollout import operations
from mlplatform.rollout.records import Approval
from mlplatform.rollout.report import wording
from mlplatform.rollout.report.charts import powers
from mlplatform.rollout.report.content import Climb, Content, Hand, Measured
from mlplatform.rollout.report.making import make_content
from mlplatform.rollout.report.markdown import markdown
from mlplatform.rollout.report.page import page
from tests.features.rollout.rolling.world import POLICY, World
from tests.html_page import Read

KILOBYTES_300 = 300_000
NOW = datetime(2026, 11, 22, tzinfo=UTC)
BAD = {"v1": 0.002, "v2": 0.05}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><svg onload=alert(1)>",
    "| a | b |\n\n# heading",
    "![x](http://h.test/x) [y](javascript:z) `code` @everyone",
)


def told(world: World, **rest: Any) -> Content:
    """What is told of the newest rollout."""
    sites = world.sites()
    return make_content(sites, operations.newest(sites, "m"), NOW, **rest)


@pytest.fixture(scope="module")
def caught() -> Content:
    """A version that was returned."""
    world = World(errors=BAD)
    world.apply()
    return told(world)


def test_a_bad_version_how_soon_it_was_caught_and_on_what_evidence(caught: Content) -> None:
    content = caught
    assert (content.subject, content.state) == ("m@v2", "returned")
    soon = content.caught
    assert soon is not None
    assert soon.region == content.regions[0].region
    assert soon.seconds is not None
    assert 0 < soon.seconds < 600
    assert soon.left_seconds is not None
    assert soon.whole_seconds is not None
    assert 0 <= soon.left_seconds <= soon.whole_seconds
    first, *others = content.regions
    assert [each.state for each in content.regions] == ["returned", "not begun", "not begun"]
    assert all(not each.steps and each.not_begun for each in others)
    assert first.decision == "roll-back"
    (metric,) = first.metrics
    assert metric.log10_e is not None
    assert metric.log10_e_needed is not None
    assert metric.log10_e >= metric.log10_e_needed
    assert metric.climb[-1].log10_e == pytest.approx(metric.log10_e)
    assert [each.percent for each in first.weights][-1] == 0
    assert content.requests == metric.requests > 0
    assert content.failures == metric.failures > 0


def test_a_good_version_region_by_region_with_what_its_bake_counted() -> None:
    world = World()
    world.apply()
    content = told(world)
    assert (content.state, content.because, content.caught) == ("promoted", "", None)
    assert [(each.state, each.not_begun) for each in content.regions] == [("promoted", 0)] * 3
    assert list(content.waves) == [1, 2, 3]
    # Four servers, and room for one more beside them: weight follows capacity.
    for region in content.regions:
        assert [each.percent for each in region.weights] == [10, 25, 50, 75, 100]
        assert region.bake_requests is not None
        assert region.bake_requests > 0
        assert region.shares
        assert region.ended is not None
    compared = sum(metric.requests for r in content.regions for metric in r.metrics)
    baked = sum(region.bake_requests or 0 for region in content.regions)
    assert content.requests == compared + baked


def test_gpu_hours_are_the_plan_s_and_those_that_steps_took() -> None:
    """A server takes one L4. Beside the four there are one or two, for 120 s at each weight."""
    world = World()
    stored = world.plan()
    world.apply(plan=stored)
    content = told(world)
    planned = sum(used.amount for a in stored.plan.actions for used in a.consumes) / 3600
    assert content.planned_hours == {"L4": pytest.approx(planned)}
    assert content.taken_hours["L4"] >= planned


def test_by_whose_hand() -> None:
    world = World()
    stored = world.plan()
    sites = world.sites()
    sites.records.approve(stored.name, by="alice", verified="the cluster eu", reason="load test")
    world.apply(plan=stored)
    stream = operations.newest(sites, "m")
    for kind in (OrderKind.PROMOTE, OrderKind.ABORT, OrderKind.PAUSE):
        world.time.sleep(1)
        sites.orders.give(kind, stream.operation, reason=f"why {kind.value}")
    sites.orders.give(OrderKind.PROMOTE, "another", reason="not this one")
    assert [(hand.what, wording.who(hand), hand.reason) for hand in told(world).hands] == [
        ("approved its plan", "alice (verified by the cluster eu)", "load test"),
        ("began it", "one (unverified)", ""),
        ("promoted it by hand, without waiting for the verdict", "one (unverified)", "why promote"),
        ("ended it", "one (unverified)", "why abort"),
        ("paused it", "one (unverified)", "why pause"),
    ]


def test_what_was_not_kept_or_has_changed_since_is_told() -> None:
    world = World(errors=BAD)
    world.apply()
    assert not any("has changed since" in each for each in told(world).left_out)
    sites = world.sites()
    operation = operations.newest(sites, "m").operation
    region = told(world).regions[0].region
    sites.control.drop_observation(f"observations/windows/{operation}/{region}.json")
    other = World(policy={**POLICY, "verdict": {**POLICY["verdict"], "alpha": 0.01}})
    world.topology = other.topology
    content = told(world)
    assert any("has changed since" in each for each in content.left_out)
    assert f"No windows of {region} were kept, so nothing of them is drawn." in content.left_out
    # What was decided by is in the journal.
    (metric,) = content.regions[0].metrics
    assert (metric.climb, content.regions[0].decision) == ((), "roll-back")


def test_what_has_no_price_is_no_cost() -> None:
    world = World(errors=BAD)
    world.apply()
    cost = Cost((Item("x", Basis.ONCE, Unknown("gpu/L4 in us: no price")),))
    content = told(world, cost=cost)
    assert "list prices" not in wording.money(content)
    assert "Not in the cost: gpu/L4 in us: no price." in content.left_out


# --- the page and the Markdown ------------------------------------------------------------------


def test_every_chart_says_what_it_shows(caught: Content) -> None:
    read = Read(page(caught))
    charts = [attributes for name, attributes in read.elements if name == "svg"]
    assert len(charts) == 2
    assert all(each["role"] == "img" and each["aria-label"] for each in charts)
    assert "at most 10 %" in str(charts[0]["aria-label"])
    assert "needed" in str(charts[1]["aria-label"])


def test_nothing_is_fetched_and_nothing_runs(caught: Content) -> None:
    text = page(caught)
    assert not re.search(r"https?:|url\(|@import|<script|javascript:", text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert text.startswith("<!DOCTYPE html>")


def with_text(content: Content, text: str) -> Content:
    """The same, with a text that somebody typed wherever one may stand."""
    step = replace(content.regions[0].steps[0], detail=text)
    return replace(
        content,
        because=text,
        hands=(Hand(NOW, "ended it", text, text, text),),
        regions=(replace(content.regions[0], because=(text,), steps=(step,)),),
        left_out=(text,),
    )


def test_what_people_typed_is_text_on_the_page(caught: Content) -> None:
    for text in HOSTILE:
        read = Read(page(with_text(caught, text)))
        names = {name for name, _ in read.elements}
        assert not {"script", "img", "iframe", "object", "a", "link", "form"} & names
        assert not any(
            name.startswith("on") or name in {"src", "href"}
            for _, attributes in read.elements
            for name in attributes
        )
        assert read.open == []
        assert read.texts.count(text) == 5


def test_what_people_typed_has_no_meaning_in_markdown(caught: Content) -> None:
    plain = markdown(with_text(caught, "words"))
    for text in HOSTILE:
        written = markdown(with_text(caught, text))
        assert len(written.splitlines()) == len(plain.splitlines())
        assert not re.search(r"(?<!\\)<|(?<!\\)\[|(?<!\w)@\w", written)
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in written.splitlines()]
        assert bars == [len(re.findall(r"(?<!\\)\|", line)) for line in plain.splitlines()]


def test_a_large_rollout_makes_no_large_page(caught: Content) -> None:
    """100 regions of 60 steps, two metrics and 5,000 looks each, and long texts everywhere."""
    long = "x" * 4_000
    region = caught.regions[0]
    step = replace(region.steps[0], detail=long, does=long)
    climb = tuple(Climb(NOW + timedelta(seconds=each), each / 100) for each in range(5_000))
    shares = tuple(
        Measured(NOW + timedelta(seconds=each), NOW + timedelta(seconds=each + 1), 33.3)
        for each in range(5_000)
    )
    metric = replace(region.metrics[0], climb=climb, words=long)
    large = replace(
        region,
        steps=(step,) * 60,
        shares=shares,
        metrics=(metric, replace(metric, metric="latency")),
        because=(long,) * 3,
    )
    regions = tuple(
        replace(large, region=f"region-{number}", state="promoted") for number in range(99)
    )
    hands = (Hand(NOW, "paused it", long, long, long),) * 500
    content = replace(
        caught, because=long, hands=hands, regions=(*regions, large), left_out=(long,) * 20
    )
    text = page(content)
    assert len(text.encode()) < KILOBYTES_300
    assert f"<h2><bdi>{large.region}</bdi>" in text  # the one that was returned
    assert "88 more regions, promoted all of them" in text


@pytest.mark.parametrize(
    ("values", "needed", "low", "high"),
    [
        ((), None, 0, 1),
        ((), 1.78, 0, 2),
        ((0.4, 3.2), 1.78, 0, 4),
        ((-0.5, 0.4), 1.78, -1, 2),
        ((-40.0, 0.0), 1.78, -3, 2),
        ((23.0,), 2.0, 0, 25),
    ],
)
def test_an_axis_has_one_and_the_bar_in_it(
    values: tuple[float, ...], needed: float | None, low: int, high: int
) -> None:
    scale = powers([Climb(NOW, each) for each in values], needed)
    assert (int(scale.low), int(scale.high)) == (low, high)
    assert 0 in scale.ticks
    assert len(scale.ticks) <= 7


@pytest.mark.parametrize(
    ("values", "needed", "drawn"),
    [
        ((), 2.0, ""),
        ((0.0, 0.0), 2.0, "▁▁"),
        ((-5.0, 1.0, 1.999, 2.0, 9.0), 2.0, "▁▄▇██"),
        ((0.5, 1.0), None, "▄█"),
    ],
)
def test_a_full_block_has_reached_the_bar(
    values: tuple[float, ...], needed: float | None, drawn: str
) -> None:
    assert wording.spark(values, needed) == drawn


def test_a_long_climb_is_thinned_without_losing_its_peak_or_its_end() -> None:
    climb = [Climb(NOW, float(each == 501)) for each in range(1_000)]
    few = wording.thinned(climb, 40)
    assert len(few) <= 40
    assert max(each.log10_e for each in few) == 1.0
    assert few[-1] is climb[-1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "unknown"),
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (7_325, "2 h 2 min"),
    ],
)
def test_durations_for_people(seconds: float | None, words: str) -> None:
    assert wording.duration(seconds) == words


def test_an_approval_is_told_with_who_vouches_for_it() -> None:
    approval = Approval(plan="p", by="bob", verified="", at=NOW)
    assert wording.who(Hand(NOW, "", approval.by, approval.verified)) == "bob (unverified)"
