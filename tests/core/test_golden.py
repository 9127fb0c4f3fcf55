"""Golden requests: what is one, and which answers meet it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlplatform.core.errors import IntegrityError
from mlplatform.core.golden import GoldenRequest, parse_golden

INPUTS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}


def golden(data: Any, *, tolerance: float = 0.0, **more: Any) -> GoldenRequest:
    return GoldenRequest(INPUTS, ({"name": "y", "data": data, **more},), tolerance)


def answer(data: Any, **more: Any) -> dict[str, Any]:
    return {"outputs": [{"name": "other", "data": []}, {"name": "y", "data": data, **more}]}


@pytest.mark.parametrize(
    ("expected", "given", "good"),
    [
        (golden([0.5, 1]), answer([0.5, 1.0]), True),
        (golden([0.5]), answer([0.5000001]), False),
        (golden([0.5], tolerance=0.01), answer([0.509]), True),
        (golden([0.5], tolerance=0.01), answer([0.52]), False),
        (golden([0.5], tolerance=1e9), answer(["0.5"]), False),
        (golden([0.5], tolerance=1e9), answer([None]), False),
        (golden([0.5], tolerance=1e9), answer([float("nan")]), False),
        (golden([float("nan")]), answer([float("nan")]), True),
        (golden([float("inf")]), answer([float("inf")]), True),
        (golden([0.5], tolerance=1), answer([10**400]), False),
        (golden(["cat", "dog"]), answer(["cat", "dog"]), True),
        (golden(["cat"]), answer(["dog"]), False),
        (golden([True]), answer([False]), False),
        (golden([[1, 2], [3, 4]]), answer([1, 2, 3, 4]), True),
        (golden([1, 2]), answer([1]), False),
        (golden([1]), answer([1, 1]), False),
        (golden([1], shape=[1]), answer([1], shape=[1]), True),
        (golden([1], shape=[1]), answer([1], shape=[1, 1]), False),
        (golden([1], datatype="FP32"), answer([1], datatype="FP16"), False),
        (golden([1], datatype="FP32"), answer([1]), False),
        (golden([1]), {"outputs": []}, False),
        (golden([1]), {"outputs": "y"}, False),
        (golden([1]), {"outputs": [None]}, False),
        (golden([1]), {"error": "no"}, False),
        (golden([1]), None, False),
    ],
)
def test_which_answers_are_as_expected(expected: GoldenRequest, given: object, good: bool) -> None:
    assert (not expected.difference(given)) is good


def test_a_difference_says_where() -> None:
    assert golden([1, 2], tolerance=0.5).difference(answer([1, 3])) == (
        "output 'y': value 1 is 3 instead of 2, within 0.5"
    )


LINE = {"request": INPUTS, "expect": {"outputs": [{"name": "y", "data": [1]}]}, "tolerance": 0.1}


def test_a_file_of_them() -> None:
    body = f"{json.dumps(LINE)}\n\n{json.dumps({**LINE, 'comment': 'more may stand there'})}\n"
    first, second = parse_golden(body.encode(), where="golden.ndjson")
    assert first == second
    assert (first.request, first.tolerance) == (INPUTS, 0.1)


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"not json",
            b"[]",
            b"[" * 100_000,
            b"\xff",
            json.dumps({**LINE, "request": {}}).encode(),
        ),
        *(json.dumps({**LINE, "expect": {"outputs": []}}).encode(),),
        *(json.dumps({**LINE, "expect": {"outputs": [{"name": "y"}]}}).encode(),),
        *(json.dumps({**LINE, "tolerance": bad}).encode() for bad in (-1, "0.1", True, None)),
        json.dumps({**LINE, "tolerance": float("inf")}).encode(),
    ],
)
def test_what_is_no_golden_request_is_refused_with_its_line(line: bytes) -> None:
    good = json.dumps(LINE).encode()
    with pytest.raises(IntegrityError, match=r"golden\.ndjson:2: not a golden request"):
        parse_golden(good + b"\n" + line, where="golden.ndjson")


def test_a_file_that_expects_nothing_is_refused() -> None:
    with pytest.raises(IntegrityError, match="holds no golden request"):
        parse_golden(b"\n \n", where="golden.ndjson")
