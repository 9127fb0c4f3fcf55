"""Charts as inline SVG: bars of days. Pure.

A chart fills what width there is, so it holds no text, which would be stretched: axes and legend
are HTML around it. Its `aria-label` says what it shows, and a table beside it has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

from mlplatform.cost.report.sparkline import Slot

_HEIGHT = 100.0
_BAR = 10.0
"""Units of width that a bar has, its gap included."""
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """A bar: what it is worth (None: unknown), and what a pointer that rests on it is told."""

    value: Decimal | None
    told: str = ""
    provisional: bool = False


def bars(drawn: Sequence[Drawn], scale: Axis, label: str, *, line: Decimal | None = None) -> str:
    """Bars from zero; a provisional one is outlined, an unknown one is a mark at the foot. `line`:
    a value to hold them against."""
    width = _BAR * max(len(drawn), 1)
    zero = _y(scale, Decimal(0))
    shapes = [
        f'<line class="grid" x1="0" x2="{width:g}" y1="{y:g}" y2="{y:g}"/>'
        for y in (_y(scale, tick) for tick in scale.ticks)
    ]
    for place, each in enumerate(drawn):
        left = place * _BAR + 1
        title = f"<title>{escape(each.told)}</title>" if each.told else ""
        if each.value is None:
            shapes.append(
                f'<rect class="gap" x="{left:g}" y="{zero - 3:.2f}" width="8" height="3">'
                f"{title}</rect>"
            )
            continue
        top = _y(scale, each.value)
        kind = "soft" if each.provisional else "bar"
        shapes.append(
            f'<rect class="{kind}" x="{left:g}" y="{min(top, zero):.2f}" width="8" '
            f'height="{abs(top - zero):.2f}">{title}</rect>'
        )
    if line is not None:
        y = _y(scale, line)
        shapes.append(f'<line class="held" x1="0" x2="{width:g}" y1="{y:.2f}" y2="{y:.2f}"/>')
    return _svg("chart", width, label, shapes)


def spark(line: Sequence[Slot], label: str) -> str:
    """A row's days in a table's cell, by its own scale."""
    known = [slot.cost for slot in line if slot.cost is not None]
    low, high = min([Decimal(0), *known]), max([Decimal(0), *known])
    scale = Axis(low, high if high > low else low + 1, ())
    zero = _y(scale, Decimal(0))
    paths = {"bar": "", "soft": "", "gap": ""}
    for place, slot in enumerate(line):
        left = place * _BAR + 1
        if slot.cost is None:
            paths["gap"] += f"M{left:g} {zero:.0f}h8v-4h-8z"
            continue
        tall = zero - _y(scale, slot.cost)
        paths["soft" if slot.provisional else "bar"] += f"M{left:g} {zero:.0f}h8v{-tall:.0f}h-8z"
    shapes = [f'<path class="{kind}" d="{path}"/>' for kind, path in paths.items() if path]
    return _svg("spark", _BAR * max(len(line), 1), label, shapes)


def _y(scale: Axis, value: Decimal) -> float:
    return _HEIGHT * (1 - scale.share(value))


def _svg(kind: str, width: float, label: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:g} {_HEIGHT:g}" preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )
