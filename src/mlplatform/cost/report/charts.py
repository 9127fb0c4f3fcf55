"""Charts as inline SVG: bars of days. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

from mlplatform.core.page.axes import Axis, grid, svg
from mlplatform.cost.report.sparkline import Slot

_BAR = 10.0
"""Units of width that a bar has, its gap included."""


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
    zero = scale.y(Decimal(0))
    shapes = grid(scale, width)
    for place, each in enumerate(drawn):
        left = place * _BAR + 1
        title = f"<title>{escape(each.told)}</title>" if each.told else ""
        if each.value is None:
            shapes.append(
                f'<rect class="gap" x="{left:g}" y="{zero - 3:.2f}" width="8" height="3">'
                f"{title}</rect>"
            )
            continue
        top = scale.y(each.value)
        kind = "soft" if each.provisional else "bar"
        shapes.append(
            f'<rect class="{kind}" x="{left:g}" y="{min(top, zero):.2f}" width="8" '
            f'height="{abs(top - zero):.2f}">{title}</rect>'
        )
    if line is not None:
        y = scale.y(line)
        shapes.append(f'<line class="held" x1="0" x2="{width:g}" y1="{y:.2f}" y2="{y:.2f}"/>')
    return svg("chart", width, label, shapes)


def spark(line: Sequence[Slot], label: str) -> str:
    """A row's days in a table's cell, by its own scale."""
    known = [slot.cost for slot in line if slot.cost is not None]
    low, high = min([Decimal(0), *known]), max([Decimal(0), *known])
    scale = Axis(low, high if high > low else low + 1, ())
    zero = scale.y(Decimal(0))
    paths = {"bar": "", "soft": "", "gap": ""}
    for place, slot in enumerate(line):
        left = place * _BAR + 1
        if slot.cost is None:
            paths["gap"] += f"M{left:g} {zero:.0f}h8v-4h-8z"
            continue
        tall = zero - scale.y(slot.cost)
        paths["soft" if slot.provisional else "bar"] += f"M{left:g} {zero:.0f}h8v{-tall:.0f}h-8z"
    shapes = [f'<path class="{kind}" d="{path}"/>' for kind, path in paths.items() if path]
    return svg("spark", _BAR * max(len(line), 1), label, shapes)
