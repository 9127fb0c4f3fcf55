"""When a vantage changes its mind: rise, fall, and what is kept when old samples are dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.failover.evidence.record import Path, Sample, Series
from mlplatform.failover.verdict.opinion import Opinion, opinion_after, opinion_before

RISE, FALL = 5, 3


def series(signs: str, before: Opinion | None = None) -> Series:
    """`.` a success, `x` a failure, every 10 s, the newest just now."""
    before = before or Opinion()
    samples = tuple(
        Sample(seconds_ago=10.0 * (len(signs) - 1 - n), ok=sign == ".")
        for n, sign in enumerate(signs)
    )
    return Series(
        region="us",
        path=Path.DIRECT,
        samples=samples,
        up=before.up,
        run=before.run,
        up_seconds_ago=None if before.since is None else -before.since,
    )


@pytest.mark.parametrize(
    ("before", "signs", "up", "since_seconds_ago"),
    [
        (None, "", None, None),
        (None, "....", None, None),
        (None, ".....", True, 40),
        (None, "xx", None, None),
        (None, "xxx", False, 20),
        (None, ".x.x.x.x.x.x", None, None),  # it never made up its mind
        (True, "xx", True, None),
        (True, "xx.xx.xx.", True, None),  # blips
        (True, "..xxx.", False, 30),
        (True, ".xxxxxx", False, 50),
        (False, "....", False, None),
        (False, "....x....", False, None),
        (False, "x.....", True, 40),
        (False, "x....................", True, 190),
    ],
)
def test_rise_and_fall(
    before: bool | None, signs: str, up: bool | None, since_seconds_ago: float | None
) -> None:
    held = opinion_after(series(signs, Opinion(before)), rise=RISE, fall=FALL)
    assert held.up is up
    assert (None if held.since is None else -held.since) == since_seconds_ago


@given(
    st.text(".x", max_size=60),
    st.integers(0, 60),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_dropping_old_samples_changes_no_opinion(
    signs: str, dropped: int, rise: int, fall: int
) -> None:
    """What is dropped is kept as an opinion, a run and a time: nobody can tell the difference.
    Without the run, a vantage that flaps would be called up again as its last failures slide out.
    """
    whole = series(signs)
    pairs = [(sample.ok, -sample.seconds_ago) for sample in whole.samples]
    before = Opinion().after_all(pairs[:dropped], rise=rise, fall=fall)
    kept = Series(
        region="us",
        path=Path.DIRECT,
        samples=whole.samples[dropped:],
        up=before.up,
        up_seconds_ago=None if before.since is None else -before.since,
        run=before.run,
    )
    expected = opinion_after(whole, rise=rise, fall=fall)
    held = opinion_after(kept, rise=rise, fall=fall)
    assert (held.up, held.run) == (expected.up, expected.run)
    if held.since is not None and expected.since is not None:
        assert held.since >= expected.since  # never longer ago than it was
    assert opinion_before(kept).up is before.up


def test_one_by_one_is_all_at_once() -> None:
    held = Opinion()
    signs = "..x.....xxx....x....."
    for n, sign in enumerate(signs):
        held = held.after(sign == ".", float(n), rise=RISE, fall=FALL)
    pairs = [(sign == ".", float(n)) for n, sign in enumerate(signs)]
    assert held == Opinion().after_all(pairs, rise=RISE, fall=FALL)
