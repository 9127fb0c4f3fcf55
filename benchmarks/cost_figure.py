"""The figure of `docs/adr/0010-what-a-day-should-cost.md`: what is expected of a month of days, one
that is not, and how that is taken back; and AUPRC by cell of the benchmark's grid.

    python -m benchmarks.cost_figure                    draw it again
    python -m benchmarks.cost_figure --measure [SEEDS]  run the grid first, minutes for each seed

The left side is what the detector says of a series that is written here, by sums and without
chance. The right side are the figures that the last run left in `cost_figure.csv`: a run takes
minutes, and a figure should not. An SVG of a few kilobytes, written by hand; a test holds it to
what is drawn.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.cost_detect import (
    CELL_LEAST,
    CELLS,
    FACTOR_LEAST,
    JUDGING_SEED,
    Beside,
    World,
    cells_of,
)
from mlplatform.cost.detect.alarms import WORDS, Reason, Rules, alarms_of
from mlplatform.cost.detect.calendar import calendar_of
from mlplatform.cost.detect.scoring import score

FIGURE = Path(__file__).parents[1] / "docs" / "adr" / "0010-what-a-day-should-cost.svg"
MEASURED = Path(__file__).with_suffix(".csv")
COLUMNS = ("noise", "effect_from", "effect_to", "rate", "ours", "best_peer")

Days = npt.NDArray[np.float64]

FIRST = np.datetime64("2026-06-22")
LAST = np.datetime64("2026-10-12")
SHOWN = 32
"""Days of the drawing, the last ones."""
ODD = np.datetime64("2026-10-07")
RESTATED_TIMES = 1.03
DEVIATIONS = 2.0
"""Of the noise that the series has shown: how wide the band is."""

WIDTH, HEIGHT = 860, 300
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#666"
"""Okabe and Ito's: told apart by those who do not see all colours."""
_RATES = (_BLUE, "#e69f00", "#cc79a7")
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 490.0, 46.0, 250.0


def days() -> npt.NDArray[np.datetime64]:
    """Every day of the series."""
    return np.arange(FIRST, LAST + 1)


def series(odd_times: float) -> Days:
    """Costs: a quarter less at weekends, a third more on the first of a month, noise of about 3 %;
    on one day so many times as much."""
    calendar = calendar_of(days())
    place = np.arange(len(calendar))
    noise = ((place * 7919) % 101) / 50 - 1
    costs = 100 * (1 + 0.05 * noise)
    costs *= np.where(calendar.weekday >= 5, 0.75, 1.0)
    costs *= np.where(calendar.day_of_month == 1, 1.33, 1.0)
    costs *= np.where(days() == ODD, odd_times, 1.0)
    return np.asarray(costs.round(2))


@dataclass(frozen=True, slots=True)
class Story:
    """The days that are drawn, and what is said of one of them."""

    days: npt.NDArray[np.datetime64]
    costs: Days
    restated: float
    expected: Days
    low: Days
    high: Days
    odd: int
    said: str
    then: str


def story() -> Story:
    """What the detector says, before and after the bill is restated."""
    calendar = calendar_of(days())
    odd = int((ODD - FIRST).astype(int))
    told = []
    for times in (2.0, RESTATED_TIMES):
        costs = series(times)[None]
        scores = score(costs, calendar)
        alarms = alarms_of(costs, scores, calendar, Rules())
        excess = costs[0, odd] - scores.expected[0, odd]
        told.append((costs[0], scores, bool(alarms.alarm[0, odd]), alarms.reason[0, odd], excess))
    (costs, scores, alarm, reason, excess), (after, _, still, _, rest) = told
    if not alarm or still:
        raise ValueError("the story is another one: see `alarms_of`")
    expected, noise = scores.expected[0], scores.noise[0]
    share = excess / expected[odd]
    first = len(costs) - SHOWN
    return Story(
        days=days()[first:],
        costs=costs[first:],
        restated=float(after[odd]),
        expected=expected[first:],
        low=(expected * np.exp(-DEVIATIONS * noise))[first:],
        high=(expected * np.exp(DEVIATIONS * noise))[first:],
        odd=odd - first,
        said=f"{WORDS[Reason(reason)]}: {excess:+.0f} on {expected[odd]:.0f} ({share:+.0%})",
        then=f"restated: {rest:+.0f}, the alarm is retracted",
    )


def measured() -> Beside:
    """The grid's figures as they were kept, in the order of its cells."""
    with MEASURED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [tuple(float(row[name]) for name in COLUMNS[:4]) for row in rows]
    if kept != [(noise, *effect, rate) for noise, effect, rate in CELLS]:
        raise ValueError(f"{MEASURED.name} is of another grid: run with --measure")
    return Beside([float(row["ours"]) for row in rows], [float(row["best_peer"]) for row in rows])


def measure(seeds: int) -> None:
    """Run the grid on seeds for judging, and keep what it gives; a cell is that of all seeds."""
    runs = [cells_of(World(), JUDGING_SEED + 10_000 * seed) for seed in range(seeds)]
    keep([run.ours for run in runs], [run.best for run in runs])


def keep(ours: Sequence[Sequence[float]], best: Sequence[Sequence[float]]) -> None:
    """Write the cells' figures, the geometric means over seeds."""
    with MEASURED.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for place, (noise, effect, rate) in enumerate(CELLS):
            both = (_mean([run[place] for run in runs]) for runs in (ours, best))
            writer.writerow([noise, *effect, rate, *(f"{each:.4f}" for each in both)])


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def draw() -> str:
    """The whole figure."""
    caption = "What a day should cost, an alarm that is taken back, and AUPRC beside the best peer"
    font = 'font-family="sans-serif" font-size="11" role="img"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>',
        f"<title>{escape(caption)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *_story(story()),
        *_grid(measured()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _story(told: Story) -> Iterator[str]:
    most = 20 * math.ceil(max(told.costs.max(), told.high.max()) / 20)
    count = len(told.days)

    def x(place: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (place + 0.5) / count

    def y(cost: float) -> float:
        return float(_BOTTOM - (_BOTTOM - _TOP) * cost / most)

    yield _text(10, 18, "A series' days, beside what was expected of each", weight="bold")
    for cost in range(0, most + 1, 40):
        yield _line(_LEFT, y(cost), _RIGHT, y(cost), "#e5e5e5")
        yield _text(_LEFT - 6, y(cost) + 4, str(cost), anchor="end")
    for place, day in enumerate(told.days):
        if day.astype(object).isoweekday() == 1:
            yield _text(x(place), _BOTTOM + 15, f"{day.astype(object):%d %b}", anchor="middle")
            yield _line(x(place), _BOTTOM, x(place), _BOTTOM + 4, "#999")
    edge = [
        *((x(place), y(high)) for place, high in enumerate(told.high)),
        *reversed([(x(place), y(low)) for place, low in enumerate(told.low)]),
    ]
    yield f'<path d="M{_points(edge)}Z" fill="{_BLUE}" fill-opacity="0.16"/>'
    middle = [(x(place), y(cost)) for place, cost in enumerate(told.expected)]
    yield f'<path d="M{_points(middle)}" fill="none" stroke="{_BLUE}" stroke-width="1.2"/>'
    for place, cost in enumerate(told.costs):
        if place != told.odd:
            yield f'<circle cx="{x(place):.1f}" cy="{y(cost):.1f}" r="2.6" fill="#222"/>'
    at, before, after = x(told.odd), y(told.costs[told.odd]), y(told.restated)
    yield _line(at, before + 7, at, after - 7, _GREEN, dash="3 2")
    yield f'<circle cx="{at:.1f}" cy="{before:.1f}" r="3" fill="{_ORANGE}"/>'
    ring = f'r="6.5" fill="none" stroke="{_ORANGE}" stroke-width="1.5"'
    yield f'<circle cx="{at:.1f}" cy="{before:.1f}" {ring}/>'
    hollow = f'r="3.4" fill="#fff" stroke="{_GREEN}" stroke-width="1.8"'
    yield f'<circle cx="{at:.1f}" cy="{after:.1f}" {hollow}/>'
    yield _text(at - 12, before + 4, f"alarm: {told.said}", anchor="end", colour=_ORANGE)
    between = (before + after) / 2
    yield _text(at - 8, between + 4, told.then, anchor="end", colour=_GREEN)
    key = f"line: expected; band: ± {DEVIATIONS:g} deviations of its noise; dots: the bill"
    yield _text(10, HEIGHT - 10, key, colour=_GREY)


def _grid(beside: Beside) -> Iterator[str]:
    left, right, most = 670.0, 845.0, 8.0
    rates = sorted({rate for _, _, rate in CELLS})
    rows = list(dict.fromkeys((noise, effect) for noise, effect, _ in CELLS))
    step = (_BOTTOM - _TOP) / len(rows)

    def x(ratio: float) -> float:
        return left + (right - left) * math.log(ratio / 0.8) / math.log(most / 0.8)

    yield _text(530, 18, "AUPRC, as times the best peer's", weight="bold")
    for place, rate in enumerate(rates):
        at = 530.0 + 110 * place
        yield f'<circle cx="{at + 4:g}" cy="32" r="3.4" fill="{_RATES[place]}"/>'
        yield _text(at + 12, 36, f"{100 * rate:g} % of days")
    for times in (1, 2, 4, 8):
        yield _line(x(times), _TOP, x(times), _BOTTOM, "#bbb" if times == 1 else "#e5e5e5")
        yield _text(x(times), _BOTTOM + 15, f"{times}×", anchor="middle")
    yield _line(x(CELL_LEAST), _TOP, x(CELL_LEAST), _BOTTOM, "#000", dash="2 2")
    for place, (noise, effect) in enumerate(rows):
        middle = _TOP + step * (place + 0.5)
        named = f"noise {100 * noise:.0f} %, +{100 * effect[0]:.0f}-{100 * effect[1]:.0f} %"
        yield _text(left - 20, middle + 4, named, anchor="end")
        for cell, ratio in zip(CELLS, beside.ratios, strict=True):
            if cell[:2] == (noise, effect):
                which = rates.index(cell[2])
                dot = f'cx="{x(ratio):.1f}" cy="{middle + 6 * (which - 1):.1f}" r="3.4"'
                yield f'<circle {dot} fill="{_RATES[which]}"/>'
    told = (
        f"geometric mean {beside.factor:.2f} (asked {FACTOR_LEAST}), "
        f"worst cell {min(beside.ratios):.2f} ({CELL_LEAST}, dashed)"
    )
    yield _text(WIDTH - 8, HEIGHT - 10, told, anchor="end", colour=_GREY)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, *, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colour}"{dashed}/>'


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal",
    colour: str = "#222",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )


def main(arguments: Sequence[str]) -> None:
    """Draw, after measuring if that is asked for."""
    if arguments[:1] == ["--measure"]:
        measure(int(arguments[1]) if len(arguments) > 1 else 2)
    FIGURE.write_text(draw())
    print(f"wrote {FIGURE.name}, {FIGURE.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
