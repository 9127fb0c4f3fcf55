"""Cubes from CSV files: what is read, and what is refused with its line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.cost.locate.leaves import Leaves
from mlplatform.cost.locate.read_leaves import Ratio, read_leaves


def read(tmp_path: Path, text: str, ratio: str | None = None) -> Leaves:
    file = tmp_path / "cube.csv"
    file.write_bytes(text.encode())
    return read_leaves(file, None if ratio is None else Ratio.parse(ratio))


def rows(leaves: Leaves) -> list[tuple[object, ...]]:
    values = [
        [leaves.values[d][code] for code in leaves.codes[d]] for d in range(len(leaves.dimensions))
    ]
    amounts = [leaves.actual.tolist(), leaves.expected.tolist()]
    return list(zip(*values, *amounts, strict=True))


PLAIN = [("eu", "g5", 3.0, 1.0), ("us", "s3", -2.5, 0.0)]

SAME = {
    "plain": "region,service,actual,expected\neu,g5,3,1\nus,s3,-2.5,0\n",
    "no newline at the end": "region,service,actual,expected\neu,g5,3,1\nus,s3,-2.5,0",
    "carriage returns": "region,service,actual,expected\r\neu,g5,3,1\r\nus,s3,-2.5,0\r\n",
    "a byte order mark": "\ufeffregion,service,actual,expected\neu,g5,3,1\nus,s3,-2.5,0\n",
    "values first": "actual,expected,region,service\n3,1,eu,g5\n-2.5,0,us,s3\n",
    "another case": "region,service,Actual,EXPECTED\neu,g5,3,1\nus,s3,-2.5,0\n",
    "the papers' names": "region,service,real,predict\neu,g5,3,1\nus,s3,-2.5,0\n",
    "semicolons": "region;service;actual;expected\neu;g5;3;1\nus;s3;-2.5;0\n",
    "quoted": 'region,service,actual,expected\n"eu","g5","3","1"\nus,s3,-2.5,0\n',
    "blank lines": "region,service,actual,expected\n\neu,g5,3,1\n\nus,s3,-2.5,0\n",
    "spaces about numbers": "region,service,actual,expected\neu,g5, 3 ,1\nus,s3,-2.5, 0\n",
    "stated in parts": "region,service,actual,expected\neu,g5,1,1\nus,s3,-2.5,0\neu,g5,2,0\n",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_the_same_cube(tmp_path: Path, text: str) -> None:
    leaves = read(tmp_path, text)
    assert leaves.dimensions == ("region", "service")
    assert rows(leaves) == PLAIN


def test_nothing_and_null_are_values_of_their_own(tmp_path: Path) -> None:
    leaves = read(tmp_path, "team,actual,expected\n,1,2\nNULL,3,4\nnull,5,6\n")
    assert leaves.values == (("", "NULL", "null"),)


def test_a_line_break_in_quotes(tmp_path: Path) -> None:
    text = 'team,actual,expected\n"a\nb, c",1,2\nd,x,2\n'
    with pytest.raises(UsageError, match=r"line 4, column actual: 'x' is not a number"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "header",
    [
        "r,cost_actual,cost_expected,calls_actual,calls_expected",
        "r,actual_cost,expected_cost,actual_calls,expected_calls",
        "r,cost.actual,cost.expected,calls.actual,calls.expected",
        "r,real_cost,predict_cost,real_calls,predict_calls",
        "r,cost,cost_expected,calls,calls_expected",
    ],
)
def test_the_columns_of_a_ratio(tmp_path: Path, header: str) -> None:
    leaves = read(tmp_path, f"{header}\neu,8,4,2,1\n", "cost/calls")
    assert leaves.dimensions == ("r",)
    assert (leaves.actual[0], leaves.expected[0]) == (8, 4)
    assert leaves.actual_denominator is not None
    assert leaves.expected_denominator is not None
    assert (leaves.actual_denominator[0], leaves.expected_denominator[0]) == (2, 1)


def test_the_ratio_itself_may_be_there_and_is_no_dimension(tmp_path: Path) -> None:
    text = "r,actual,expected,a_actual,a_expected,b_actual,b_expected\neu,4,4,8,4,2,1\n"
    assert read(tmp_path, text, "a/b").dimensions == ("r",)


BAD = {
    "nothing": ("", None, r"line 1: no header"),
    "no line": ("r,actual,expected\n", None, r"no line below the header"),
    "no actual": ("r,expected\n", None, r"no column actual; there are r, expected"),
    "no expected": ("r,actual\neu,1\n", None, r"no column expected"),
    "no dimension": ("actual,expected\n1,2\n", None, r"no dimension"),
    "two alike": ("r,r,actual,expected\n", None, r"two columns are named 'r'"),
    "no number": ("r,actual,expected\neu,1,2\nus,1,two\n", None, r"line 3, column expected: 'two'"),
    "empty number": ("r,actual,expected\neu,,2\n", None, r"line 2, column actual: empty"),
    "not a number": ("r,actual,expected\neu,nan,2\n", None, r"line 2, column actual: 'nan'"),
    "infinite": ("r,actual,expected\neu,1,inf\n", None, r"line 2, column expected: 'inf'"),
    "too few columns": ("r,actual,expected\neu,1,2\nus,1\n", None, r"line 3: 2 columns"),
    "too many columns": ("r,actual,expected\neu,1,2,3\n", None, r"line 2: 4 columns"),
    "one more and one fewer": ("r,actual,expected\neu,1,2,us\n1,2\n", None, r"line 2: 4 columns"),
    "an open quote": ('r,actual,expected\n"eu,1,2\n', None, r"line 2: "),
    "half a ratio": ("r,a_actual,a_expected\neu,1,2\n", "a/b", r"no column b_actual"),
    "no ratio": ("r,actual,expected\n", "ab", r"not two measures"),
    "three": ("r,actual,expected\n", "a/b/c", r"not two measures"),
    "by itself": ("r,actual,expected\n", "a/a", r"by itself"),
}


@pytest.mark.parametrize(("text", "ratio", "told"), BAD.values(), ids=BAD)
def test_what_is_refused(tmp_path: Path, text: str, ratio: str | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read(tmp_path, text, ratio)


def test_a_line_far_down_in_a_large_file_is_named(tmp_path: Path) -> None:
    lines = [f"account-{n},{n}.5,{n}" for n in range(60_000)]
    lines[54_321] = "account,oops,1"
    with pytest.raises(UsageError, match=r"line 54323, column actual: 'oops'"):
        read(tmp_path, "account,actual,expected\n" + "\n".join(lines) + "\n")


def test_no_such_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_leaves(tmp_path / "gone.csv")
    (tmp_path / "packed.csv").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_leaves(tmp_path / "packed.csv")
