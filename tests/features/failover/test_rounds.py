"""Which probes are due, and what the record says after them: judged as data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlplatform.core.golden import GoldenRequest
from mlplatform.core.placement import ModelVersion
from mlplatform.core.topology import Topology
from mlplatform.core.traffic import Probing
from mlplatform.failover.evidence.record import (
    SAMPLES_KEPT,
    GoldenAnswer,
    Path,
    Sample,
    VantageRecord,
)
from mlplatform.failover.vantage.rounds import (
    Heading,
    Met,
    Rotation,
    Target,
    aged,
    blindness,
    encoded,
    golden_answer,
    newest,
    next_record,
    sample_of,
    served_version,
    targets_of,
)
from mlplatform.failover.verdict.opinion import opinion_after
from mlplatform.ports.probe import Answer

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PROBING = Probing()
US = Target("us", Path.DIRECT, None, "http://us")
DOOR = Target("", Path.FRONT_DOOR, "api", "http://door")


def topology(*, models: int = 3, regions: tuple[str, ...] = ("us", "eu")) -> Topology:
    first, *rest = regions
    return Topology.model_validate(
        {
            "control": "memory://control",
            "regions": {
                name: {"store": f"memory://{name}", "endpoint": f"http://{name}.test"}
                for name in regions
            },
            "models": {
                f"m{n}": {"version": "v1", "home": first, "replicate_to": rest}
                for n in range(models)
            },
            "traffic": {
                "routes": {"api": {"actuator": "memory://a", "front_door": "http://door.test"}}
            },
        }
    )


# --- what is due --------------------------------------------------------------------------------


def test_every_region_s_front_end_and_every_front_door() -> None:
    assert [str(target) for target in targets_of(topology())] == ["us", "eu", "api (front door)"]


@pytest.mark.parametrize(
    ("load", "last", "budget", "without", "due"),
    [
        ({}, None, 2, (), "m0 m1"),
        ({}, "m1", 2, (), "m2 m3"),
        ({}, "m3", 2, (), "m4 m0"),
        ({}, "gone", 2, (), "m0 m1"),
        ({}, "m1", 9, (), "m2 m3 m4 m0 m1"),
        ({}, "m1", 0, (), ""),
        ({}, None, 2, ("m0",), "m1 m2"),
        ({}, "m3", 2, ("m4", "m0", "m1"), "m2 m3"),
        ({}, "m0", 2, ("m0", "m1", "m2", "m3", "m4"), ""),
        ({"m3": 50.0, "m1": 7.0}, None, 3, (), "m3 m1 m0"),
        ({"m3": 50.0, "m1": 7.0}, "m1", 3, (), "m0 m2 m4"),
    ],
    ids=[
        *("the first", "then the next", "round and round", "one that is gone", "each only once"),
        *("no budget", "one without requests", "several", "none has any"),
        *("the busiest first", "then the others"),
    ],
)
def test_models_take_turns(
    load: dict[str, float], last: str | None, budget: int, without: tuple[str, ...], due: str
) -> None:
    left_out = {ModelVersion(name, "v1") for name in without}
    found = Rotation(topology(models=5), load).due("us", last, budget, left_out)
    assert " ".join(subject.model for subject in found) == due


def test_a_model_is_asked_for_where_it_belongs() -> None:
    told = topology().model_dump(mode="json")
    told["models"]["m0"]["replicate_to"] = []
    rotation = Rotation(Topology.model_validate(told), {})
    assert [each.model for each in rotation.due("eu", None, 9)] == ["m1", "m2"]


def test_everybody_gets_a_turn_in_50_regions_with_2000_models() -> None:
    regions = tuple(f"r{n}" for n in range(50))
    rotation = Rotation(topology(models=2000, regions=regions), {"m7": 1.0})
    asked: dict[str, list[str]] = {region: [] for region in regions}
    for _ in range(500):
        for region in regions:
            last = asked[region][-1] if asked[region] else None
            asked[region] += [each.model for each in rotation.due(region, last, 4)]
    assert all(len(models) == len(set(models)) == 2000 for models in asked.values())


# --- what an answer says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "ok", "error", "detail"),
    [
        (Answer(0.1, status=200), True, "", ""),
        (Answer(0.6, status=204), True, "", ""),
        (Answer(0.1, status=503), False, "status", "HTTP 503"),
        (Answer(0.1, status=302), False, "status", "HTTP 302"),
        (Answer(5.0, error="timeout", detail="in tls"), False, "timeout", "in tls"),
        (Answer(1.0, status=200, error="answer", detail="cut"), False, "answer", "cut"),
    ],
    ids=["200", "slow, and good", "503", "redirect", "no answer", "half an answer"],
)
def test_samples(answer: Answer, ok: bool, error: str, detail: str) -> None:
    sample = sample_of(answer, seconds_ago=0.25)
    assert (sample.ok, sample.error, sample.detail) == (ok, error, detail)
    assert (sample.seconds, sample.seconds_ago) == (answer.seconds, 0.25)


def test_the_front_door_says_who_answered() -> None:
    sample = sample_of(
        Answer(0.1, status=200, headers={"x-mlplatform-region": "eu"}), seconds_ago=0
    )
    assert sample.region == "eu"


DARK = Answer(5.0, error="timeout", detail="in connect")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({}, ""),
        ({"a": Answer(0.1, status=200)}, ""),
        ({"a": Answer(0.1, status=404)}, ""),
        ({"a": DARK, "b": Answer(0.1, status=500)}, ""),
        ({"a": DARK}, "no reference could be reached: a: timeout: in connect"),
        (
            {"a": DARK, "b": DARK},
            "no reference could be reached: a: timeout: in connect, and 1 more",
        ),
        (
            {"a": Answer(0.1, error="certificate", detail="self-signed")},
            "no reference could be reached: a: certificate: self-signed",
        ),
    ],
    ids=[
        *("none is named", "reached", "any answer will do", "any one will do", "dark", "all dark"),
        "a hotel's portal is no reference",
    ],
)
def test_who_reaches_no_reference_is_blind(answers: dict[str, Answer], why: str) -> None:
    assert blindness(answers) == why


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"name": "m", "versions": ["v1"], "digest": "blake3:aa"}', ("v1", "blake3:aa")),
        (b'{"versions": ["v1", "v2"], "digest": "blake3:aa"}', (None, "blake3:aa")),
        (b'{"versions": ["v1", "v2"], "version": "v2"}', ("v2", None)),
        (b'{"versions": [1]}', (None, None)),
        (b"garbage", (None, None)),
        (b"[]", (None, None)),
    ],
)
def test_what_metadata_says(body: bytes, said: tuple[str | None, str | None]) -> None:
    assert served_version(body) == said


GOLDEN = GoldenRequest({"inputs": []}, ({"name": "y", "data": [1]},))


@pytest.mark.parametrize(
    ("answer", "ok", "detail", "version"),
    [
        (
            Answer(0.1, status=200, body=b'{"outputs": [{"name": "y", "data": [1]}]}'),
            *(True, "", "v1"),
        ),
        (
            Answer(
                0.1,
                status=200,
                body=b'{"model_version": "v0", "outputs": [{"name": "y", "data": [2]}]}',
            ),
            *(False, "output 'y': value 0 is 2 instead of 1, within 0", "v0"),
        ),
        (Answer(0.1, status=500, body=b'{"error": "no GPU"}'), False, "HTTP 500: no GPU", "v1"),
        (Answer(0.1, status=404), False, "HTTP 404", "v1"),
        (DARK, False, "timeout: in connect", "v1"),
        (Answer(0.1, status=200, body=b"<html>"), False, "the answer has no outputs", "v1"),
    ],
    ids=["right", "wrong", "500", "not there", "no answer", "not JSON"],
)
def test_golden_answers(answer: Answer, ok: bool, detail: str, version: str) -> None:
    found = golden_answer("us", ModelVersion("m", "v1"), GOLDEN, answer, digest="blake3:aa")
    assert (found.ok, found.detail, found.version, found.digest) == (
        *(ok, detail, version),
        "blake3:aa",
    )


# --- the record ---------------------------------------------------------------------------------


def heading(number: int) -> Heading:
    return Heading("fra", number, NOW, 10.0, "ops@host:1")


def after(before: VantageRecord | None, sign: str, *, elapsed: float = 10.0) -> VantageRecord:
    """One more round: `.` a success of the region us, `x` a failure."""
    sample = Sample(seconds_ago=0.5, ok=sign == ".", seconds=0.1)
    number = before.round + 1 if before else 1
    met = Met(((US, sample, None),))
    return next_record(before, elapsed, heading(number), met, (US, DOOR), PROBING)


def test_a_record_grows_and_ages() -> None:
    record = after(after(None, "."), "x")
    us, door = record.series
    assert [(each.ok, each.seconds_ago) for each in us.samples] == [(True, 10.5), (False, 0.5)]
    assert (door.route, door.path, door.samples) == ("api", Path.FRONT_DOOR, ())
    assert (record.vantage, record.round, record.writer) == ("fra", 2, "ops@host:1")


def test_it_keeps_so_many_samples_and_comes_to_the_same_opinion() -> None:
    signs = "xxx" + ".x" * 20 + "....."
    record: VantageRecord | None = None
    whole = []
    for sign in signs:
        record = after(record, sign)
        whole.append(sign)
    assert record is not None
    series = record.series[0]
    assert len(series.samples) == SAMPLES_KEPT
    assert series.up is False  # the three at the start, which nobody sees any more
    assert opinion_after(series, rise=PROBING.rise, fall=PROBING.fall).up is True
    assert series.up_seconds_ago is not None
    assert series.up_seconds_ago > SAMPLES_KEPT * 10


def test_the_last_good_certificate_is_remembered() -> None:
    end = NOW + timedelta(days=3)
    good = Met(((US, Sample(seconds_ago=0, ok=True), end),))
    bad = Met(((US, Sample(seconds_ago=0, ok=False, error="certificate"), None),))
    first = next_record(None, 0, heading(1), good, (US,), PROBING)
    then = next_record(first, 10, heading(2), bad, (US,), PROBING)
    assert then.series[0].certificate_expires_at == end


def test_what_is_no_target_any_more_is_forgotten() -> None:
    gone = Target("gone", Path.DIRECT, None, "http://gone")
    answer = GoldenAnswer(region="gone", model="m", version="v1", seconds_ago=0, ok=True)
    met = Met(((gone, Sample(seconds_ago=0, ok=True), None),), (answer,), turns={"gone": "m"})
    first = next_record(None, 0, heading(1), met, (US, gone), PROBING)
    then = next_record(first, 10, heading(2), Met(), (US,), PROBING)
    assert [series.region for series in then.series] == ["us"]
    assert (then.golden, then.turns) == ((), {})


def test_a_blind_round_leaves_no_samples_and_says_why() -> None:
    before = after(None, ".")
    blind = next_record(before, 10, heading(2), Met(blind="no reference"), (US,), PROBING)
    assert blind.blind == "no reference"
    assert [each.seconds_ago for each in blind.series[0].samples] == [10.5]


def test_a_record_survives_being_written() -> None:
    answer = GoldenAnswer(region="us", model="m", version=None, seconds_ago=1.5, ok=False)
    met = Met(((US, sample_of(DARK, seconds_ago=2), NOW),), (answer,), turns={"us": "m"})
    record = next_record(None, 0, heading(7), met, (US, DOOR), PROBING)
    assert newest([encoded(record)]) == record


def test_of_several_copies_the_newest_counts_and_broken_ones_do_not() -> None:
    old, new = after(None, "."), after(after(None, "."), "x")
    assert newest([encoded(old), b"{", encoded(new)]) == new
    assert newest([]) is None
    with pytest.raises(ValueError, match="validation error"):
        newest([b"{", b"null"])


def test_a_clock_that_went_back_makes_nothing_younger() -> None:
    record = after(None, ".")
    assert aged(record, -3600) == record
    assert aged(record, 5).series[0].samples[0].seconds_ago == 5.5


def test_a_record_of_50_regions_is_bounded() -> None:
    targets = [Target(f"r{n}", Path.DIRECT, None, "http://x") for n in range(50)]
    met = Met(
        tuple((each, Sample(seconds_ago=0, ok=True, seconds=0.1), None) for each in targets),
        tuple(
            GoldenAnswer(region=each.region, model=f"m{n}", version="v1", seconds_ago=0, ok=True)
            for each in targets
            for n in range(4)
        ),
    )
    record: VantageRecord | None = None
    for number in range(1, 81):
        record = next_record(record, 10, heading(number), met, targets, PROBING)
    assert record is not None
    assert len(encoded(record)) < 1_500_000
