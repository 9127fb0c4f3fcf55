"""What a report says in words and in one line, whatever it is written in. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlplatform.core.money import Basis
from mlplatform.rollout.course.approval import Said
from mlplatform.rollout.report.content import Caught, Climb, Content, MetricTold, RegionTold

_STEPS = "▁▂▃▄▅▆▇█"
_WIDEST = 40


def duration(seconds: float | None) -> str:
    """`0.7 s`, `12 s`, `4 min 10 s`, `2 h 5 min`; `unknown`."""
    if seconds is None:
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")


def percent(part: float, whole: float) -> str:
    """A share of requests; a dash where there were none."""
    if not whole:
        return "-"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def e_value(log10_e: float | None) -> str:
    """`42`, `0.15`, `10^9`; a dash where it is not known."""
    if log10_e is None:
        return "-"
    if not -2 <= log10_e < 5:
        return f"10^{log10_e:.0f}"
    value = 10**log10_e
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def caught(found: Caught) -> str:
    """How soon, in a sentence."""
    told = (
        "before it had any request"
        if found.seconds is None
        else f"{duration(found.seconds)} after its first request in {found.region}"
    )
    if found.left_seconds is not None:
        told += f"; no request reached it {duration(found.left_seconds)} later"
    if found.whole_seconds is not None:
        told += f"; all was as before {duration(found.whole_seconds)} after the decision"
    return told


def requests(content: Content) -> str:
    """What the version was asked, and what of it failed."""
    if not content.requests:
        return "none was counted"
    share = percent(content.failures, content.requests)
    return f"{content.requests:,.0f}, of which {content.failures:,.0f} failed ({share})"


def gpu_hours(hours: Mapping[str, float]) -> str:
    """By product."""
    told = [f"{amount:.3g} {product}" for product, amount in hours.items() if amount]
    return " + ".join(told) or "none"


def money(content: Content) -> str:
    """What servers beside those before took and cost."""
    planned, taken = gpu_hours(content.planned_hours), gpu_hours(content.taken_hours)
    told = f"{planned} GPU-hours at the least by the plan, {taken} by how long steps took"
    if planned == taken == "none":
        seconds = sum(region.server_seconds for region in content.regions)
        told = f"no GPU-hours; servers beside those before ran for {duration(seconds)}"
    if content.cost is not None and any(content.cost.total(basis) for basis in Basis):
        told += f"; by list prices the plan was {content.cost}"
    return told


def who(somebody: Said) -> str:
    """Somebody, and whether anybody vouches for it."""
    told = f"verified by {somebody.verified}" if somebody.verified else "unverified"
    return f"{somebody.by} ({told})"


def region_line(region: RegionTold) -> str:
    """What became of a region, in short."""
    told = region.state
    if region.not_begun and region.steps:
        plural = "s" * (region.not_begun != 1)
        told += f"; {region.not_begun} step{plural} of the plan not begun"
    return told


def evidence_line(metric: MetricTold) -> str:
    """The bar and where the evidence stands."""
    return f"e-value {e_value(metric.log10_e)} against it, {e_value(metric.log10_e_needed)} needed"


def events(region: RegionTold) -> str:
    """What befell it while it was watched; empty: nothing."""
    return ", ".join(
        f"{event.value} in {count} window{'s' * (count != 1)}"
        for event, count in region.events.items()
    )


def thinned(climb: Sequence[Climb], most: int) -> Sequence[Climb]:
    """At most so many points: of each stretch the highest, so that no peak is lost, and the last
    one there is."""
    if len(climb) <= most:
        return climb
    size = math.ceil(len(climb) / most)
    parts = [climb[start : start + size] for start in range(0, len(climb), size)]
    highest = [max(part, key=lambda each: each.log10_e) for part in parts]
    return [*highest[:-1], climb[-1]]


def sparkline(climb: Sequence[Climb], needed: float | None) -> str:
    """The climb from 1 to the bar, a character a look: a full block has reached it."""
    return spark([each.log10_e for each in thinned(climb, _WIDEST)], needed)


def spark(values: Sequence[float], needed: float | None) -> str:
    """Powers of ten, from 0 to `needed`, where the bar is."""
    bar = needed if needed is not None and needed > 0 else max([*values, 1e-9])
    last = len(_STEPS) - 1
    return "".join(
        _STEPS[last if each >= bar else max(0, min(last - 1, int(each / bar * last)))]
        for each in values
    )
