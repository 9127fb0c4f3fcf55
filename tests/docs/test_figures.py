"""The figures of decisions are what their scripts draw: who changes the detector, or measures
again, draws them again."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from benchmarks import cost_figure

SIZE_MOST = 16_000


def test_what_a_day_should_cost() -> None:
    drawn = cost_figure.draw()
    assert cost_figure.FIGURE.read_text() == drawn, "python -m benchmarks.cost_figure"
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert len(drawn) < SIZE_MOST
    page = cost_figure.FIGURE.with_suffix(".md").read_text()
    assert f"]({cost_figure.FIGURE.name})" in page
    beside = cost_figure.measured()
    # No dot lies outside, and the page's table says what the figure does.
    assert all(0.8 <= ratio <= 8 for ratio in beside.ratios)
    assert f"| the grid | {beside.factor:.2f} | {min(beside.ratios):.2f} |" in page


def test_the_story_is_the_detector_s() -> None:
    told = cost_figure.story()
    assert str(told.days[told.odd]) == str(cost_figure.ODD)
    outside = (told.costs > told.high) | (told.costs < told.low)
    assert outside.sum() <= 2, "but for the odd day the band holds the days"
    assert outside[told.odd]
    assert told.low[told.odd] <= told.restated <= told.high[told.odd]
