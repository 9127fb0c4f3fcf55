"""A region's course as inline SVG: its share of requests, and the climb of the evidence, over the
same stretch of time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from mlplatform.core.page.axes import HEIGHT, Axis, grid, svg
from mlplatform.rollout.report.content import Climb, Measured, RegionTold, Weighed
from mlplatform.rollout.report.wording import thinned

_WIDTH = 1000.0
_POINTS_MOST = 120
_LOWEST = -3
"""Evidence for the version may sink without end; lower than that is drawn there."""

SHARES = Axis(Decimal(0), Decimal(100), tuple(Decimal(each) for each in (0, 25, 50, 75, 100)))
"""Per cent of a region's requests."""


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a region is drawn."""

    start: datetime
    end: datetime

    def x(self, at: datetime) -> float:
        """Where a moment is, in units from the left."""
        whole = (self.end - self.start).total_seconds() or 1.0
        share = (at - self.start).total_seconds() / whole
        return _WIDTH * min(1.0, max(0.0, share))


def span_of(region: RegionTold) -> Span | None:
    """From its first step to its last; None where none was begun."""
    if region.began is None:
        return None
    ends = [region.ended or region.began, *(each.end for each in region.shares)]
    ends += [step.began for step in region.steps if step.began is not None]
    return Span(region.began, max(ends))


def powers(climbs: Sequence[Climb], needed: float | None) -> Axis:
    """An axis of powers of ten with 1 and the bar in it, and six marks at most."""
    values = [0.0, needed or 0.0, *(each.log10_e for each in climbs)]
    low, high = max(_LOWEST, math.floor(min(values))), max(1, math.ceil(max(values)))
    step = max(1, math.ceil((high - low) / 5))
    first = -step * math.ceil(-low / step)
    last = step * math.ceil(high / step)
    ticks = tuple(Decimal(each) for each in range(first, last + 1, step))
    return Axis(ticks[0], ticks[-1], ticks)


def shares_chart(region: RegionTold, span: Span, label: str) -> str:
    """The weight as it was given, and the share of requests that was measured."""
    shapes = [*_back(region, span), *grid(SHARES, _WIDTH)]
    shapes.append(_measured(region.shares, span))
    shapes.append(f'<path class="line" d="{_stairs(region.weights, span)}"/>')
    return svg("chart short", _WIDTH, label, shapes)


def climb_chart(
    region: RegionTold, climb: Sequence[Climb], needed: float | None, span: Span, label: str
) -> str:
    """The evidence look by look, and the bar."""
    scale = powers(climb, needed)
    shapes = [*_back(region, span), *grid(scale, _WIDTH)]
    if needed is not None:
        y = scale.y(_decimal(needed))
        shapes.append(f'<line class="held" x1="0" x2="{_WIDTH:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
    points = [(span.x(each.at), scale.y(_decimal(each.log10_e))) for each in _few(climb)]
    if points:
        first = f"M{points[0][0]:.1f} {scale.y(Decimal(0)):.1f}"
        path = first + "".join(f"L{x:.1f} {y:.1f}" for x, y in points)
        shapes.append(f'<path class="line" d="{path}"/>')
    return svg("chart short", _WIDTH, label, shapes)


def _back(region: RegionTold, span: Span) -> list[str]:
    """The way back, as a ground behind the rest."""
    began = min((s.began for s in region.steps if s.back and s.began is not None), default=None)
    if began is None:
        return []
    x = span.x(began)
    return [f'<rect class="back" x="{x:.1f}" y="0" width="{_WIDTH - x:.1f}" height="{HEIGHT:g}"/>']


def _stairs(weights: Sequence[Weighed], span: Span) -> str:
    path, zero = f"M0 {HEIGHT:g}", HEIGHT
    for each in weights:
        path += f"H{span.x(each.at):.1f}V{zero * (1 - each.percent / 100):g}"
    return f"{path}H{_WIDTH:g}"


def _measured(shares: Sequence[Measured], span: Span) -> str:
    """A line for each window; windows that follow one another are joined where they are many."""
    size = max(1, math.ceil(len(shares) / _POINTS_MOST))
    path = ""
    for start in range(0, len(shares), size):
        part = shares[start : start + size]
        mean = sum(each.percent for each in part) / len(part)
        y = HEIGHT * (1 - mean / 100)
        path += f"M{span.x(part[0].start):.1f} {y:.1f}H{span.x(part[-1].end):.1f}"
    return f'<path class="faint" d="{path}"/>' if path else ""


def _few(climb: Sequence[Climb]) -> Sequence[Climb]:
    return thinned(climb, _POINTS_MOST)


def _decimal(value: float) -> Decimal:
    return Decimal(f"{max(_LOWEST, value):.4f}")
