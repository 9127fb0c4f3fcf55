"""`mlplatform cost anomalies`, `feedback` and `explain`, as they are typed: deliveries come, alarms
are raised, confirmed, taken back and answered."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform import wiring
from mlplatform.control.journal import Journal, Kind
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from tests.cli.estate import Estate, Ran, require
from tests.features.cost.bills import Charge, charge, days_from, write_csv
from tests.real.failover.platform import receiver

FIRST = date(2026, 7, 1)
SPIKE = date(2026, 9, 15)
REGIONS = ("us-east-1", "eu-west-1")
INSTANCES = ("g5.xlarge", "m5.large")


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    made = Estate(tmp_path)
    configure(made)
    return made


def configure(estate: Estate, **section: Any) -> None:
    """Write the topology with a section `cost`."""
    told = {"exports": [f"file://{estate.folder}/bills"], "tags": {"model": "model"}, **section}
    estate.write()
    (estate.folder / "bills").mkdir(exist_ok=True)
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f"\ncost: {json.dumps(told)}\n")


Times = Callable[[date, str, str], float]


def bill(until: date, times: Times = lambda day, region, instance: 1.0) -> list[Charge]:
    """Machines by the hour in two regions, so many times as many as usual."""
    chance = random.Random(3)
    rows = []
    for day in days_from(FIRST, (until - FIRST).days + 1):
        for region in REGIONS:
            for instance in INSTANCES:
                noise = chance.gauss(1, 0.02)
                hours = round(100 * noise * times(day, region, instance), 4)
                price = Decimal("1.006") if instance == INSTANCES[0] else Decimal("0.096")
                rows.append(
                    charge(
                        day,
                        f"{Decimal(str(hours)) * price:.10f}",
                        RegionId=region,
                        PricingQuantity=str(hours),
                        SkuId=instance,
                        ResourceId=f"i-{region}-{instance}",
                        ChargeDescription=f"{instance} hour",
                    )
                )
    return rows


def spike(day: date, region: str, instance: str) -> float:
    """Twice the GPU machines of one region on one day."""
    return 2.0 if (day, region, instance) == (SPIKE, "eu-west-1", "g5.xlarge") else 1.0


def deliver(estate: Estate, rows: list[Charge], on: date, *, restated: bool = False) -> None:
    """Deliver every month of a bill on a day, as providers do, and import it."""
    by_month: dict[str, list[Charge]] = {}
    for row in rows:
        by_month.setdefault(str(row["BillingPeriodStart"])[:7], []).append(row)
    for month, some in by_month.items():
        path = write_csv(estate.folder / "bills" / month / "bill.csv", some)
        at = datetime(on.year, on.month, on.day, 6, tzinfo=UTC).timestamp()
        os.utime(path, (at, at))
    estate.good("cost", "import")


def found(estate: Estate, *arguments: str, code: int) -> Any:
    ran = estate.run("cost", "anomalies", "-o", "json", *arguments)
    assert ran.code == code, ran.said
    return ran.json()


def test_a_spike_is_an_open_alarm_and_exit_3(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    told = found(estate, code=3)
    (row,) = told["anomalies"]
    assert row["state"] == "open"
    assert row["where"]["region"] == "eu-west-1"
    assert (row["since"], row["until"]) == (SPIKE.isoformat(), SPIKE.isoformat())
    assert 90 < Decimal(row["excess"]) < 112
    assert told["unacknowledged"] == 1
    assert SPIKE.isoformat() in told["provisional"]
    table = estate.run("cost", "anomalies")
    assert row["incident"] in table.out
    assert "spike: +" in table.out


def test_quiet_bills_are_exit_0(estate: Estate) -> None:
    deliver(estate, bill(SPIKE), SPIKE + timedelta(days=1))
    assert found(estate, code=0)["anomalies"] == []
    assert "nothing unusual" in estate.good("cost", "anomalies").err


def test_what_is_restated_away_is_retracted_with_the_difference(estate: Estate) -> None:
    end = SPIKE + timedelta(days=2)
    deliver(estate, bill(end, spike), end + timedelta(days=1))
    (opened,) = found(estate, code=3)["anomalies"]
    deliver(estate, bill(end), end + timedelta(days=2))
    told = found(estate, code=0)
    (row,) = told["anomalies"]
    assert (row["incident"], row["state"]) == (opened["incident"], "retracted")
    first, last = row["story"]
    assert (first["state"], last["state"]) == ("open", "retracted")
    assert Decimal(first["cost"]) - Decimal(last["cost"]) > 90
    assert last["deliveries"] == ["AWS 111122223333 2026-09, delivery 2"]
    text = estate.good("cost", "anomalies").out
    assert f"{row['incident']} retracted: restated; " in text
    assert "by AWS 111122223333 2026-09, delivery 2" in text


def test_what_is_known_of_incidents_stands_on_the_page_with_its_status(estate: Estate) -> None:
    page = estate.folder / "page.html"

    def reported() -> str:
        estate.good("cost", "report", "--days", "7", "--html", str(page))
        return page.read_text()

    end = SPIKE + timedelta(days=2)
    deliver(estate, bill(end), end + timedelta(days=1))
    assert "None was found in these days" in reported()
    deliver(estate, bill(end, spike), end + timedelta(days=2))
    text = reported()  # nobody has asked for anomalies yet
    assert f"eu-west-1 g5.xlarge hours doubled on {SPIKE}" in text
    assert "<span class=status>open, unanswered</span>" in text
    (row,) = found(estate, code=3)["anomalies"]
    assert f"+{Decimal(row['excess']):,.2f} USD since {SPIKE}" in text
    estate.good("cost", "feedback", row["incident"], "yes", "--note", "a <b>load</b> test")
    text = reported()
    assert "<span class=status>open, answered</span>" in text
    assert "says: yes, a &lt;b&gt;load&lt;/b&gt; test." in text
    deliver(estate, bill(end), end + timedelta(days=3))
    text = reported()
    assert "<span class=status>retracted</span>" in text
    assert "Retracted: restated; " in text
    assert "hours doubled" not in text


def test_what_a_later_delivery_repeats_is_confirmed(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=3), spike), SPIKE + timedelta(days=4))
    assert found(estate, code=3)["anomalies"][0]["state"] == "open"
    deliver(estate, bill(SPIKE + timedelta(days=8), spike), SPIKE + timedelta(days=9))
    (row,) = found(estate, code=3)["anomalies"]
    assert row["state"] == "confirmed"
    assert [each["state"] for each in row["story"]] == ["open", "confirmed"]


def test_deliveries_that_nobody_looked_at_in_between_are_judged_by_themselves(
    estate: Estate,
) -> None:
    end = SPIKE + timedelta(days=2)
    deliver(estate, bill(end, spike), end + timedelta(days=1))
    deliver(estate, bill(end), end + timedelta(days=2))
    (row,) = found(estate, code=0)["anomalies"]
    assert [each["state"] for each in row["story"]] == ["open", "retracted"]


@pytest.mark.parametrize("answer", ["yes", "no", "planned"])
def test_an_answer_is_kept_and_ends_exit_3(answer: str, estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    (row,) = found(estate, code=3)["anomalies"]
    estate.good("cost", "feedback", row["incident"][:6], answer, "--note", "the bad rollout")
    (again,) = found(estate, code=0)["anomalies"]
    assert (again["incident"], again["answer"]) == (row["incident"], answer)
    assert again["note"] == "the bad rollout"
    assert again["acknowledged"]


def test_what_is_planned_beforehand_raises_no_alarm(estate: Estate) -> None:
    deliver(estate, bill(SPIKE - timedelta(days=1)), SPIKE)
    place = "region=eu-west-1"
    estate.good("cost", "feedback", place, "planned", "--since", SPIKE.isoformat())
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    assert found(estate, code=0)["anomalies"] == []


def test_the_old_rule_under_its_name(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    (row,) = found(estate, "--rule", "day-over-day", "--by", "region", code=3)["anomalies"]
    assert row["where"] == {"region": "eu-west-1"}
    assert row["reason"].startswith("day over day: +")
    assert row["score"] is None


def test_a_short_history_is_low_confidence(estate: Estate) -> None:
    def late(day: date, region: str, instance: str) -> float:
        return 5.0 if day == FIRST + timedelta(days=8) else 1.0

    end = FIRST + timedelta(days=9)
    deliver(estate, bill(end, late), end + timedelta(days=1))
    told = found(estate, code=3)
    assert told["confidence"] == "low"
    assert told["anomalies"][0]["confidence"] == "low"
    assert "low confidence: 10 days" in estate.run("cost", "anomalies").err


def test_nothing_imported_is_exit_2_with_what_to_do(estate: Estate) -> None:
    require(estate.run("cost", "anomalies"), 2, "mlplatform cost import")
    configure(estate, exports=[])
    require(estate.run("cost", "anomalies"), 2, "cost.exports")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cost", "anomalies", "--rule", "gut"), "gut"),
        (("cost", "anomalies", "--cost", "real"), "real"),
        (("cost", "anomalies", "--by", "planet"), "planet"),
        (("cost", "anomalies", "--by", "day"), "day"),
        (("cost", "anomalies", "--since", "yesterday"), "yesterday"),
        (("cost", "feedback", "7f3a", "yes"), "no such incident"),
        (("cost", "feedback", "7f3a", "perhaps"), "perhaps"),
        (("cost", "feedback", "region=eu-west-1", "planned"), "--since"),
    ],
)
def test_what_cannot_be_asked(arguments: tuple[str, ...], said: str, estate: Estate) -> None:
    deliver(estate, bill(FIRST + timedelta(days=2)), FIRST + timedelta(days=3))
    require(estate.run(*arguments), 2, said)


def analyzer(estate: Estate, *arguments: str) -> Ran:
    return estate.process(
        *arguments, program=(sys.executable, "-m", "mlplatform.cost.cost_analyzer")
    )


def test_the_line_of_old_runbooks(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    ran = analyzer(estate, "--anomalies")
    assert ran.code == 3
    assert ran.out == estate.run("cost", "anomalies").out
    assert analyzer(estate, "--anomalies", "--since", "2026-09-16").code == 0
    (row,) = found(estate, code=3)["anomalies"]
    explained = analyzer(estate, "--explain", row["incident"])
    assert explained.out == estate.good("cost", "explain", row["incident"]).out
    report = analyzer(estate, "--since", "2026-09-10", "--by-region")
    assert report.code == 0
    assert report.out == estate.good("cost", "report", "--by", "region", "--days", "7").out


def test_an_incident_is_explained(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    (row,) = found(estate, code=3)["anomalies"]
    told = estate.good("cost", "explain", row["incident"], "-o", "json").json()
    assert told["headline"].startswith(f"eu-west-1 g5.xlarge hours doubled on {SPIKE}; $10")
    assert told["compared_with"] == "the same weekdays of the 4 weeks before"
    change = Decimal(told["change"])
    assert Decimal(told["after"]) - Decimal(told["before"]) == change
    assert sum(Decimal(each["amount"]) for each in told["causes"]) == change
    assert sum(map(Decimal, told["effects"].values())) == change
    for parts in told["by"].values():
        assert sum(Decimal(part["share"]) for part in parts) == 100
        assert sum(Decimal(part["change"]) for part in parts) == change
    assert told["causes"][0]["cause"] == "more of the same"
    assert told["sets"][0]["set"] == [{"sku": "g5.xlarge"}]
    text = estate.good("cost", "explain", row["incident"]).out
    assert text.startswith(told["headline"])
    assert "of which quantity +" in text
    assert "by sku: g5.xlarge +" in text


class Then(SystemClock):
    """A clock that stands still."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at


def happen(estate: Estate, at: datetime, region: str, subject: str) -> str:
    """A rollout that the journal tells of; its number."""
    topology = Topology.load(estate.folder / "topology.yaml")
    clock = Then(at)
    chance = random.Random(f"{at} {region} {subject}")
    journal = Journal(wiring.open_control(topology, clock, chance), clock, chance, "test")
    action = Action(key="r", kind="apply", subject=subject, region=region, reason="asked for")
    name = journal.new_operation("rollout")
    stream = journal.start(name, Plan(feature="rollout", actions=(action,)))
    outcome = Outcome(action="r", result=Result.DONE, finished_at=at)
    stream.append(Kind.OUTCOME, outcome.model_dump(mode="json"), fence=0)
    stream.append(Kind.CLOSED, {"text": "done"}, fence=0)
    return name


def test_what_happened_meanwhile_is_told_with_the_cause(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    at = datetime(SPIKE.year, SPIKE.month, SPIKE.day, 14, tzinfo=UTC)
    name = happen(estate, at, "eu-west-1", "resnet50@v3")
    happen(estate, at, "us-east-1", "resnet50@v3")  # elsewhere
    happen(estate, at, "eu-west-1", "bert@v1")  # another model
    happen(estate, at - timedelta(days=9), "eu-west-1", "resnet50@v2")  # long before
    (row,) = found(estate, code=3)["anomalies"]
    told = estate.good("cost", "explain", row["incident"], "-o", "json").json()
    number = name.rpartition("-")[2]
    assert f"with rollout {number} of resnet50@v3 at 14:00 UTC; $10" in told["headline"]
    (event,) = told["causes"][0]["events"]
    assert (event["operation"], event["kind"]) == (name, "rollout")
    assert told["unknown"] == []
    assert f"rollout {number}" in estate.good("cost", "explain", row["incident"]).out


def test_a_journal_that_cannot_be_read_is_unknown_and_the_rest_is_told(estate: Estate) -> None:
    deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
    (row,) = found(estate, code=3)["anomalies"]
    at = datetime(SPIKE.year, SPIKE.month, SPIKE.day, 14, tzinfo=UTC)
    name = happen(estate, at, "eu-west-1", "resnet50@v3")
    for entry in (estate.folder / "control" / "journal" / name).iterdir():
        entry.write_text("{}")
    ran = estate.good("cost", "explain", row["incident"], "-o", "json")
    told = ran.json()
    assert name in told["unknown"][0]
    assert told["headline"].startswith("eu-west-1 g5.xlarge hours doubled")
    assert "not known" in ran.err


def test_an_incident_that_there_is_not(estate: Estate) -> None:
    deliver(estate, bill(SPIKE), SPIKE + timedelta(days=1))
    require(estate.run("cost", "explain", "7f3a"), 2, "no such incident")


def test_a_report_says_which_of_its_days_are_provisional(estate: Estate) -> None:
    deliver(estate, bill(SPIKE), SPIKE + timedelta(days=1))
    told = estate.good("cost", "report", "-o", "json").json()
    assert len(told["provisional_days"]) == 7
    deliver(estate, bill(date(2026, 9, 30)), date(2026, 10, 12))
    assert estate.good("cost", "report", "-o", "json").json()["provisional_days"] == []


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_a_tag_with_a_secret_in_it_is_never_printed_in_full(output: str, estate: Estate) -> None:
    secret = "AKIAIOSFODNN7EXAMPLE"  # the providers' own example of one
    rows = bill(SPIKE + timedelta(days=1), spike)
    for row in rows:
        row["Tags"] = json.dumps({"model": secret})
    deliver(estate, rows, SPIKE + timedelta(days=2))
    (row,) = found(estate, code=3)["anomalies"]
    for command in (("anomalies",), ("explain", row["incident"])):
        ran = estate.run("cost", *command, "--output", output)
        assert ran.code in {0, 3}
        assert secret not in ran.said


def test_receivers_are_told_once_and_told_when_it_is_taken_back(estate: Estate) -> None:
    topology = estate.folder / "topology.yaml"
    with receiver() as (url, received):
        notify = {"ops": {"kind": "webhook", "variable": "OPS_URL"}}
        deliver(estate, bill(SPIKE + timedelta(days=1), spike), SPIKE + timedelta(days=2))
        require(estate.run("cost", "anomalies", "--notify"), 2, "there is nobody to tell")
        topology.write_text(topology.read_text() + f"traffic: {json.dumps({'notify': notify})}\n")
        require(estate.run("cost", "anomalies", "--notify"), 2, "OPS_URL is not set")

        estate.env["OPS_URL"] = "http://127.0.0.1:1/hook/SECRET-PATH"
        ran = estate.run("cost", "anomalies", "--notify")
        assert ran.code == 3, ran.said
        assert "ops was not told" in ran.err
        assert "SECRET-PATH" not in ran.said

        estate.env["OPS_URL"] = url
        (alarm,) = found(estate, "--notify", code=3)["anomalies"]
        found(estate, "--notify", code=3)
        (told,) = received
        assert told["thread"] == f"mlplatform-cost-{alarm['incident']}"
        assert (told["severity"], told["over"]) == ("warning", False)
        assert "eu-west-1" in told["title"]
        assert told["fields"]["excess"] == alarm["excess"]

        received.clear()
        deliver(estate, bill(SPIKE + timedelta(days=2)), SPIKE + timedelta(days=3))
        for _ in range(2):
            found(estate, "--notify", code=0)
        (told,) = received
        assert (told["severity"], told["over"]) == ("info", True)
        assert "retracted" in told["title"]
