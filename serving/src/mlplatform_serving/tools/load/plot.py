"""A load test as one picture, SVG written by hand: latency by percentile, where each further nine
is one step to the right, and below it how each second went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from mlplatform_serving.tools.load.report import OK, Report, percentile

_WIDTH, _LEFT, _RIGHT = 860, 70, 20
_UPPER, _LOWER = (50, 330), (400, 600)
"""Where each panel begins and ends, from the top."""
_NINES = (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999)
_BLUE, _GREY, _RED, _GREEN = "#1f5fa8", "#888888", "#b3261e", "#2e7d32"
_POINTS_MAX = 400
_LEAST_MS = 0.01


def svg(report: Report) -> str:
    """The picture."""
    waited = sorted(each.latency * 1000 for each in report.waited)
    service = sorted(each.service * 1000 for each in report.waited)
    slo_ms = report.slo_seconds * 1000
    values = [max(each, _LEAST_MS) for each in (*waited[-1:], *waited[:1], slo_ms)]
    axis = _Logarithmic(min(values), max(values), *_UPPER)
    parts = [*_head(report), *_upper(axis, len(waited))]
    if report.planned is not None:
        parts.append(_curve(service, axis, _GREY, "service, from when it was sent"))
    parts += [
        _curve(waited, axis, _BLUE, "latency, from when it was due"),
        _line(_LEFT, axis.at(slo_ms), _WIDTH - _RIGHT, axis.at(slo_ms), _RED, dashed=True),
        _text(_WIDTH - _RIGHT, axis.at(slo_ms) - 4, f"{slo_ms:g} ms", end=True, colour=_RED),
        *_lower(report),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Logarithmic:
    """An axis of milliseconds, upwards."""

    def __init__(self, least: float, most: float, top: float, bottom: float) -> None:
        self._low = math.floor(math.log10(least))
        self._high = max(math.ceil(math.log10(most)), self._low + 1)
        self._top, self._bottom = top, bottom

    def at(self, milliseconds: float) -> float:
        share = (math.log10(max(milliseconds, _LEAST_MS)) - self._low) / (self._high - self._low)
        return self._bottom - min(max(share, 0), 1) * (self._bottom - self._top)

    def ticks(self) -> list[float]:
        return [10.0**each for each in range(self._low, self._high + 1)]


def _head(report: Report) -> Iterator[str]:
    title = f"{report.loop}: {', '.join(report.models)}"
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} 640" '
        'font-family="sans-serif" font-size="12">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{_WIDTH}" height="640" fill="#ffffff"/>'
    yield _text(_LEFT, 26, title, size=15)


def _upper(axis: _Logarithmic, count: int) -> Iterator[str]:
    for tick in axis.ticks():
        yield _line(_LEFT, axis.at(tick), _WIDTH - _RIGHT, axis.at(tick), "#dddddd")
        yield _text(_LEFT - 6, axis.at(tick) + 4, f"{tick:g} ms", end=True)
    for quantile in _NINES:
        if quantile == 0 or (1 - quantile) * count >= 1:
            x = _across(quantile)
            yield _line(x, _UPPER[0], x, _UPPER[1], "#eeeeee")
            yield _text(x, _UPPER[1] + 16, f"{quantile * 100:g} %", middle=True)


def _across(quantile: float) -> float:
    """Where a percentile is: one step for each nine."""
    nines = min(-math.log10(max(1 - quantile, 1e-9)), len(_NINES) - 1)
    return _LEFT + nines / (len(_NINES) - 1) * (_WIDTH - _LEFT - _RIGHT)


def _curve(ordered: Sequence[float], axis: _Logarithmic, colour: str, told: str) -> str:
    if not ordered:
        return ""
    nines = math.log10(len(ordered))
    points = []
    for step in range(_POINTS_MAX + 1):
        quantile = 1 - 10 ** (-nines * step / _POINTS_MAX)
        value = percentile(ordered, quantile) or ordered[0]
        points.append(f"{_across(quantile):.1f},{axis.at(value):.1f}")
    return (
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{" ".join(points)}">'
        f"<title>{escape(told)}</title></polyline>"
    )


def _lower(report: Report) -> Iterator[str]:
    """Bars of one second each: good, answered too late, and not answered."""
    top, bottom = _LOWER
    seconds = max(1, math.ceil(report.seconds))
    counted = [[0, 0, 0] for _ in range(seconds)]
    for each in report.samples:
        good = each.status == OK and each.latency <= report.slo_seconds
        kind = 0 if good else 1 if each.status == OK else 2
        counted[min(int(each.due), seconds - 1)][kind] += 1
    most = max(1, *(sum(each) for each in counted))
    width = (_WIDTH - _LEFT - _RIGHT) / seconds
    yield _text(
        _LEFT, top - 12, "by the second in which they were due: good, late, refused or failed"
    )
    yield _text(_LEFT - 6, top + 8, f"{most}/s", end=True)
    yield _line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, _GREY)
    for second, kinds in enumerate(counted):
        y = float(bottom)
        for number, colour in zip(kinds, (_GREEN, "#e0a800", _RED), strict=True):
            height = number / most * (bottom - top)
            y -= height
            if height:
                yield (
                    f'<rect x="{_LEFT + second * width:.1f}" y="{y:.1f}" '
                    f'width="{max(width - 0.5, 0.5):.1f}" height="{height:.1f}" fill="{colour}"/>'
                )
    yield _text(_LEFT, bottom + 18, "0 s")
    yield _text(_WIDTH - _RIGHT, bottom + 18, f"{seconds} s", end=True)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'
    )


def _text(
    x: float,
    y: float,
    told: str,
    *,
    size: int = 12,
    colour: str = "#222222",
    end: bool = False,
    middle: bool = False,
) -> str:
    anchor = "end" if end else "middle" if middle else "start"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(told)}</text>'
    )
