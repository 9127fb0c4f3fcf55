"""Axes with round numbers, and the frame of a chart that is inline SVG. Pure.

A chart fills what width there is, so it holds no text, which would be stretched: axes and legend
are HTML around it. Its `aria-label` says what it shows, and a table beside it has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

HEIGHT = 100.0
"""Units of height that every chart has."""
_NICE = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where, and what is written beside it, from below."""

    low: Decimal
    high: Decimal
    ticks: tuple[Decimal, ...]

    def share(self, value: Decimal) -> float:
        """How far up a value is: 0 at the foot, 1 at the top."""
        return float((value - self.low) / (self.high - self.low))

    def y(self, value: Decimal) -> float:
        """Where a value is drawn, in units from the top."""
        return HEIGHT * (1 - self.share(value))


def axis(values: Sequence[Decimal], intervals: int = 4) -> Axis:
    """An axis with zero in it and round numbers at its marks."""
    low, high = min([Decimal(0), *values]), max([Decimal(0), *values])
    if low == high:
        high = Decimal(1)
    rough = (high - low) / intervals
    scale = Decimal(10) ** rough.adjusted()
    step = next(scale * nice for nice in _NICE if scale * nice >= rough)
    first, last = (low / step).to_integral_value("ROUND_FLOOR"), high / step
    count = int(last.to_integral_value("ROUND_CEILING") - first)
    ticks = tuple(step * (first + place) for place in range(count + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def grid(scale: Axis, width: float) -> list[str]:
    """A line across the chart at every mark."""
    return [
        f'<line class="grid" x1="0" x2="{width:g}" y1="{y:g}" y2="{y:g}"/>'
        for y in (scale.y(tick) for tick in scale.ticks)
    ]


def svg(kind: str, width: float, label: str, shapes: Sequence[str]) -> str:
    """A chart of that class, `width` units wide. `shapes` are SVG."""
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:g} {HEIGHT:g}" preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )
