"""Blocks of CSV taken apart at once: the same as Python makes of each cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlplatform.cost.locate.tokens import Block, Coder


def block_of(*rows: tuple[str, ...], delimiter: str = ",") -> Block:
    text = "".join(delimiter.join(row) + "\n" for row in rows)
    block = Block.of(text, len(rows[0]), delimiter)
    assert block is not None
    return block


PLAIN = [
    "0", "7", "-7", "00012.50", "110.5556", "-110.5556", ".5", "5.", "-.5", "0.1", "99999999",
    "100000000", "12345678.", ".12345678", "1234567.8", "-9999999.9999999", "9007199254740991",
    "123456789012.345", "0.00000000000001",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_number_is_what_float_reads(text: str) -> None:
    numbers, odd = block_of((text, "x")).numbers(0)
    assert not len(odd)
    assert numbers[0].hex() == float(text).hex()


def test_a_minus_before_nothing_is_kept() -> None:
    numbers, _ = block_of(("-0", "x")).numbers(0)
    assert str(numbers[0]) == "-0.0"


ODD = [
    "", "-", ".", "-.", "--1", "+1", " 1", "1 ", "1e5", "1.2.3", "1./", "./", "1..", "12345678.1.2",
    "1.2345678.9", "nan", "inf", "0x1", "1_0", "1,0", "٣", "9007199254740993", "12345678901234567",
    "0.1234567890123456", "1234567.123456789",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_plain_number_is_left_to_float(text: str) -> None:
    numbers, odd = block_of((text, "x"), ("1.5", "x"), delimiter=";").numbers(0)
    assert odd.tolist() == [0]
    assert numbers[1] == 1.5


@settings(deadline=None)
@given(st.lists(st.from_regex(r"-?[0-9]{0,12}\.?[0-9]{0,12}", fullmatch=True), min_size=1))
@example(["900719925474099.3", "90071992547409.93"])
def test_numbers_that_are_not_odd_are_exact(texts: list[str]) -> None:
    numbers, odd = block_of(*((text, "x") for text in texts)).numbers(0)
    for line in set(range(len(texts))) - set(odd.tolist()):
        assert numbers[line].hex() == float(texts[line]).hex()


UNEVEN = {
    "too few": "a,b\na\n",
    "too many": "a,b\na,b,c\n",
    "one more and one fewer": "a,b,c\na\n",
    "a blank line": "a,b\n\nc,d\n",
    "a NUL": "a,b\nc\0,d\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", UNEVEN.values(), ids=UNEVEN)
def test_lines_that_are_not_even_are_left_to_the_parser(text: str) -> None:
    assert Block.of(text, 2, ",") is None


LENGTHS = (0, 1, 7, 8, 9, 15, 16, 17, 47, 48, 49, 200)


def numbered(texts: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """By a dictionary, as Python would."""
    codes: dict[str, int] = {}
    return [codes.setdefault(text, len(codes)) for text in texts], tuple(codes)


TEXTS = {
    "each length": ["v" * n for n in LENGTHS] + ["v" * n + "é" for n in LENGTHS],
    "alike but for the last": [f"{'a' * n}{end}" for n in LENGTHS for end in "xyz"],
    "of several bytes": ["eu", "é", "漢字漢字", "", "é", "漢字漢字", "e"],
    "more than a table has slots": [f"i-{n * 7919 % 70_000}" for n in range(100_000)],
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_texts_are_numbered_as_they_are_met(texts: list[str]) -> None:
    coder = Coder()
    codes = np.concatenate(
        [
            coder.of_column(block_of(*(("1", text) for text in texts[at : at + 5000])), 1)
            for at in range(0, len(texts), 5000)
        ]
        + [coder.of_column(block_of(*(("1", text) for text in texts[-20:])), 1)]
        + [coder.of_texts(texts[:20])]
    )
    expected, values = numbered([*texts, *texts[-20:], *texts[:20]])
    assert codes.tolist() == expected
    assert coder.texts == values
