"""What `replicate --watch` measures, from a grid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlplatform.core.placement import Grid, Integrity, ModelVersion, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.replication import watch
from mlplatform.replication.operations import pending

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SUBJECT = ModelVersion("resnet50", "v1")
LABELS = {"model": "resnet50", "version": "v1"}


def cell(
    region: str,
    rung: Rung | Unknown,
    integrity: Integrity,
    *,
    wanted: bool = True,
    stored_minutes_ago: float | None = None,
) -> Placement:
    stored = None if stored_minutes_ago is None else NOW - timedelta(minutes=stored_minutes_ago)
    return Placement(
        SUBJECT, region, rung, integrity, size_bytes=1000, stored_at=stored, wanted=wanted
    )


HOME = cell("us", Rung.STORED, Integrity.VERIFIED, stored_minutes_ago=20)


@pytest.mark.parametrize(
    ("target", "lag_seconds", "pending_bytes", "mismatch", "present"),
    [
        (cell("eu", Rung.STORED, Integrity.VERIFIED, stored_minutes_ago=1), 0, 0, 0, 1.0),
        (cell("eu", Rung.ABSENT, Integrity.ABSENT), 1200, 1000, 0, 0.5),
        (cell("eu", Rung.ABSENT, Integrity.PARTIAL), 1200, 1000, 0, 0.5),
        (cell("eu", Rung.ABSENT, Integrity.MISMATCH), 1200, 1000, 1, 0.5),
        (cell("eu", Rung.ABSENT, Integrity.ABSENT, wanted=False), None, None, None, 1.0),
        (cell("eu", Unknown("no answer"), Integrity.UNKNOWN), None, None, None, 1.0),
    ],
    ids=["there", "absent", "partial", "mismatch", "not wanted", "unknown"],
)
def test_lag_pending_and_mismatch(
    target: Placement,
    lag_seconds: float | None,
    pending_bytes: float | None,
    mismatch: float | None,
    present: float,
) -> None:
    unreadable = {"eu": "no answer"} if isinstance(target.rung, Unknown) else {}
    watch.measure(Grid((HOME, target), unreadable), ["us", "eu"], NOW)
    lags = {labels[3]: value for labels, value in watch.lag.samples()}
    assert lags.get("eu") == lag_seconds
    assert lags["us"] == 0
    waiting = {labels[0]: value for labels, value in watch.pending.samples()}
    assert waiting.get("eu") == (pending_bytes or None)
    found = {labels[2]: value for labels, value in watch.mismatch.samples()}
    assert found.get("eu") == mismatch
    assert watch.present.value(model="resnet50") == present
    assert watch.readable.value(region="eu") == (0 if unreadable else 1)


def test_a_version_that_is_nowhere_has_no_lag_but_is_pending() -> None:
    absent = [cell(region, Rung.ABSENT, Integrity.ABSENT) for region in ("us", "eu")]
    grid = Grid(tuple(absent))
    watch.measure(grid, ["us", "eu"], NOW)
    assert watch.lag.samples() == []
    assert [
        (each.placement.region, each.size_bytes, each.lag_seconds) for each in pending(grid, NOW)
    ] == [
        ("us", None, None),
        ("eu", None, None),
    ]
