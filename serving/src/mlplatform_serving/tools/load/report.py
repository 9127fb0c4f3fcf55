"""What a load test has found, from every single request: nothing is sampled and nothing is put into
buckets, so percentiles are exact (nearest rank: the smallest value that so many are no larger
than)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OK = 200
TIMEOUT, BROKEN = "no answer in time", "connection"
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_NAMES = {0.5: "p50", 0.9: "p90", 0.95: "p95", 0.99: "p99", 0.999: "p99_9"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request; times in seconds from the start of the test."""

    due: float
    """When it was to be sent; in a closed loop, when it was."""
    sent: float
    done: float
    status: int | str
    """HTTP's, or what went wrong instead of an answer."""

    @property
    def latency(self) -> float:
        """As its user has it: from when it was due. A server that stalls is charged for all who
        came meanwhile, though they were sent late, or never."""
        return self.done - self.due

    @property
    def service(self) -> float:
        """From when it was sent."""
        return self.done - self.sent


def percentile(ordered: Sequence[float], quantile: float) -> float | None:
    """Of values in order; None where there is none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """In milliseconds, the greatest too."""
    ordered = sorted(values)
    told = {_NAMES[each]: _ms(percentile(ordered, each)) for each in QUANTILES}
    return {**told, "max": _ms(ordered[-1] if ordered else None)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


@dataclass(frozen=True, slots=True)
class Report:
    """What was asked, and what came."""

    loop: str
    """How it was asked, in words; says of a closed loop what that means."""
    models: tuple[str, ...]
    seconds: float
    """From the first request's due time to the end of the plan."""
    slo_seconds: float
    planned: int | None
    """How many were due; None in a closed loop, which has no plan."""
    samples: tuple[Sample, ...]

    @property
    def answered(self) -> list[Sample]:
        """Those with an inference in the answer."""
        return [each for each in self.samples if each.status == OK]

    @property
    def waited(self) -> list[Sample]:
        """Those answered, and those who waited in vain for as long as they would: left out, the
        worst of all would make the percentiles better."""
        return [each for each in self.samples if each.status in (OK, TIMEOUT)]

    @property
    def good(self) -> int:
        """Answered, within the objective."""
        return sum(each.latency <= self.slo_seconds for each in self.answered)

    @property
    def good_share(self) -> float | None:
        """Of all that were asked; what was refused, or failed, is not good. None of nothing."""
        asked = len(self.samples) if self.planned is None else self.planned
        return self.good / asked if asked else None

    def statuses(self) -> dict[str, int]:
        """How many ended how."""
        return {
            str(status): count
            for status, count in sorted(
                Counter(each.status for each in self.samples).items(), key=lambda each: str(each[0])
            )
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, but for the single requests; times in milliseconds."""
        answered = self.answered
        return {
            "schema_version": 1,
            "loop": self.loop,
            "models": list(self.models),
            "seconds": round(self.seconds, 3),
            "planned": self.planned,
            "sent": len(self.samples),
            "statuses": self.statuses(),
            "answered_per_second": round(len(answered) / self.seconds, 3),
            "latency_ms": percentiles([each.latency for each in self.waited]),
            "service_ms": percentiles([each.service for each in self.waited]),
            "refused_ms": percentiles(
                [each.latency for each in self.samples if each.status not in (OK, TIMEOUT)]
            ),
            "late_ms": percentiles([each.sent - each.due for each in self.samples]),
            "slo_ms": round(self.slo_seconds * 1000, 3),
            "goodput_per_second": round(self.good / self.seconds, 3),
            "good_share": None if self.good_share is None else round(self.good_share, 6),
        }

    def lines(self) -> list[str]:
        """For people."""
        told = self.as_json()
        planned = "" if self.planned is None else f" of {self.planned} that were due"
        late = told["late_ms"]
        ended = ", ".join(f"{each}: {count}" for each, count in told["statuses"].items())
        share = "unknown" if self.good_share is None else f"{self.good_share:.2%}"
        lines = [
            f"{self.loop}: {', '.join(self.models)}",
            f"sent      {len(self.samples)}{planned}; late by {_row(late)}",
            f"ended     {ended or 'none'}",
            f"latency   {_row(told['latency_ms'])}",
        ]
        if self.planned is not None:
            lines.append(f"service   {_row(told['service_ms'])} (from when it was sent)")
        lines.append(
            f"goodput   {told['goodput_per_second']:g}/s within {told['slo_ms']:g} ms, {share}"
        )
        return lines


def _row(told: dict[str, float | None]) -> str:
    return "  ".join(f"{name.replace('_', '.')} {_told(value)}" for name, value in told.items())


def _told(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "none"
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3g} s"
