"""What operations of the journal are told as, beside a cost that changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from mlplatform.control.journal import Journal, Kind
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.cost.anomalies.happened import of_entries
from tests.features.control.members import Members
from tests.features.control.weather import START, VirtualClock


def action(region: str, kind: str) -> Action:
    return Action(
        key=f"rollout/m@v2/{region}/{kind}",
        kind=kind,
        subject="m@v2",
        region=region,
        reason=f"does {kind}",
    )


def told(*steps: tuple[str, str, Result | None]) -> list[tuple[str, str, datetime]]:
    """Region, text and time of each event; a step without a result was never begun."""
    clock = VirtualClock()
    journal = Journal(Members().control(clock), clock, Random(0), "w")
    actions = {(region, kind): action(region, kind) for region, kind, _ in steps}
    stream = journal.start("op", Plan(feature="rollout", actions=tuple(actions.values())))
    for region, kind, result in steps:
        clock.sleep(60)
        key = actions[region, kind].key
        if result is not None:
            stream.append(Kind.INTENT, {"actions": [key], "batch": ""}, fence=0)
        outcome = Outcome(
            action=key,
            result=result or Result.NOTHING,
            detail=f"{kind} is over" if result else "no longer decided",
            finished_at=clock.now(),
        )
        stream.append(Kind.OUTCOME, outcome.model_dump(mode="json"), fence=0)
    return [
        (each.event.region, each.event.text, each.event.at)
        for each in of_entries(journal.open("op").entries)
    ]


def minute(number: int) -> datetime:
    return (START + timedelta(minutes=number)).astimezone(UTC)


def test_a_rollout_happened_when_its_servers_came() -> None:
    """Not when it was approved, and looked at."""
    steps = [("eu", kind, Result.DONE) for kind in ("preflight", "pin", "load", "warm-up")]
    assert told(*steps) == [("eu", "load is over", minute(3))]


def test_where_it_was_never_begun_nothing_happened() -> None:
    steps = [
        ("eu", "load", Result.DONE),
        ("eu", "promote", Result.FAILED),
        ("us", "preflight", None),
        ("us", "load", None),
    ]
    assert told(*steps) == [("eu", "load is over", minute(1))]


def test_what_failed_did_not_happen() -> None:
    assert told(("eu", "load", Result.FAILED)) == []
