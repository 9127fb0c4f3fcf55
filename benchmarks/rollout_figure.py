"""The figure of the verdict's benchmark: an SVG of a few kilobytes, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860
_FONT = 'font-family="sans-serif" font-size="11" role="img"'
_ROW = 22
_TOP = 62
_COLOURS = ("#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7")
"""Okabe and Ito's: told apart by those who do not see all colours."""
_RETURNED, _HELD, _PROMOTED = "#d55e00", "#d9d9d9", "#0072b2"


@dataclass(frozen=True, slots=True)
class Dots:
    """A row of the left side: of each rule, the share returned and its interval."""

    name: str
    rates: Sequence[tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the right side: what ours came to."""

    name: str
    returned: float
    held: float
    promoted: float


def draw(rules: Sequence[str], dots: Sequence[Dots], bars: Sequence[Bar], caption: str) -> str:
    """False alarms by rule on the left, our three verdicts on the right."""
    height = _TOP + _ROW * max(len(dots), len(bars)) + 58
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {_FONT}>',
        f"<title>{escape(caption)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        _text(10, 18, "Healthy canaries returned within the hour", weight="bold"),
        _text(500, 18, "What ours says of a canary", weight="bold"),
    ]
    for at, name in enumerate(rules):
        x = 10.0 + 92 * at
        parts += [
            f'<circle cx="{x + 4:g}" cy="33" r="4" fill="{_COLOURS[at]}"/>',
            _text(x + 12, 37, name.split(",")[0]),
        ]
    for at, (name, colour) in enumerate(
        (("promote", _PROMOTED), ("hold", _HELD), ("roll back", _RETURNED))
    ):
        x = 500.0 + 80 * at
        parts += [
            f'<rect x="{x:g}" y="28" width="10" height="10" fill="{colour}"/>',
            _text(x + 14, 37, name),
        ]
    left, span = 165, 290
    bottom = _TOP + _ROW * len(dots)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + span * share
        parts += [
            f'<path d="M{x:g} {_TOP - 8}V{bottom}" stroke="#ddd"/>',
            _text(x, bottom + 14, f"{share:.0%}", anchor="middle"),
        ]
    x = left + span * 0.05
    parts.append(f'<path d="M{x:g} {_TOP - 8}V{bottom}" stroke="#000" stroke-dasharray="2 2"/>')
    parts.append(_text(x, bottom + 28, "5 %", anchor="middle"))
    for at, row in enumerate(dots):
        y = _TOP + _ROW * at + 6
        parts.append(_text(left - 8, y + 4, row.name, anchor="end"))
        for rule, (rate, low, high) in reversed(list(enumerate(row.rates))):
            shifted, colour = y + 3 * (rule - 2), _COLOURS[rule]
            reach = f"M{left + span * low:.1f} {shifted:g}H{left + span * high:.1f}"
            parts += [
                f'<path d="{reach}" stroke="{colour}" stroke-width="1.5"/>',
                f'<circle cx="{left + span * rate:.1f}" cy="{shifted:g}" r="3.2" fill="{colour}"/>',
            ]
    left, span = 610, 235
    for at, bar in enumerate(bars):
        y = _TOP + _ROW * at - 2
        parts.append(_text(left - 8, y + 12, bar.name, anchor="end"))
        x = float(left)
        for share, colour in (
            (bar.promoted, _PROMOTED), (bar.held, _HELD), (bar.returned, _RETURNED),
        ):  # fmt: skip
            if share > 0:
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{span * share:.1f}" height="{_ROW - 6}" '
                    f'fill="{colour}"/>'
                )
            x += span * share
    parts += [_text(10, height - 8, caption, colour="#555"), "</svg>"]
    return "\n".join(parts) + "\n"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal",
    colour: str = "#222",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )
