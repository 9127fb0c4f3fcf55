"""Which unfinished uploads may be dropped: decisions as data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Outcome, Plan, Result, Severity
from mlplatform.core.seen import Unknown
from mlplatform.replication.clean import (
    DROP,
    DROPPED,
    FAILED,
    KEPT,
    Leftover,
    Leftovers,
    decide,
    fates_of,
    judge,
    owner_of,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
SUBJECT = ModelVersion("m", "v1")
KEY = "models/m/v1/weights.bin"


def left(
    key: str = KEY,
    *,
    days: float | None = 8,
    region: str = "eu",
    upload: str = "u1",
    droppable: bool = True,
) -> Leftover:
    started = None if days is None else NOW - timedelta(days=days)
    return Leftover(region, key, upload, started, droppable=droppable)


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        (KEY, SUBJECT),
        ("models/m/v1/deep/er/w.bin", SUBJECT),
        ("models/m-v1.2.0.pth", ModelVersion("m", "v1.2.0")),
        ("models/resnet-50-v2.0.0-rc.1.pth", ModelVersion("resnet-50", "v2.0.0-rc.1")),
        ("models/m/w.bin", None),
        ("models/m.pth", None),
        ("models/m/../w.bin", None),
        ("models/ m/v1/w.bin", None),
        ("models/", None),
        ("models", None),
        ("logs/m/v1/w.bin", None),
        (".mlplatform/scratch/n", None),
    ],
)
def test_whose_an_upload_is(key: str, owner: ModelVersion | None) -> None:
    assert owner_of(key) == owner


@pytest.mark.parametrize(
    ("leftover", "result", "why"),
    [
        (left(days=7), DROP, ""),
        (left(days=400), DROP, ""),
        (left("models/m-v1.2.0.pth"), DROP, ""),
        (left(days=6.99), KEPT, "begun less than 168 h ago"),
        (left(days=-1), KEPT, "begun less than 168 h ago"),
        (left(days=None), KEPT, "does not say when it was begun"),
        (left("models/tmp.bin"), KEPT, "another tool's"),
        (left(droppable=False), KEPT, "drops it by itself"),
    ],
)
def test_what_may_be_dropped(leftover: Leftover, result: str, why: str) -> None:
    fate = judge(leftover, NOW, WEEK)
    assert fate.result == result
    assert why in fate.detail


def test_a_plan_names_each_upload_and_nothing_else() -> None:
    seen: Leftovers = {
        "eu": [left(), left(upload="u2", days=1), left(upload="u3"), left("models/o/v1/w")],
        "ap": [left(days=1, region="ap")],
        "us": Unknown("us: no answer"),
    }
    plan = decide(SUBJECT, seen, NOW, WEEK)
    (action,) = plan.actions
    assert (action.region, action.subject, action.severity) == ("eu", "m@v1", Severity.SEVERE)
    assert [each["id"] for each in action.parameters["uploads"]] == ["u1", "u3"]
    assert action.reason == "2 unfinished uploads, begun over 168 h ago"
    assert [(hold.region, hold.unknown) for hold in plan.holds] == [("us", True)]
    again = decide(SUBJECT, seen, NOW + timedelta(hours=1), WEEK)
    assert again.actions[0].key == action.key, "the same uploads are the same act"
    other = decide(SUBJECT, {"eu": [left()]}, NOW, WEEK)
    assert other.actions[0].key != action.key


def test_nothing_left() -> None:
    assert decide(SUBJECT, {"eu": []}, NOW, WEEK) == Plan(feature="clean")


def test_what_became_of_them() -> None:
    gone, good, bad = left(upload="gone"), left(), left(region="ap", upload="u9")
    plan = decide(SUBJECT, {"eu": [good], "ap": [bad]}, NOW, WEEK)
    eu, ap = plan.actions
    fates = fates_of(
        [gone, good, bad],
        plan,
        [
            Outcome(action=eu.key, result=Result.DONE),
            Outcome(action=ap.key, result=Result.FAILED, detail="no right to delete"),
        ],
    )
    assert {each: fate.result for each, fate in fates.items()} == {
        gone: KEPT,
        good: DROPPED,
        bad: FAILED,
    }
    assert fates[bad].detail == "no right to delete"
