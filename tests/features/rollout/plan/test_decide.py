"""From a world to a plan: waves, what is refused and why, and what a plan rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Plan, Severity
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.rollout.plan.decide import check_request, decide
from mlplatform.rollout.plan.policy import policy_of
from mlplatform.rollout.plan.room import gpus_free
from mlplatform.rollout.plan.seen import Copy, RegionStands, Request, Rule, Standing
from mlplatform.rollout.verdict.policy import Metric, Policy, Thresholds
from tests.features.rollout.plan.world import (
    DECLARED,
    NOW,
    ONE,
    REGIONS,
    SUBJECT,
    TWO,
    WANTED,
    WEIGHTS,
    eu,
    planned,
    seen,
    topology,
    well,
)

LOADS = topology(model={"load_seconds": 40})


def waves(of: Topology, **changed: Any) -> list[list[str]]:
    """Regions by wave, in the order in which they are acted on."""
    plan = planned(of=of, **changed)
    assert not plan.holds
    found: dict[int, list[str]] = {}
    for action in plan.actions:
        regions = found.setdefault(action.parameters["wave"], [])
        if action.region not in regions and action.kind != "approve":
            regions.append(action.region)
    return [found[number] for number in sorted(found)]


# ----------------------------------------------------------------------------------------- waves

ALONE = {"spare_region": False}
WAVES: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    "the least of the world's traffic first": ({}, [["ap"], ["eu"], ["us"]]),
    "as the file says, and the rest after it": ({"order": ["us"]}, [["us"], ["ap"], ["eu"]]),
    "two together": (
        {"order": ["ap", ["eu", "us"]], "concurrency": 2, **ALONE},
        [["ap"], ["eu", "us"]],
    ),
    "never more together than the concurrency": (
        {"order": [["ap", "eu", "us"]], "concurrency": 2, **ALONE},
        [["ap", "eu"], ["us"]],
    ),
    "all at once": ({"concurrency": 3, **ALONE}, [["ap", "eu", "us"]]),
}


@pytest.mark.parametrize(("policy", "expected"), WAVES.values(), ids=WAVES)
def test_the_order_of_regions(policy: dict[str, Any], expected: list[list[str]]) -> None:
    assert waves(topology({"waves": policy}, model={"load_seconds": 40})) == expected


def test_a_region_that_has_it_already_is_left_alone() -> None:
    done = replace(well(), served=Served(versions={"v2": TWO}, servers=4))
    plan = planned({"us": done}, of=LOADS)
    assert {action.region for action in plan.actions} == {"eu", "ap"}
    assert planned(dict.fromkeys(REGIONS, done), of=LOADS).noop


APPROVALS = {"none": [], "first": [1], "every": [1, 2, 3]}


@pytest.mark.parametrize(("approval", "numbers"), APPROVALS.items(), ids=APPROVALS)
def test_somebody_says_yes_before_a_wave(approval: str, numbers: list[int]) -> None:
    policy = {"approval": approval} | ({"approvers": "alice@test"} if numbers else {})
    plan = planned(of=topology({"waves": policy}, model={"load_seconds": 40}))
    asked = [action for action in plan.actions if action.kind == "approve"]
    assert [action.parameters["wave"] for action in asked] == numbers
    assert all(action.parameters["approvers"] == ["alice@test"] for action in asked)
    for action in asked:
        wave = [a for a in plan.actions if a.parameters["wave"] == action.parameters["wave"]]
        assert wave[0] is action


# -------------------------------------------------------------------------------------- refused


def served(**versions: str) -> Served:
    return Served(versions=versions, servers=4)


def closed(rule: Rule, reason: str) -> Mapping[str, RegionStands]:
    return eu(standing=Standing(closed={rule: reason}, load=100.0))


def stored(v1: Copy | Unknown | None = None, v2: Copy | Unknown | None = None) -> dict[str, Any]:
    good = {"v1": Copy(ONE, verified=True), "v2": Copy(TWO, verified=True)}
    return {"copies": good | {k: c for k, c in (("v1", v1), ("v2", v2)) if c is not None}}


REFUSED: dict[str, tuple[Mapping[str, RegionStands], str]] = {
    "not stored": (
        eu(**stored(v2=Copy())),
        "not-stored: m@v2 is not in the store of eu; mlplatform replicate m@v2 --to eu",
    ),
    "stored, and found wrong": (
        eu(**stored(v2=Copy(TWO, detail="weights.bin: 3 of 9 blocks differ"))),
        (
            "not-verified: weights.bin: 3 of 9 blocks differ; mlplatform verify m@v2 --deep, then "
            "mlplatform replicate m@v2 --to eu"
        ),
    ),
    "other bytes under the name": (
        eu(**stored(v2=Copy("blake3:evil", verified=True))),
        (
            "other-bytes: eu holds blake3:evil under that name, published was blake3:two; "
            "remove the wrong copy by hand, or publish under a new version"
        ),
    ),
    "a store that does not answer": (
        eu(**stored(v2=Unknown("eu: no answer within 30 s"))),
        "unknown: not-stored: eu: no answer within 30 s; see to its store, then plan again",
    ),
    "servers that do not answer": (
        eu(served=Unknown("http://eu.test: connection refused")),
        (
            "unknown: nothing-serves: http://eu.test: connection refused; see to its "
            "servers, then plan "
            "again"
        ),
    ),
    "no server": (
        eu(served=Served()),
        (
            "nothing-serves: no server of eu holds m: there is nothing to compare with or go "
            "back to; "
            "set rollout.models.m.first_servers, start servers there by hand, or leave the "
            "region out with --region"
        ),
    ),
    "a rollout that is open": (
        eu(served=replace(served(v1=ONE, v3="blake3:three"), canary="v3")),
        (
            "rollout-open: servers of eu hold v1, v3, v3 on trial; let that rollout end, so "
            "that one "
            "version serves"
        ),
    ),
    "two versions, and nobody says why": (
        eu(served=served(v1=ONE, v2=TWO)),
        "rollout-open: servers of eu hold v1, v2; let that rollout end, so that one version serves",
    ),
    "it serves, but as other bytes": (
        eu(served=served(v2="blake3:evil")),
        (
            "other-bytes: servers of eu hold m@v2 already, as blake3:evil; in its store is "
            "blake3:two; "
            "find out what they loaded before anything else"
        ),
    ),
    "what serves was never verified there": (
        eu(**stored(v1=Copy(ONE))),
        (
            "no-last-good: v1, which serves in eu, is not stored and verified there; "
            "mlplatform replicate m@v1 --to eu"
        ),
    ),
    "what serves is something else than what is stored": (
        eu(served=served(v1="blake3:evil")),
        (
            "no-last-good: servers of eu hold blake3:evil as v1, verified there is blake3:one; "
            "find out what they loaded before anything else"
        ),
    ),
    "servers that do not state their bytes": (
        eu(served=served(v1="")),
        (
            "no-last-good: servers of eu do not state which bytes of v1 they hold; serve it "
            "with a server "
            "that states its digest"
        ),
    ),
    "a region that failover moves traffic to": (
        closed(Rule.FAILOVER_TARGET, "20260101T000000Z-failover-1 brings it what us had"),
        (
            "failover-target: 20260101T000000Z-failover-1 brings it what us had; what was "
            "ordered or begun "
            "has to end first: mlplatform failover status"
        ),
    ),
    "a region that is being left": (
        closed(Rule.UNDER_FAILOVER, "api: it has 0 %, and is to have 30"),
        (
            "under-failover: api: it has 0 %, and is to have 30; what was ordered or begun "
            "has to end "
            "first: mlplatform failover status"
        ),
    ),
    "servers that send clients away": (
        closed(Rule.DRAINED, "by 20260101T000000Z-failover-1"),
        "drained: by 20260101T000000Z-failover-1; mlplatform failover undrain eu",
    ),
    "a region that is worked on": (
        closed(Rule.MAINTENANCE, "new disks"),
        "maintenance: new disks; mlplatform failover maintain eu --end, when it is over",
    ),
    "a region that is ill": (
        closed(Rule.UNHEALTHY, "3 of 3 vantages see it down"),
        "unhealthy: 3 of 3 vantages see it down; mlplatform failover explain eu",
    ),
    "nobody knows how failover stands": (
        eu(standing=Unknown("the control stores do not answer")),
        (
            "unknown: under-failover: nobody knows whether eu is under failover: the control "
            "stores do not "
            "answer; mlplatform failover status"
        ),
    ),
    "no room": (
        eu(gpus_free={"L4": 0}),
        (
            "room: 1 L4 are needed, 0 are free in eu; surge_servers: 0 lets old servers go "
            "first; or free "
            "them"
        ),
    ),
    "nobody knows how much room": (
        eu(gpus_free={"L4": Unknown("regions.eu.gpus does not say how many there are")}),
        (
            "unknown: room: regions.eu.gpus does not say how many there are; set regions.eu.gpus: "
            "{L4: N}"
        ),
    ),
}


def told(regions: Mapping[str, RegionStands], of: Topology = LOADS, **changed: Any) -> list[str]:
    plan = planned(regions, of=of, **changed)
    assert plan.noop or not plan.holds
    return [
        f"{'unknown: ' if hold.unknown else ''}{hold.reason}"
        for hold in plan.holds
        if hold.region == "eu" and not hold.reason.startswith(Rule.SPARE_REGION.value)
    ]


@pytest.mark.parametrize(("regions", "said"), REFUSED.values(), ids=REFUSED)
def test_nothing_begins_while_a_region_is_held(
    regions: Mapping[str, RegionStands], said: str
) -> None:
    assert told(regions) == [said]


def test_what_is_held_in_one_region_may_be_left_out() -> None:
    regions = eu(**stored(v2=Copy()))
    plan = planned(regions, of=LOADS, request=Request(SUBJECT, ("us", "ap")))
    assert {action.region for action in plan.actions} == {"us", "ap"}


def test_everywhere() -> None:
    locked = planned(of=LOADS, locked="an audit")
    assert [hold.region for hold in locked.holds] == ["us", "eu", "ap"]
    assert locked.holds[0].reason.startswith("locked: everything is locked: an audit; mlplatform")
    withdrawn = planned(of=LOADS, withdrawn="it leaks memory")
    assert {hold.reason for hold in withdrawn.holds} == {
        "withdrawn: m@v2: it leaks memory; roll out another version"
    }


STRATEGIES: dict[str, tuple[dict[str, Any], Mapping[str, RegionStands], list[str]]] = {
    # the model's own words, the world, what is said of eu
    "blue/green that fits": (
        {"strategy": {"kind": "blue_green"}},
        {r: replace(well(), gpus_free={"L4": 4}) for r in REGIONS},
        [],
    ),
    "blue/green without room": (
        {"strategy": {"kind": "blue_green"}},
        {r: replace(well(), gpus_free={"L4": 4 if r != "eu" else 3}) for r in REGIONS},
        [
            (
                "room: 4 L4 are needed, 3 are free in eu; kind: canary takes only "
                "surge_servers, in_place "
                "none; or free them"
            )
        ],
    ),
    "nobody has said where weights lie": (
        {"actuators": {"us": "caddy://us:2019/m", "ap": "caddy://ap:2019/m"}, "load_seconds": 40},
        {},
        [
            (
                "no-route: nothing says where the weights between versions of m lie in eu; set "
                "rollout.models.m.actuators.eu"
            )
        ],
    ),
    "in place needs no room": (
        {"strategy": {"kind": "in_place"}, "load_seconds": 40},
        {r: replace(well(), gpus_free={"L4": 0}) for r in REGIONS},
        [],
    ),
    "in place, and nobody has said where weights lie": (
        {
            "regions": {"eu": {"kind": "in_place"}},
            "actuators": {"us": "caddy://us:2019/m", "ap": "caddy://ap:2019/m"},
            "load_seconds": 40,
        },
        {},
        [
            (
                "no-route: nothing says where the weights between versions of m lie in eu; set "
                "rollout.models.m.actuators.eu"
            )
        ],
    ),
    "old servers first, and the load needs all of them": (
        {"regions": {"eu": {"surge_servers": 0}}, "load_seconds": 40},
        eu(standing=Standing(load=350.0)),
        [
            (
                "capacity: 4 serve in eu, and its load needs 4: none can go first; start one "
                "more there, give it surge_servers and room for them, or hand_over: true, so that "
                "other regions bear a part meanwhile"
            )
        ],
    ),
    "old servers first, and nobody knows the load": (
        {"regions": {"eu": {"kind": "in_place"}}, "load_seconds": 40},
        eu(standing=Standing(load=Unknown("api: no sample"))),
        [
            (
                "unknown: capacity: old servers go first, and whether the others bear the "
                "load is not "
                "known: api: no sample; set traffic.capacity.eu.m; set "
                "traffic.routes.api.peak where no "
                "load is measured"
            )
        ],
    ),
    "old servers first, and there is one": (
        {"regions": {"eu": {"kind": "in_place"}}, "load_seconds": 40},
        eu(served=Served(versions={"v1": ONE}, servers=1), standing=Standing(load=0.0)),
        [
            (
                "floor: 1 serve in eu, and one less is below the floor of 50 %; start one "
                "more there, or "
                "give it surge_servers, or lower rollout.undo.floor_percent"
            )
        ],
    ),
    "a canary in the place of the only server": (
        {"regions": {"eu": {"surge_servers": 0}}, "load_seconds": 40},
        eu(served=Served(versions={"v1": ONE}, servers=1), standing=Standing(load=0.0)),
        [
            (
                "floor: one server serves in eu: without it there is nothing to compare "
                "with; start one "
                "more there, or give it surge_servers, or kind: in_place"
            )
        ],
    ),
    "nobody has measured a load, and old servers go early": (
        {},
        {},
        [
            (
                "unknown: undo-time: servers of v1 go before it is sure that nobody goes "
                "back, and nobody "
                "knows how long one takes to load; measure it, and set "
                "rollout.models.m.load_seconds"
            )
        ],
    ),
    "nobody has measured a load, and none has to be": (
        {"strategy": {"surge_servers": 4}},
        {r: replace(well(), gpus_free={"L4": 4}) for r in REGIONS},
        [],
    ),
    "a model that takes long to load": (
        {"load_seconds": 400},
        {},
        [
            (
                "undo-time: to bring v1 back in eu would take 1200 s, 900 s are allowed; more "
                "surge_servers leave more of it running; or raise rollout.undo.within_seconds"
            )
        ],
    ),
}


@pytest.mark.parametrize(("model", "regions", "said"), STRATEGIES.values(), ids=STRATEGIES)
def test_what_a_strategy_asks_of_a_region(
    model: dict[str, Any], regions: Mapping[str, RegionStands], said: list[str]
) -> None:
    assert told(regions, topology(model=model)) == said


# ------------------------------------------------------------------------ a part is handed over

CAPACITY = {r: {"m": {"requests_per_second": 100, **DECLARED}} for r in REGIONS}


def loads(us: float, eu: float, ap: float) -> dict[str, RegionStands]:
    return {name: well(load) for name, load in zip(REGIONS, (us, eu, ap), strict=True)}


HANDS_OVER = {"surge_servers": 0, "hand_over": True}


def handing(
    eu: float, us: float = 100.0, ap: float = 100.0, declared: str = "v2", **traffic: Any
) -> Plan:
    """What is planned where eu, with 30 points of the route and four servers of 100 req/s, has such
    a peak."""
    route = {"actuator": "caddy://w:2019/api", "models": "m", "weights": WEIGHTS}
    world = {"routes": {"api": route}, "capacity": CAPACITY, **traffic}
    model = {"regions": {"eu": HANDS_OVER}, "strategy": {"surge_servers": 2}, "load_seconds": 40}
    policy = {"waves": {"concurrency": 3, "order": [["us", "eu", "ap"]], "spare_region": False}}
    models = {"m": {**WANTED["m"], "version": declared}}
    of = topology(policy, model=model, traffic=world, models=models)
    return planned({**loads(us, eu, ap), "eu": well(eu)}, of=of)


@pytest.mark.parametrize(
    ("peak", "keeps"),
    [
        (300.0, None),  # three servers bear it: one can go as it is
        (310.0, 29),
        (350.0, 25),
        (400.0, 22),
        (600.0, 15),  # more than four bear: half of it leaves three with as much as they can
    ],
)
def test_a_region_hands_over_what_lets_one_server_go(peak: float, keeps: int | None) -> None:
    plan = handing(peak)
    assert not plan.holds
    steps = {a.key.rpartition("/")[2]: a for a in plan.actions if a.region == "eu"}
    if keeps is None:
        assert not {"hand-over", "take-back"} & steps.keys()
        return
    assert list(steps)[:3] == ["preflight", "pin", "hand-over"]
    assert list(steps)[-1] == "take-back"
    assert all(action.figures["keeps"] == {"api": keeps} for action in steps.values())
    assert f"leave eu {keeps} points of route api" in steps["hand-over"].reason
    assert steps["hand-over"].parameters["touches"] == "the weights between regions of route api"
    assert steps["pin"].parameters["at_once"] == 1
    assert not any("keeps" in a.figures for a in plan.actions if a.region != "eu")


def test_who_hands_over_is_alone_in_its_wave() -> None:
    """What it hands over makes the others targets of a failover."""
    waves = {a.region: a.parameters["wave"] for a in handing(350.0).actions}
    assert waves == {"us": 1, "eu": 2, "ap": 3}


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (
            {"eu": 400.0, "us": 380.0, "ap": 360.0},
            (
                "capacity: eu would hand 160 req/s to others so that one server is spared, 60 are "
                "free; start one more server there, or in another region"
            ),
        ),
        (
            {
                "eu": 400.0,
                "us": 380.0,
                "capacity": {name: CAPACITY[name] for name in ("us", "eu")},
            },
            (
                "unknown: capacity: eu would hand 160 req/s to others so that one server is "
                "spared, 20 are free, and of ap nobody knows: nobody has measured or declared what "
                "a server of m can do there; set traffic.capacity.ap.m"
            ),
        ),
        (
            {
                "eu": 400.0,
                "routes": {
                    "api": {
                        "actuator": "caddy://w:2019/api",
                        "models": "m",
                        "weights": {"us": 99, "eu": 1, "ap": 0},
                    }
                },
            },
            (
                "capacity: eu has 1 points of route api, and no part of them can be handed over so "
                "that one server is spared; start one more there, or leave it: mlplatform failover "
                "run --from eu --planned"
            ),
        ),
    ],
)
def test_what_cannot_be_handed_over(of: dict[str, Any], said: str) -> None:
    holds = handing(**of).holds
    told_ = [f"{'unknown: ' if h.unknown else ''}{h.reason}" for h in holds if h.region == "eu"]
    assert told_[0] == said


def test_a_share_goes_only_where_failover_brings_it_back_to_the_version() -> None:
    holds = handing(350.0, declared="v1").holds
    assert [hold.reason for hold in holds if hold.region == "eu"][:1] == [
        (
            "capacity: eu would hand a part of its share to others, and failover brings back "
            "nothing to v2 while the topology wants v1; set models.m.version: v2"
        )
    ]


def test_what_others_bear_for_it_they_have_not_to_spare() -> None:
    """While eu changes, ap could take over the 99 req/s of us, times the retry factor, and not
    what us bears for eu as well."""
    route = {"actuator": "caddy://w:2019/api", "models": "m", "weights": WEIGHTS}
    world = {"routes": {"api": route}, "capacity": CAPACITY}
    changed = replace(seen(loads(99.0, 400.0, 99.0)), request=Request(SUBJECT, ("eu",)))

    def held(strategy: dict[str, Any]) -> list[str]:
        model = {"regions": {"eu": strategy}, "load_seconds": 40}
        plan = decide(topology(model=model, traffic=world, models=WANTED), changed, NOW)
        return [hold.reason.partition(";")[0] for hold in plan.holds]

    assert not held({})
    assert held(HANDS_OVER) == [
        "spare-region: while eu change, ap could not take over us: 308 req/s needed, 301 free"
    ]


# --------------------------------------------------------------------------------- one to spare

SPARE: dict[str, tuple[Mapping[str, RegionStands], dict[str, Any], dict[str, Any], str | None]] = {
    # what each region bears (of 400), waves, the rest of the file, what is said of eu
    "the other bears what is lost": (loads(100, 100, 100), {}, {}, None),
    "clients ask again, and then it does not": (
        loads(180, 180, 180),
        {},
        {},
        "spare-region: while eu change, ap could not take over us: 270 req/s needed, 220 free",
    ),
    "it does not": (
        loads(200, 100, 150),
        {},
        {},
        (
            "spare-region: while eu change, ap could not take over us: 300 req/s needed, 250 free; "
            "lower rollout.waves.concurrency, or start more servers there"
        ),
    ),
    "nobody would be left": (
        loads(100, 100, 100),
        {"concurrency": 2, "order": [["us", "eu"], "ap"]},
        {},
        (
            "spare-region: while us and eu change, nobody could take over ap; set "
            "rollout.waves.spare_region: false if that is accepted, or let another region stand by"
        ),
    ),
    "that is accepted": (
        loads(200, 200, 200),
        {"spare_region": False, "concurrency": 2, "order": [["us", "eu"], "ap"]},
        {},
        None,
    ),
    "nobody knows what the other can do": (
        loads(100, 100, 100),
        {},
        {"capacity": {name: CAPACITY[name] for name in ("us", "eu")}},
        (
            "unknown: spare-region: whether ap could take over us is not known: nobody has "
            "measured or "
            "declared what a server of m can do there; set traffic.capacity.ap.m"
        ),
    ),
    "what was declared has expired": (
        loads(100, 100, 100),
        {},
        {
            "capacity": CAPACITY
            | {
                "ap": {
                    "m": {
                        "requests_per_second": 100,
                        "measured_on": "2026-01-01",
                        "expires_on": "2026-11-20",
                    }
                }
            }
        },
        (
            "unknown: spare-region: whether ap could take over us is not known: what was "
            "declared on "
            "2026-01-01 has expired; set traffic.capacity.ap.m"
        ),
    ),
    "no route carries it: nobody is there for another": (
        loads(100, 100, 100),
        {},
        {"routes": {}, "capacity": {}},
        None,
    ),
}


@pytest.mark.parametrize(("regions", "policy", "traffic", "said"), SPARE.values(), ids=SPARE)
def test_a_region_can_be_lost_at_every_moment(
    regions: Mapping[str, RegionStands],
    policy: dict[str, Any],
    traffic: dict[str, Any],
    said: str | None,
) -> None:
    route = {"actuator": "caddy://w:2019/api", "models": "m", "weights": WEIGHTS}
    world = {"routes": {"api": route}, "capacity": CAPACITY, **traffic}
    of = topology({"waves": policy}, model={"load_seconds": 40}, traffic=world)
    plan = planned(regions, of=of)
    found = [
        f"{'unknown: ' if hold.unknown else ''}{hold.reason}"
        for hold in plan.holds
        if hold.region == "eu"
    ]
    if said is None:
        assert not plan.holds
        assert plan.actions
    else:
        assert [text for text in found if text.startswith(said)], found


def test_a_load_that_nobody_knows_is_not_no_load() -> None:
    dark = replace(well(), standing=Standing(load=Unknown("ap: no sample")))
    plan = planned({"ap": dark}, of=LOADS)
    assert plan.noop
    assert all(hold.unknown for hold in plan.holds)
    assert plan.holds[0].reason == (
        "spare-region: the load of ap: ap: no sample; set traffic.routes.api.peak, or "
        "traffic.objective.load_query"
    )


# ---------------------------------------------------------------------------------- what it is


def test_what_a_step_says() -> None:
    plan = planned(of=LOADS)
    (step,) = [a for a in plan.actions if a.key == "rollout/m@v2/eu/weight-25"]
    assert step.severity is Severity.SEVERE
    assert step.reason == "gives v2 25 % of the requests"
    assert step.parameters["wave"] == 2
    assert step.parameters["digest"] == TWO
    assert (step.parameters["last_good"], step.parameters["last_good_digest"]) == ("v1", ONE)
    assert step.parameters["touches"] == "the weights at caddy://eu:2019/m"
    assert step.parameters["gate"] == (
        "the verdict does not say roll back, and 300 s have been looked at"
    )
    assert step.parameters["undo"] == "all weight back to v1: one write, no server starts"
    assert step.parameters["undo_seconds"] == 0.0
    # alpha over three regions and two metrics
    assert step.parameters["alpha_each"] == pytest.approx(0.05 / 6)


def test_what_it_costs_where_that_is_known() -> None:
    """One server more, of one L4, for as long as each step takes at least."""
    used = {
        action.key.rpartition("/")[2]: action.consumes[0].amount
        for action in planned(of=LOADS).actions
        if action.region == "eu" and action.consumes
    }
    assert used == {
        "load-1": 40,
        "weight-1": 300,
        "weight-5": 300,
        "weight-25": 300,
        "load-2": 40,
        "weight-50": 300,
        "load-3": 40,
        "load-4": 40,
        "bake": 1800,
    }


@pytest.mark.parametrize(
    ("load_seconds", "gpus", "said"),
    [
        (
            None,
            {"L4": 1},
            "4 more servers of m in eu, while they load: nobody has measured how long",
        ),
        (40, {}, "4 more servers of m in eu for 40 s: they take no GPU, and have no price"),
    ],
)
def test_what_nobody_can_price_is_said(
    load_seconds: float | None, gpus: dict[str, int], said: str
) -> None:
    of = topology(
        model={"strategy": {"surge_servers": 4}, "load_seconds": load_seconds},
        models={"m": {"home": "us", "replicate_to": ["eu", "ap"], "gpus": gpus}},
    )
    plan = planned({r: replace(well(), gpus_free={"L4": 4}) for r in REGIONS}, of=of)
    (load,) = [a for a in plan.actions if a.key == "rollout/m@v2/eu/load-4"]
    assert not load.consumes
    assert load.figures["unpriced"].startswith(said)


def test_equal_worlds_have_equal_plans_and_loads_are_no_part_of_them() -> None:
    plan = planned(of=LOADS)
    assert plan.digest == planned(of=LOADS).digest
    assert plan.digest == planned(loads(101, 99, 102), of=LOADS).digest


CHANGES: dict[str, tuple[Mapping[str, RegionStands], Topology, set[str]]] = {
    "a server more": (eu(served=Served(versions={"v1": ONE}, servers=5)), LOADS, {"eu"}),
    "another version serves": (eu(served=served(v0="blake3:zero")), LOADS, {"eu"}),
    "the bytes are gone": (eu(**stored(v2=Copy())), LOADS, {"eu"}),
    "failover has begun": (closed(Rule.UNDER_FAILOVER, "it is left"), LOADS, {"eu"}),
    "the policy": ({}, topology({"verdict": {"alpha": 0.01}}), {"rollout"}),
}


@pytest.mark.parametrize(("regions", "of", "changed"), CHANGES.values(), ids=CHANGES)
def test_what_makes_a_plan_stale(
    regions: Mapping[str, RegionStands], of: Topology, changed: set[str]
) -> None:
    if of is not LOADS:
        of = topology({"verdict": {"alpha": 0.01}}, model={"load_seconds": 40})
    before, after = planned(of=LOADS).basis, planned(regions, of=of).basis
    assert {name for name in before if before[name] != after[name]} == changed


BAD: dict[str, tuple[Request, str, str]] = {
    "a model that is not there": (
        Request(ModelVersion("n", "v2"), REGIONS),
        "n: no such model",
        "there are: m",
    ),
    "a region that is not there": (
        Request(SUBJECT, ("mars",)),
        "mars: no such region",
        "there are: us, eu, ap",
    ),
    "no region": (Request(SUBJECT, ()), "m@v2: no region", "name one"),
}


@pytest.mark.parametrize(("request_", "said", "hint"), BAD.values(), ids=BAD)
def test_what_cannot_be_asked(request_: Request, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check_request(LOADS, request_)
    assert hint in (caught.value.hint or "")


def test_a_region_that_the_model_does_not_belong_in() -> None:
    of = topology(models={"m": {"home": "us", "replicate_to": ["ap"], "gpus": {}}})
    with pytest.raises(UsageError, match="eu: m does not belong there") as caught:
        decide(of, seen(), NOW)
    assert "models.m.replicate_to" in (caught.value.hint or "")


# -------------------------------------------------------------------------------------- figures


def test_gpus_that_no_server_holds() -> None:
    of = topology(
        models={
            "m": {"home": "us", "gpus": {"L4": 1}},
            "big": {"home": "us", "gpus": {"L4": 2}},
            "plain": {"home": "us", "gpus": {}},
            "silent": {"home": "us"},
        },
        rollout={},
    )
    there = {"m": Served(servers=1), "big": Served(servers=2), "plain": Served(servers=9)}
    assert gpus_free(of, "m", "us", there) == {"L4": 1}
    assert gpus_free(of, "plain", "us", there) == {}
    assert gpus_free(of, "m", "us", there | {"silent": Served()}) == {"L4": 1}
    for holds in (Served(servers=1), Unknown("no answer")):
        (found,) = gpus_free(of, "m", "us", there | {"silent": holds}).values()
        assert isinstance(found, Unknown)


def test_the_verdicts_policy_is_the_files() -> None:
    given = topology(
        {"verdict": {"alpha": 0.01, "metrics": ["errors"], "thresholds": {"failed_checks": 3}}}
    ).rollout.verdict
    assert policy_of(given, ["us"]) == Policy(
        regions=("us",),
        alpha=0.01,
        metrics=(Metric.ERRORS,),
        thresholds=Thresholds(failed_checks=3),
    )
    assert policy_of(topology().rollout.verdict, REGIONS) == Policy(regions=REGIONS)


def test_while_traffic_is_moved_nobody_asks_who_could_take_over() -> None:
    tight = loads(390, 390, 390)
    assert {hold.region for hold in planned(tight, of=LOADS).holds} == set(REGIONS)
    moved = Standing(closed={Rule.FAILOVER_TARGET: "it bears what us had"}, load=390.0)
    plan = planned(tight | {"eu": replace(well(), standing=moved)}, of=LOADS)
    assert [hold.region for hold in plan.holds] == ["eu"]


@pytest.mark.parametrize(
    ("served", "same"),
    [(Served(), True), (Served({"v1": ONE}, 4), False)],
    ids=["nothing serves", "four serve"],
)
def test_how_probes_find_a_region_makes_a_first_plan_no_older(served: Served, same: bool) -> None:
    """Vantages begin to look while the first servers are agreed to; where something serves, what
    failover says of it is what the plan rests on."""
    first = topology(model={"first_servers": 2, "servers": {"eu": "memory://eu"}})
    unknown = planned(eu(served=served, standing=Unknown("nobody has looked")), of=first)
    sick = Standing({Rule.UNHEALTHY: "eu is unhealthy"}, load=0.0)
    found = planned(eu(served=served, standing=sick), of=first)
    assert (unknown.basis["eu"] == found.basis["eu"]) is same
