"""Golden requests: real inputs with the outputs that a version must give. They travel with it, as
the file that its manifest names; the control plane's prober and rollouts use the same.

A line is `{"request": …, "expect": {"outputs": […]}, "tolerance": 0.001}`, where `tolerance` is by
how much a number may be off (0 unless given). The rule is the control plane's, and a test holds the
two together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

GOLDEN_FILE = "golden.ndjson"
"""The name that `mlplatform publish` looks for."""
GOLDEN_BYTES_MAX = 16 * 1024**2


class NotGolden(Exception):
    """A line is no golden request, or there is none; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class GoldenRequest:
    """One input, and what is expected of it."""

    request: dict[str, Any]
    outputs: tuple[dict[str, Any], ...]
    tolerance: float = 0.0

    @property
    def body(self) -> bytes:
        """The request as it is sent."""
        return msgspec.json.encode(self.request)

    @property
    def line(self) -> bytes:
        """As it stands in the file."""
        told = {"request": self.request, "expect": {"outputs": list(self.outputs)}}
        if self.tolerance:
            told["tolerance"] = self.tolerance  # type: ignore[assignment]
        return msgspec.json.encode(told) + b"\n"

    def difference(self, answer: object) -> str:
        """What is wrong with an inference's answer; empty if nothing is. Outputs that are not
        expected are left alone."""
        told = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(told, list):
            return "the answer has no outputs"
        by_name = {each.get("name"): each for each in told if isinstance(each, dict)}
        for expected in self.outputs:
            output = by_name.get(expected.get("name"))
            if output is None:
                return f"output {expected.get('name')!r} is missing"
            if said := self._output_difference(expected, output):
                return f"output {expected.get('name')!r}: {said}"
        return ""

    def _output_difference(self, expected: dict[str, Any], output: dict[str, Any]) -> str:
        for key in ("datatype", "shape"):
            if key in expected and output.get(key) != expected[key]:
                return f"{key} {output.get(key)!r} instead of {expected[key]!r}"
        wanted, given = list(_flat(expected.get("data"))), list(_flat(output.get("data")))
        if len(wanted) != len(given):
            return f"{len(given)} values instead of {len(wanted)}"
        for index, (want, have) in enumerate(zip(wanted, given, strict=True)):
            if not self._near(want, have):
                return f"value {index} is {have!r} instead of {want!r}, within {self.tolerance:g}"
        return ""

    def _near(self, want: object, have: object) -> bool:
        if not isinstance(want, int | float) or not isinstance(have, int | float):
            return want == have
        if want == have or (want != want and have != have):  # noqa: PLR0124 - NaN is NaN
            return True
        try:
            return abs(want - have) <= self.tolerance
        except OverflowError:  # JSON has integers that no float holds
            return False


def parse_golden(body: bytes) -> tuple[GoldenRequest, ...]:
    """The requests of a file. `NotGolden` if a line is none, or there is no line: one that expects
    nothing would be met by anything."""
    found = []
    for number, line in enumerate(body.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(_parse(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise NotGolden(f"line {number} is no golden request: {error}") from None
    if not found:
        raise NotGolden("it holds no golden request")
    return tuple(found)


def write_golden(requests: Sequence[GoldenRequest]) -> bytes:
    """The file of these."""
    return b"".join(each.line for each in requests)


def _parse(line: object) -> GoldenRequest:
    golden = _object(line)
    request, expect = _object(golden.get("request")), _object(golden.get("expect"))
    outputs, tolerance = expect.get("outputs"), golden.get("tolerance", 0)
    problem = None
    if not isinstance(request.get("inputs"), list):
        problem = "`request` has no inputs"
    elif not isinstance(outputs, list) or not outputs:
        problem = "`expect` has no outputs"
    elif any("data" not in _object(each) for each in outputs):
        problem = "an expected output has no data"
    elif type(tolerance) not in (int, float) or not 0 <= tolerance < math.inf:
        problem = f"`tolerance` is {tolerance!r}"
    if problem or outputs is None:
        raise ValueError(problem)
    return GoldenRequest(request, tuple(outputs), float(tolerance))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(data: object) -> Iterator[object]:
    """The values of a tensor, which the protocol lets be nested or not."""
    if isinstance(data, list):
        for each in data:
            yield from _flat(each)
    else:
        yield data
