"""Nights that others have had: what the watch would have asked for, what is done, and why, in one
line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.decide import decide, propose_requests
from mlplatform.failover.decision.seen import Load, Mode, Recovery
from mlplatform.failover.verdict.judge import Health, Verdict

from .scene import DRILLED, NOW, World, held, past, shifts, weights_of, world

UNPLANNED, FAILBACK, DRILL = Mode.UNPLANNED, Mode.FAILBACK, Mode.DRILL


def watched(made: World) -> Plan:
    """What one round of the watch comes to."""
    plans = [
        decide(made.topology, made.seen, request, NOW)
        for request in propose_requests(made.topology, made.seen)
    ]
    return Plan(
        feature="failover",
        actions=tuple(action for plan in plans for action in plan.actions),
        holds=tuple(hold for plan in plans for hold in plan.holds),
    )


@dataclass(frozen=True)
class Night:
    """A world, the weights that follow (none: they stay), and the reason as it is given."""

    name: str
    made: World
    leads_to: dict[str, int] | None
    because: str


EVEN = {"us": 34, "eu": 33, "ap": 33}
BUSY: dict[str, Any] = {
    "wanted": EVEN,
    "load": dict.fromkeys(EVEN, Load(100, 150)),
    "standby": {region: {"servers": 9} for region in EVEN},
}
"""Three regions that serve a third each: 225 would move from one, each other has 260 free."""
COLD: dict[str, Any] = {"standby": {"eu": {"servers": 4}, "ap": {"servers": 4}}}
WEEK = 7 * 86_400

NIGHTS = [
    Night(
        "Facebook 2021: every site finds itself sick; none withdraws itself last",
        world(**BUSY, us="dead 200", eu="dead 210", ap="dead 205"),
        None,
        "us: panic: no candidate is positively healthy: eu is unhealthy, ap is unhealthy",
    ),
    Night(
        "Facebook 2021: two of three sites at once; the third is not to bear what felled them",
        world(**BUSY, us="dead 200", eu="dead 210"),
        None,
        "us: panic: eu and us turned sick within 120 s of each other",
    ),
    Night(
        "AWS 19 Oct 2025, 23:48: the record is empty, and the answer a success",
        world(us="dead", weights={}),
        None,
        "",  # the watch leaves nobody of whom it does not know what he has
    ),
    Night(
        "AWS 20 Oct 2025, 02:25: no launches are to be had; warm servers count, and no others",
        world(us="dead", **COLD),
        {"us": 10, "eu": 58, "ap": 32},
        "us: headroom: 40 of 50 points move, 10 stay: requests to it fail, for it serves nothing",
    ),
    Night(
        "AWS 20 Oct 2025, 02:40: the first green is no reason to go back",
        world(
            us="healthy 60",
            weights={"us": 0, "eu": 65, "ap": 35},
            recoveries=[past("us", ended=9000)],
        ),
        None,
        "",
    ),
    Night(
        "AWS 20 Oct 2025, 14:30: green for as long as it takes; back by one per cent first",
        world(
            us="healthy 1800",
            weights={"us": 0, "eu": 65, "ap": 35},
            load={"us": Load(0, 200), "eu": Load(150, 160), "ap": Load(70, 80)},
            recoveries=[past("us", ended=40_000)],
        ),
        {"us": 1, "eu": 65, "ap": 34},
        "us 0 → 1, ap 35 → 34; back to the topology's weights, 1 %",
    ),
    Night(
        "GitHub 21 Oct 2018: a partition of 43 s makes suspects, and no failover",
        world(us="suspect"),
        None,
        "",
    ),
    Night(
        "GitHub 21 Oct 2018: and where it lasts, not to where the data are behind",
        world(us="dead 90", safety={"lag_seconds": 10}, lag={"eu": 1200.0, "ap": 2400.0}),
        None,
        "eu: lag: its data is 1200 s behind, 10 s at most",
    ),
    Night(
        "GCP 12 Jun 2025: all regions within seconds; nothing is shuffled between them",
        world(**BUSY, us="sick 30", eu="sick 31", ap="suspect"),
        None,
        "us: panic: no candidate is positively healthy: eu is unhealthy, ap is suspect",
    ),
    Night(
        "AWS Dec 2021: monitoring is lost, and with it what can be known of anybody",
        world(us="unknown", eu="unknown", ap="unknown"),
        None,
        "",
    ),
    Night(
        "an API lists no servers, with 200",
        world(us="dead", standby={"eu": {"version": None, "servers": 0}, "ap": Unknown("timeout")}),
        None,
        "eu: version: m: no server there holds it",
    ),
    Night(
        "Azure Front Door 29 Oct 2025: the edge is ill, the regions are well; nothing is moved",
        world(),
        None,
        "",
    ),
    Night(
        "a cooldown ends while a recovery is open: a further fault amends it, and is no second one",
        world(
            us="dead",
            safety={"moved_per_window": 1.0},
            recoveries=[past("ap", ended=700), past("eu", ended=None, began=650, moved=0)],
        ),
        {"eu": 65, "ap": 35},
        "amends op-eu",
    ),
    Night(
        "the target fails in the middle of the failover: on to the next, in the same operation",
        world(
            wanted={"us": 40, "eu": 0, "ap": 60},
            weights={"us": 0, "eu": 40, "ap": 60},
            us="dead 400",
            eu="dead 30",
            load={"us": Load(0, 160), "eu": Load(20, 90), "ap": Load(200, 220)},
            standby={"ap": {"servers": 20}},
            safety={"moved_per_window": 1.0},
            recoveries=[past("us", ended=None, began=360, moved=40, targets=("eu",))],
        ),
        {"ap": 100},
        "amends op-us",
    ),
    Night(
        "the target fails in the middle of the failover, at once: it may be the traffic that kills",
        world(
            weights={"us": 0, "eu": 50, "ap": 50},
            us="dead 80",
            ap="dead 30",
            recoveries=[past("us", ended=None, began=40, targets=("ap",))],
        ),
        None,
        "ap: panic: ap and us turned sick within 120 s of each other",
    ),
    Night(
        "a cascade: the third region within the hour is a person's to decide on",
        world(
            wanted={"us": 25, "eu": 25, "ap": 25, "sa": 25},
            weights={"us": 0, "eu": 0, "ap": 50, "sa": 50},
            ap="dead 20",
            us="dead 3000",
            eu="dead 1500",
            load=dict.fromkeys(("us", "eu", "ap", "sa"), Load(100, 120)),
            standby={"sa": {"servers": 40}},
            recoveries=[
                past("us", ended=2900, moved=25),
                past("eu", ended=1000, moved=33),
            ],
        ),
        None,
        "ap: cap: 50 points from ap would make 108 within 3600 s, beside those from eu, us",
    ),
    Night(
        "one target has the old model: the other takes what there is room for",
        world(us="dead", standby={"eu": {"version": "v0"}, "ap": {"servers": 12}}),
        {"eu": 50, "ap": 50},
        "eu: version: m: its servers hold v0, allowed there is v1",
    ),
    Night(
        "no target has room: servers are asked for, and nothing is moved on their account",
        world(us="dead", standby={"eu": {"servers": 3}, "ap": {"servers": 0}}),
        None,
        "us: headroom: all 50 points stay: there is no room for them; servers asked for: ",
    ),
    Night(
        "the target is in the middle of a canary: that first",
        world(us="dead", eu="suspect", standby={"ap": {"servers": 12, "canary": "v2"}}),
        None,
        "ap: canary: m: v2 is on trial there: its share goes to 0 first, the last good stays",
    ),
    Night(
        "both regions are sick",
        world(wanted={"us": 50, "eu": 50}, us="dead 60", eu="sick 4000"),
        None,
        "us: panic: no candidate is positively healthy: eu is unhealthy",
    ),
    Night(
        "a dead region's load reads 0: its peak before the fault is what moves",
        world(us="dead", load={"us": Load(0, 200)}),
        {"eu": 65, "ap": 35},
        "300 needed (peak 200 × 1.5)",
    ),
    Night(
        "a dead region's load reads 0 and so does its peak: nobody knows what would move",
        world(us="dead", load={"us": Load(0, 0)}),
        None,
        "eu?: headroom: the load of us reads 0 while it is ill, which says nothing of its clients",
    ),
    Night(
        "k8gb #1705: three clusters, one dead, one suspect: to the one that is positively well",
        world(**{**BUSY, "standby": {"eu": {"servers": 20}}}, us="dead", ap="suspect"),
        {"eu": 67, "ap": 33},
        "ap: verdict: ap is suspect: 1 of 3 domains sees it down",
    ),
    Night(
        "karmada #5803: nowhere to go is no reason to leave",
        world(wanted={"us": 100}, us="dead"),
        None,
        "us: one-region: us is the only region of the route, and some serves",
    ),
    Night(
        "karmada #6951: failover believed on: no drill in a month, and it says so",
        world(us="dead", drilled=False, recoveries=[replace(DRILLED, ended_seconds_ago=5 * WEEK)]),
        None,
        "us: drilled: a route acts by itself after a drill passed within 30 days, and the last",
    ),
    Night(
        "weights were changed by hand behind our back: shown, and not overwritten",
        world(us="dead", written={"us": 0, "eu": 100, "ap": 0}),
        None,
        "us: weights-changed-by-hand: us 50, eu 50, ap 0 now, us 0, eu 100, ap 0 as we wrote it",
    ),
    Night(
        "a deposed controller wakes up",
        world(us="dead", epoch=2, state={"epoch": 3, "writer": "ctl-b"}),
        None,
        "us: fence: written under epoch 3 by ctl-b, ours is 2: a newer controller acts",
    ),
]


@pytest.mark.parametrize("night", NIGHTS, ids=[night.name for night in NIGHTS])
def test_a_night(night: Night) -> None:
    plan = watched(night.made)
    said = held(plan)
    for shift in shifts(plan):
        said += [shift.reason, f"amends {shift.figures['amends']}"]
        said += [(shift.figures["demand"] or {}).get("said", "")]
    first = weights_of(plan)[:1]
    assert first == ([night.leads_to] if night.leads_to is not None else []), said
    if night.because:
        assert any(line.startswith(night.because) for line in said), said
    else:
        assert not plan.actions
        assert not plan.holds


# --- 24 hours of flapping ------------------------------------------------------------------------

ROUND_SECONDS = 10
DAY_SECONDS = 86_400


@dataclass
class Clockwork:
    """A day with a region that comes and goes, the watch looking at it every ten seconds. What it
    decides is in force at once, and a step has held as long as it is to before the next begins."""

    sick: Callable[[int], bool]
    """Whether us is, at that second."""
    at: int = 0
    weights: dict[str, int] = field(default_factory=lambda: {"us": 50, "eu": 50, "ap": 0})
    turned: int = 0
    """When us last turned from one into the other."""
    was: bool = False
    recoveries: list[tuple[Recovery, int, int | None]] = field(default_factory=list)
    """With when it began and ended."""
    switches: list[tuple[int, str, dict[str, int]]] = field(default_factory=list)

    def verdict(self) -> Verdict:
        """Three rounds to fall, five to rise; suspect or unwell in between."""
        now = self.sick(self.at)
        if now is not self.was:
            self.was, self.turned = now, self.at
        since = self.at - self.turned
        if now and since >= 3 * ROUND_SECONDS:
            return Verdict("us", Health.UNHEALTHY, sick_seconds=since, serves_nothing=True)
        if now or (self.turned and since < 5 * ROUND_SECONDS):
            return Verdict("us", Health.SUSPECT)
        return Verdict("us", Health.HEALTHY, well_seconds=float(since if self.turned else 90_000))

    def seen(self) -> World:
        load = {"us": Load(0, 200), "eu": Load(150, 160), "ap": Load(70, 80)}
        made = world(weights=self.weights, load=load, standby={"ap": {"servers": 12}})
        made = replace(
            made,
            seen=replace(made.seen, verdicts={**made.seen.verdicts, "us": self.verdict()}),
        )
        done = tuple(
            replace(
                recovery,
                began_seconds_ago=self.at - began,
                ended_seconds_ago=None if ended is None else self.at - ended,
            )
            for recovery, began, ended in self.recoveries
        )
        return made.but(recoveries=(DRILLED, *done), written=dict(self.weights))

    def one_round(self) -> None:
        made = self.seen()
        for request in propose_requests(made.topology, made.seen):
            plan = decide(made.topology, made.seen, request, NOW)
            if shifts(plan):
                self.carry_out(request.mode, request.source, plan)
                return

    def carry_out(self, mode: Mode, source: str | None, plan: Plan) -> None:
        began, before = self.at, dict(self.weights)
        targets: tuple[str, ...] = ()
        for step in self.follow(plan, mode, source):
            if not targets:
                now = step["after"]
                targets = tuple(r for r in now if now[r] > before[r])
            self.switches.append((self.at, mode.value, dict(step["after"])))
            self.weights = dict(step["after"])
            gained = sum(max(0, self.weights[r] - before[r]) for r in targets)
            lost = before[source] - self.weights[source] if source else gained
            recovery = Recovery("op", mode, source, 0, None, targets, max(0, lost), passed=True)
            self.recoveries = [r for r in self.recoveries if r[2] is not None]
            self.recoveries.append((recovery, began, None))
            self.at += int(step.get("hold_seconds", 0)) or ROUND_SECONDS
        recovery, began, _ = self.recoveries.pop()
        self.recoveries.append((recovery, began, self.at))

    def follow(self, plan: Plan, mode: Mode, source: str | None) -> Iterator[dict[str, Any]]:
        """Each step, decided anew before it, as the loop does."""
        while steps := [a for a in plan.actions if a.kind == "shift"]:
            settle = next(a for a in plan.actions if a.kind == "settle")
            hold_seconds = settle.parameters["hold_seconds"]
            yield {**steps[0].parameters, "hold_seconds": hold_seconds}
            made = self.seen()
            targets = ("us",) if mode is FAILBACK else ()
            plan = made.ask(mode, source, *targets, automatic=True)


@pytest.mark.parametrize(
    ("why", "sick", "failovers"),
    [
        ("it is well all day", lambda at: False, 0),
        ("blips of 20 s every two minutes", lambda at: at % 120 < 20, 0),
        ("a minute every five", lambda at: at >= 60 and at % 300 < 60, 1),
        ("five minutes every hour", lambda at: at >= 60 and at % 3600 < 300, 2),
        ("ten minutes every three hours", lambda at: at >= 60 and at % 10_800 < 600, 4),
        ("an hour every two", lambda at: at >= 60 and at % 7200 < 3600, 2),
        ("dead from noon on", lambda at: at >= 43_200, 1),
    ],
)
def test_a_day_of_flapping(why: str, sick: Callable[[int], bool], failovers: int) -> None:
    """Each relapse doubles the hold-off, so that a day has few switches, and none is useless."""
    day = Clockwork(sick)
    while day.at < DAY_SECONDS:
        day.one_round()
        day.at += ROUND_SECONDS
    left = [switch for switch in day.switches if switch[1] == "unplanned"]
    assert len(left) == failovers, [(at, mode) for at, mode, _ in day.switches]
    at_once = [
        sum(1 for at, _, _ in left if begin <= at < begin + 3600)
        for begin in range(0, DAY_SECONDS, 600)
    ]
    assert max(at_once) <= 1  # the cap: half of all capacity is taken out once an hour at most
    for (_, _, one), (_, _, other) in zip(day.switches, day.switches[1:], strict=False):
        assert one != other  # none is useless
    assert DRILL.value not in {mode for _, mode, _ in day.switches}
