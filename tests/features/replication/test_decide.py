"""Given what was seen, what is done: tables to read and argue about."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from mlplatform.core.digest import Evidence
from mlplatform.core.errors import UsageError, VersionConflict
from mlplatform.core.manifest import Manifest, ObjectReceipt, Receipt
from mlplatform.core.placement import Integrity, Rung
from mlplatform.core.plan import Hold, Plan
from mlplatform.core.replica import (
    Check,
    Finding,
    Regions,
    RegionSeen,
    Withdrawal,
    placement_of,
)
from mlplatform.core.seen import Unknown
from mlplatform.replication.decide import (
    Request,
    Seen,
    choose_source,
    choose_version,
    decide,
    decide_publish,
)

from .world import NOW, SUBJECT, Model, noise

RIGHT = Model({"model.bin": noise(100, 1)}).manifest
OTHER = Model({"model.bin": noise(100, 2)}).manifest
ROTTEN = Finding(path="model.bin", problem="digest", detail="Checksum mismatch: bytes 0-64 differ")


def receipt_of(region: str, manifest: Manifest) -> Receipt:
    return Receipt(
        schema="mlplatform/receipt/1",
        model=SUBJECT.model,
        version=SUBJECT.version,
        region=region,
        manifest_digest=manifest.digest,
        objects=(ObjectReceipt(path="model.bin", tag="7", evidence=Evidence.STORE_WHOLE),),
        stored_at=NOW,
        writer="test",
        nonce=f"nonce-{region}",
    )


def check_of(region: str, *findings: Finding) -> Check:
    return Check(
        model=SUBJECT.model,
        version=SUBJECT.version,
        region=region,
        receipt_nonce=f"nonce-{region}",
        depth="deep",
        findings=findings,
        at=NOW,
        writer="test",
    )


def region(name: str, what: str) -> RegionSeen | Unknown:
    """A region in one word, or a few."""
    good = RegionSeen(name, manifest=RIGHT, manifest_tag="3", receipt=receipt_of(name, RIGHT))
    states: dict[str, RegionSeen | Unknown] = {
        "unknown": Unknown(f"{name}: no answer"),
        "absent": RegionSeen(name),
        "partial": RegionSeen(name, present_bytes=40),
        "stored": good,
        "checked": replace(good, checks=(check_of(name),)),
        "demoted": replace(good, checks=(check_of(name, ROTTEN),)),
        "damaged": RegionSeen(
            name, manifest_tag="3", damaged="manifest.json: truncated", receipt=good.receipt
        ),
        "no receipt": replace(good, receipt=None),
        "other bytes": RegionSeen(
            name, manifest=OTHER, manifest_tag="3", receipt=receipt_of(name, OTHER)
        ),
        "other, no receipt": RegionSeen(name, manifest=OTHER, manifest_tag="3"),
        "other receipt": replace(good, receipt=receipt_of(name, OTHER)),
        "manifest rewritten": RegionSeen(
            name, manifest=OTHER, manifest_tag="3", receipt=good.receipt
        ),
        "withdrawn": replace(
            good,
            withdrawal=Withdrawal(
                model=SUBJECT.model, version=SUBJECT.version, reason="poisoned", by="me", at=NOW
            ),
        ),
    }
    return states[what]


def world(**what: str) -> Regions:
    return {name: region(name, state) for name, state in what.items()}


def ask(
    regions: Regions,
    *targets: str,
    home: str | None = "us",
    source: str | None = None,
    recorded: str | None = None,
) -> Seen:
    return Seen(Request(SUBJECT, targets, home, source), regions, recorded)


def told(plan: Plan) -> dict[str, str]:
    """What the plan says of each region: the source, or why it is held."""
    said = {action.region: f"from {action.parameters['source']}" for action in plan.actions}
    for hold in plan.holds:
        said[hold.region] = f"unknown: {hold.reason}" if hold.unknown else f"held: {hold.reason}"
    return said


# --- one target, in every state ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("absent", "from us"),
        ("partial", "from us"),
        ("stored", None),
        ("checked", None),
        ("demoted", "from us"),
        ("damaged", "from us"),
        ("no receipt", "from us"),
        ("other receipt", "from us"),
        ("unknown", "unknown: eu: no answer"),
        ("other, no receipt", "held: it holds other bytes"),
        ("withdrawn", None),
    ],
)
@pytest.mark.parametrize("recorded", [None, RIGHT.digest], ids=["no record", "recorded"])
def test_one_target(target: str, expected: str | None, recorded: str | None) -> None:
    if target == "other, no receipt" and recorded is not None:
        expected = "from us"  # neither the record nor a receipt speaks for those bytes
    plan = decide(ask(world(us="stored", eu=target), "eu", recorded=recorded))
    said = told(plan)
    assert set(said) == ({"eu"} if expected else set())
    if expected:
        assert said["eu"].startswith(expected), said


REASONS = {
    "absent": "the topology wants it there",
    "partial": "goes on from what is there",
    "demoted": "repair: model.bin: Checksum mismatch",
    "damaged": "repair: manifest.json: truncated",
}


@pytest.mark.parametrize("state", REASONS)
def test_every_action_has_a_reason_and_says_what_it_costs(state: str) -> None:
    (action,) = decide(ask(world(us="stored", eu=state), "eu")).actions
    assert REASONS[state] in action.reason
    assert action.parameters["repair"] is (state in {"demoted", "damaged"})
    assert action.key == f"replicate/{SUBJECT}/eu/{RIGHT.digest}"
    amounts = {c.resource: (c.amount, c.source_region, c.region) for c in action.consumes}
    assert amounts["storage"] == (100, None, "eu")
    assert amounts["transfer"] == (60 if state == "partial" else 100, "us", "eu")


def test_targets_of_one_source_share_a_batch() -> None:
    plan = decide(ask(world(us="stored", eu="absent", ap="partial"), "eu", "ap"))
    assert len({action.batch for action in plan.actions}) == 1


# --- where it is read from -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "regions", "asked", "expected"),
    [
        ("home first", {"ap": "stored", "us": "stored"}, {}, "us"),
        ("else any other", {"us": "absent", "ap": "stored"}, {}, "ap"),
        ("not one that a check found wrong", {"us": "demoted", "ap": "stored"}, {}, "ap"),
        ("not one that is only half there", {"us": "partial", "ap": "stored"}, {}, "ap"),
        ("not one without a receipt", {"us": "no receipt", "ap": "stored"}, {}, "ap"),
        ("home cannot be read", {"us": "unknown", "ap": "stored"}, {}, "ap"),
        ("the one that is named", {"us": "stored", "ap": "stored"}, {"source": "ap"}, "ap"),
        ("nobody has it", {"us": "absent"}, {}, "held: no region holds it verified; publish"),
        ("nobody has it, no home", {"us": "absent"}, {"home": None}, "held: no region holds it"),
        ("all that have it are wrong", {"us": "demoted"}, {}, "held: no region holds it"),
        ("perhaps one has it", {"us": "unknown", "ap": "absent"}, {}, "unknown: no readable"),
        ("named and unreadable", {"us": "stored", "ap": "unknown"}, {"source": "ap"},
         "unknown: the source ap could not be read"),
        ("named and empty", {"us": "stored", "ap": "absent"}, {"source": "ap"},
         "held: the source ap does not hold it"),
        ("named and not there", {"us": "stored"}, {"source": "xx"},
         "held: the source xx does not hold it"),
        ("named and wrong", {"us": "stored", "ap": "demoted"}, {"source": "ap"},
         "held: the source ap was found with wrong bytes"),
        ("named and damaged", {"us": "stored", "ap": "damaged"}, {"source": "ap"},
         "held: the source ap has a damaged manifest"),
        ("named without a receipt", {"us": "stored", "ap": "no receipt"}, {"source": "ap"},
         "held: the source ap holds it without a receipt"),
        ("two disagree", {"us": "stored", "ap": "other bytes"}, {},
         "held: regions disagree"),
        ("two disagree, the record decides", {"us": "other bytes", "ap": "stored"},
         {"recorded": RIGHT.digest}, "ap"),
        ("two disagree, one is named", {"us": "stored", "ap": "other bytes"},
         {"source": "ap"}, "ap"),
        ("a demoted one does not disagree", {"us": "stored", "ap": "other, no receipt"}, {}, "us"),
        ("named against the record", {"us": "stored", "ap": "other bytes"},
         {"source": "ap", "recorded": RIGHT.digest}, "held: the source ap holds other bytes"),
        ("only others than the record", {"us": "other bytes"},
         {"recorded": RIGHT.digest}, "held: no region holds the bytes that were published"),
        ("only others, one unreadable", {"us": "other bytes", "ap": "unknown"},
         {"recorded": RIGHT.digest}, "unknown: no readable region"),
    ],
)  # fmt: skip
def test_source(why: str, regions: dict[str, str], asked: dict[str, str], expected: str) -> None:
    options: dict[str, str | None] = {"home": "us", **asked}
    seen = ask(
        {**world(**regions), "eu": RegionSeen("eu")},
        "eu",
        home=options["home"],
        source=options.get("source"),
        recorded=options.get("recorded"),
    )
    chosen = choose_source(seen)
    if isinstance(chosen, Hold):
        said = told(decide(seen))["eu"]
        assert said.startswith(expected), said
    else:
        assert chosen.region == expected
        assert told(decide(seen)) == {"eu": f"from {expected}"}


# --- several regions together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "regions", "recorded", "expected"),
    [
        (
            "one that cannot be read holds up no other",
            {"us": "stored", "eu": "unknown", "ap": "absent"}, None,
            {"eu": "unknown", "ap": "from us"},
        ),
        (
            "two stored ones that disagree are never called done",
            {"us": "stored", "eu": "other bytes", "ap": "stored"}, None,
            {"eu": "held", "ap": "held"},
        ),
        (
            "with a record, only the one that differs from it is held",
            {"us": "stored", "eu": "other bytes", "ap": "stored"}, RIGHT.digest,
            {"eu": "held"},
        ),
        (
            "no source, but a target that has it needs none",
            {"us": "demoted", "eu": "stored", "ap": "absent"}, None,
            {"ap": "from eu"},
        ),
        (
            "every copy is wrong",
            {"us": "demoted", "eu": "demoted", "ap": "absent"}, None,
            {"eu": "held", "ap": "held"},
        ),
        (
            "a manifest rewritten below its receipt is repaired, by the record",
            {"us": "stored", "eu": "manifest rewritten", "ap": "stored"}, RIGHT.digest,
            {"eu": "from us"},
        ),
        (
            "where the record is forgotten, the receipt speaks alone",
            {"us": "stored", "eu": "manifest rewritten", "ap": "stored"}, None,
            {"eu": "from us"},
        ),
        (
            "withdrawn anywhere: no new placement, and what is stored stays",
            {"us": "withdrawn", "eu": "absent", "ap": "stored"}, None,
            {"eu": "held: withdrawn: poisoned"},
        ),
        (
            "withdrawn: not even a repair",
            {"us": "withdrawn", "eu": "demoted", "ap": "partial"}, None,
            {"eu": "held: withdrawn", "ap": "held: withdrawn"},
        ),
    ],
)  # fmt: skip
def test_regions_together(
    why: str, regions: dict[str, str], recorded: str | None, expected: dict[str, str]
) -> None:
    said = told(decide(ask(world(**regions), "eu", "ap", recorded=recorded)))
    assert set(said) == set(expected), said
    for name, start in expected.items():
        assert said[name].startswith(start), said


def test_a_region_that_nobody_looked_at_is_unknown() -> None:
    said = told(decide(ask(world(us="stored"), "eu")))
    assert said["eu"].startswith("unknown")


def test_the_home_is_repaired_from_a_replica() -> None:
    assert told(decide(ask(world(us="demoted", eu="stored"), "us", "eu"))) == {"us": "from eu"}


@pytest.mark.parametrize(
    ("before", "after", "stale"),
    [
        ("absent", "absent", False),
        ("absent", "partial", False),
        ("absent", "stored", True),
        ("absent", "damaged", True),
        ("absent", "unknown", True),
        ("absent", "withdrawn", True),
        ("demoted", "stored", True),
        ("stored", "other bytes", True),
    ],
)
def test_a_plan_is_stale_when_what_it_rests_on_changes(
    before: str, after: str, stale: bool
) -> None:
    first = decide(ask(world(us="stored", eu=before), "eu"))
    second = decide(ask(world(us="stored", eu=after), "eu"))
    assert (first.basis != second.basis) is stale


def test_the_same_world_gives_the_same_plan() -> None:
    regions = world(us="stored", eu="absent", ap="demoted")
    again = dict(reversed(regions.items()))
    first, second = decide(ask(regions, "eu", "ap")), decide(ask(again, "eu", "ap"))
    assert first == second
    assert first.digest == second.digest


# --- publishing ----------------------------------------------------------------------------------


def publish(regions: Regions, recorded: str | None = None) -> Plan:
    return decide_publish(Request(SUBJECT, ("us",), "us"), RIGHT, regions, recorded)


@pytest.mark.parametrize(
    ("regions", "recorded", "expected"),
    [
        ({"us": "absent"}, None, "from None"),
        ({"us": "partial"}, None, "from None"),
        ({"us": "stored"}, RIGHT.digest, None),
        ({"us": "stored", "eu": "unknown"}, None, None),
        ({"us": "absent", "eu": "stored"}, RIGHT.digest, "from None"),
        ({"us": "absent", "eu": "unknown"}, None, "from None"),
        ({"us": "demoted"}, RIGHT.digest, "from None"),
        ({"us": "damaged"}, RIGHT.digest, "from None"),
        ({"us": "no receipt"}, None, "from None"),
        ({"us": "manifest rewritten"}, RIGHT.digest, "from None"),
        ({"us": "unknown"}, None, "unknown"),
    ],
)
def test_publish(regions: dict[str, str], recorded: str | None, expected: str | None) -> None:
    said = told(publish(world(**regions), recorded))
    assert set(said) == ({"us"} if expected else set())
    if expected:
        assert said["us"].startswith(expected)


@pytest.mark.parametrize(
    ("regions", "recorded", "says"),
    [
        ({"us": "other bytes"}, None, "us with other bytes"),
        ({"us": "absent", "eu": "other bytes"}, None, "eu with other bytes"),
        ({"us": "stored", "eu": "other bytes"}, None, "eu with other bytes"),
        ({"us": "other, no receipt"}, None, "us with other bytes"),
        ({"us": "absent"}, OTHER.digest, "was published with other bytes"),
        ({"us": "unknown"}, OTHER.digest, "was published with other bytes"),
        ({"us": "absent", "eu": "withdrawn"}, None, "withdrawn: poisoned"),
        ({"us": "withdrawn"}, RIGHT.digest, "withdrawn: poisoned"),
    ],
)
def test_publish_refused(regions: dict[str, str], recorded: str | None, says: str) -> None:
    with pytest.raises(VersionConflict, match=says) as raised:
        publish(world(**regions), recorded)
    assert raised.value.hint


# --- names and cells -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "wanted", "published", "expected"),
    [
        ("v2", "v1", {"v1": ["us"]}, "v2"),
        (None, "v1", {"v2": ["us"], "v3": ["us"]}, "v1"),
        (None, None, {"v2": ["us"]}, "v2"),
        (None, None, {}, "no version is published"),
        (None, None, {"v2": ["us"], "v10": ["eu"]}, r"resnet50@v10, resnet50@v2"),
    ],
)
def test_choose_version(
    version: str | None, wanted: str | None, published: dict[str, list[str]], expected: str
) -> None:
    if expected.startswith("v"):
        chosen = choose_version("resnet50", version, wanted=wanted, published=published)
        assert str(chosen) == f"resnet50@{expected}"
        return
    with pytest.raises(UsageError, match=expected) as raised:
        choose_version("resnet50", version, wanted=wanted, published=published)
    assert raised.value.hint


@dataclass(frozen=True)
class Cell:
    rung: Rung | None
    integrity: Integrity


CELLS = {
    "unknown": Cell(None, Integrity.UNKNOWN),
    "absent": Cell(Rung.ABSENT, Integrity.ABSENT),
    "partial": Cell(Rung.ABSENT, Integrity.PARTIAL),
    "stored": Cell(Rung.STORED, Integrity.VERIFIED),
    "checked": Cell(Rung.STORED, Integrity.VERIFIED),
    "demoted": Cell(Rung.ABSENT, Integrity.MISMATCH),
    "damaged": Cell(Rung.ABSENT, Integrity.MISMATCH),
    "no receipt": Cell(Rung.ABSENT, Integrity.UNKNOWN),
    "other receipt": Cell(Rung.ABSENT, Integrity.UNKNOWN),
}


@pytest.mark.parametrize("state", CELLS)
def test_the_cell_of_the_grid(state: str) -> None:
    placement = placement_of(SUBJECT, "eu", region("eu", state), wanted=True)
    rung = None if isinstance(placement.rung, Unknown) else placement.rung
    assert Cell(rung, placement.integrity) == CELLS[state]
    assert placement.wanted
    assert (placement.verified_at is not None) is (rung is Rung.STORED)
    assert bool(placement.detail) is (state not in {"absent", "stored", "checked"})
