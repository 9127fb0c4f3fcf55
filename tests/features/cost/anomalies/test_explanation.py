"""Why: which days are compared, what is named, and what happened meanwhile."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from mlplatform.cost.anomalies.comparing import Comparison, Leaf, Reference, reference_of
from mlplatform.cost.anomalies.explanation import explain
from mlplatform.cost.anomalies.happened import Happened, Known
from mlplatform.cost.anomalies.records import Alarm, State, Verdict
from mlplatform.cost.locate.causes import Event

DAY = date(2026, 10, 14)
AT = datetime(2026, 10, 14, 14, tzinfo=UTC)
WEEKS = Reference((DAY - timedelta(days=7),), 1, 1, "the same weekdays of the week before")
ALIASES = {"use1": "us-east-1", "euw1": "eu-west-1", "us-east-1": "us-east-1"}
DIMENSIONS = (
    *("provider", "account", "region", "service", "service_category", "sku", "meter"),
    *("instance", "pricing", "unit", "model"),
)
MACHINE = dict.fromkeys(DIMENSIONS, "") | {
    "provider": "AWS",
    "region": "eu-west-1",
    "service": "EC2",
    "service_category": "Compute",
    "instance": "g5.xlarge",
    "pricing": "Standard",
    "unit": "Hours",
    "model": "resnet50",
}
BYTES = MACHINE | {
    "region": "us-east-1",
    "service": "Data Transfer",
    "service_category": "Networking",
    "meter": "USE1-EUW1-AWS-Out-Bytes",
    "instance": "",
    "unit": "GB",
    "model": "",
}


def leaf(values: dict[str, str], before: tuple[int, int] | None, after: tuple[int, int]) -> Leaf:
    """Cost and quantity, before and after."""
    return Leaf(
        values,
        values["unit"],
        None if before is None else Decimal(before[0]),
        None if before is None else Decimal(before[1]),
        Decimal(after[0]),
        Decimal(after[1]),
    )


def alarm(excess: int = 412, days: int = 1) -> Alarm:
    verdict = Verdict(
        at=AT,
        deliveries=(),
        state=State.OPEN,
        cost=Decimal(100 + excess),
        expected=Decimal(100),
        likely=Decimal(100 + excess),
        because="",
    )
    return Alarm(
        id="7f3a",
        currency="USD",
        where={"provider": "AWS"},
        since=DAY,
        until=DAY + timedelta(days=days - 1),
        reason="spike",
        story=(verdict,),
    )


def happened(
    kind: str = "rollout",
    *,
    at: datetime = AT,
    region: str = "eu-west-1",
    model: str = "resnet50",
    source: str = "",
    sent: int | None = None,
) -> Happened:
    event = Event(at, kind, f"{model}@v3" if model else "cart", region, f"x-{kind}-7f3abc")
    return Happened(event, frozenset([region]), frozenset([model] if model else []), source, sent)


def headline(leaves: list[Leaf], *known: Happened, days: int = 1) -> str:
    comparison = Comparison(WEEKS, DIMENSIONS, tuple(leaves), None)
    return explain(alarm(days=days), comparison, Known(known), ALIASES).headline


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        (
            [leaf(MACHINE, (412, 400), (824, 800))],
            "eu-west-1 g5.xlarge hours doubled on 2026-10-14; $412/day",
        ),
        (
            [leaf(MACHINE, (100, 100), (512, 512))],
            "eu-west-1 g5.xlarge hours are 5.12 times as many on 2026-10-14; $412/day",
        ),
        (
            [leaf(MACHINE, None, (412, 400))],
            (
                "new item: eu-west-1 g5.xlarge (on-demand) was not there before on 2026-10-14; "
                "$412/day"
            ),
        ),
        (
            [leaf(MACHINE, (100, 100), (512, 100))],
            (
                "price change: eu-west-1 g5.xlarge (on-demand): 1 → 5.12 a Hours; +412.0 % "
                "on 2026-10-14; $412/day"
            ),
        ),
        (
            [
                leaf(MACHINE | {"pricing": "Dynamic"}, (30, 100), (0, 0)),
                leaf(MACHINE, (100, 100), (200, 200)),
            ],
            (
                "spot to on-demand: eu-west-1 g5.xlarge: 100 Hours that were spot are on-demand; "
                "0.3 → 1 each on 2026-10-14; $412/day"
            ),
        ),
        (
            [leaf(BYTES, (10, 500), (422, 21100))],
            (
                "cross-region transfer: us-east-1 → eu-west-1: bytes between regions; +20600 GB "
                "on 2026-10-14; $412/day"
            ),
        ),
        ([], "AWS on 2026-10-14: nobody knows why; $412/day"),
    ],
)
def test_the_line_that_says_it(leaves: list[Leaf], said: str) -> None:
    assert headline(leaves) == said


DOUBLED = leaf(MACHINE, (412, 400), (824, 800))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([happened()], ", with rollout 7f3abc of resnet50@v3 at 14:00 UTC; "),
        ([happened(region="us-east-1")], None),
        ([happened(model="bert")], None),
        ([happened(model="")], ", with rollout 7f3abc of cart at 14:00 UTC; "),
        (
            [happened("scale", model=""), happened("failover", at=AT + timedelta(hours=3))],
            ", with failover 7f3abc of resnet50@v3 at 17:00 UTC; ",  # it names the model
        ),
        (
            [happened(at=AT - timedelta(hours=20)), happened(at=AT - timedelta(hours=13))],
            ", with rollout 7f3abc of resnet50@v3 at 01:00 UTC; ",  # the nearest to the change
        ),
        (
            [happened("replicate", at=AT - timedelta(hours=9)), happened(at=AT)],
            ", with rollout 7f3abc of resnet50@v3 at 14:00 UTC; ",  # copies start no machines
        ),
        (
            [happened("replicate", at=AT)],
            ", with replicate 7f3abc of resnet50@v3 at 14:00 UTC; ",  # nothing else is known
        ),
        (
            [happened(at=AT - timedelta(hours=20))],
            ", with rollout 7f3abc of resnet50@v3 at 2026-10-13 18:00 UTC; ",
        ),
    ],
)
def test_what_happened_is_told_where_it_fits(known: list[Happened], said: str | None) -> None:
    line = headline([DOUBLED], *known)
    assert (said in line) if said else ("with" not in line)


def test_bytes_between_regions_are_joined_to_the_replication_that_sent_them() -> None:
    sent = happened("replicate", source="us-east-1", sent=7_000_000_000)
    elsewhere = happened("replicate", source="ap-southeast-1", sent=5)
    comparison = Comparison(WEEKS, DIMENSIONS, (leaf(BYTES, (10, 500), (422, 21100)),), None)
    (cause,) = explain(alarm(), comparison, Known((elsewhere, sent)), ALIASES).causes
    assert "replication carried 7000000000 bytes there" in str(cause)
    assert [event.region for event in cause.events] == ["eu-west-1"]
    assert cause.events == (sent.event,)


def test_causes_and_shares_add_up_to_all_of_it() -> None:
    leaves = (
        leaf(MACHINE, (400, 400), (824, 800)),
        leaf(MACHINE | {"region": "us-east-1"}, (300, 300), (250, 260)),
        leaf(BYTES, (10, 500), (33, 1100)),
        leaf(MACHINE | {"instance": "m5.large"}, None, (17, 170)),
    )
    why = explain(alarm(), Comparison(WEEKS, DIMENSIONS, leaves, None), Known(), ALIASES)
    assert why.change == 414
    assert sum(cause.amount for cause in why.causes) == why.change
    assert why.effects.change == why.change
    for parts in why.by.values():
        assert sum(part.share or 0 for part in parts) == 100
    assert "unit" not in why.by


def test_several_days_are_told_by_the_day() -> None:
    assert headline([DOUBLED], days=4).endswith("; $103/day")


@pytest.mark.parametrize(
    ("known_since", "unusual", "length", "text", "first"),
    [
        (60, (), 1, "the same weekdays of the 4 weeks before", 28),
        (60, (7,), 1, "the same weekdays of the 4 weeks before", 35),
        (60, (), 9, "the same weekdays of the 4 weeks before", 35),
        (15, (), 1, "the same weekdays of the 2 weeks before", 14),
        (7, (), 1, "the same weekdays of the week before", 7),
        (5, (), 1, "the mean of the 5 days before", 5),
        (1, (), 3, "the mean of the day before", 1),
    ],
)
def test_which_days_an_incident_is_compared_with(
    known_since: int, unusual: tuple[int, ...], length: int, text: str, first: int
) -> None:
    odd = {DAY - timedelta(days=each) for each in unusual}
    reference = reference_of(
        DAY,
        DAY + timedelta(days=length - 1),
        lambda day: day >= DAY - timedelta(days=known_since),
        lambda day: day in odd,
    )
    assert reference is not None
    assert reference.text == text
    assert min(reference.days) == DAY - timedelta(days=first)
    assert max(reference.days) < DAY


def test_where_nothing_is_known_before_there_is_nothing_to_compare_with() -> None:
    assert reference_of(DAY, DAY, lambda day: day >= DAY, lambda day: False) is None
