"""What is mixed, put together and taken apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.models.batches import Batches, Tensors, WrongOutputs
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array


def spec(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def rows(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


TEXT = Signature((spec("ids", -1, -1), spec("mask", -1, -1)), (spec("y", -1, 2),))
ONE = Signature((spec("x", -1, 4),), (spec("y", -1, 2),))


@dataclass(frozen=True)
class Pair:
    name: str
    one: Tensors
    other: Tensors
    mixed: bool


PAIRS = [
    Pair(
        "alike but for the rows",
        {"ids": rows(1, 7), "mask": rows(1, 7)},
        {"ids": rows(3, 7), "mask": rows(3, 7)},
        mixed=True,
    ),
    Pair(
        "another length",
        {"ids": rows(1, 7), "mask": rows(1, 7)},
        {"ids": rows(1, 8), "mask": rows(1, 8)},
        mixed=False,
    ),
    Pair(
        "another length of one input",
        {"ids": rows(1, 7), "mask": rows(1, 7)},
        {"ids": rows(1, 7), "mask": rows(1, 8)},
        mixed=False,
    ),
    Pair(
        "inputs that do not agree on the rows",
        {"ids": rows(1, 7), "mask": rows(1, 7)},
        {"ids": rows(2, 7), "mask": rows(1, 7)},
        mixed=False,
    ),
    Pair(
        "no rows at all",
        {"ids": rows(1, 7), "mask": rows(1, 7)},
        {"ids": rows(0, 7), "mask": rows(0, 7)},
        mixed=False,
    ),
    Pair(
        "more rows than a batch has",
        {"ids": rows(1, 7), "mask": rows(1, 7)},
        {"ids": rows(5, 7), "mask": rows(5, 7)},
        mixed=False,
    ),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_who_may_be_mixed(pair: Pair) -> None:
    batches = Batches("bert", TEXT, 4)
    (one, size, _), (other, other_size, _) = batches.place(pair.one), batches.place(pair.other)
    assert (one == other and size + other_size <= batches.cap) is pair.mixed


@pytest.mark.parametrize(
    ("name", "signature", "size_max", "mixes"),
    [
        ("an open first dimension", ONE, 4, True),
        ("one at a time, says the configuration", ONE, 1, False),
        ("no batches, says the configuration", ONE, 0, False),
        ("a first dimension that is fixed", Signature((spec("x", 1, 4),), ONE.outputs), 4, False),
        ("an output of one size", Signature(ONE.inputs, (spec("y", 2),)), 4, False),
        ("a number", Signature((spec("x"),), (spec("y", -1),)), 4, False),
    ],
)
def test_which_models_batch(name: str, signature: Signature, size_max: int, mixes: bool) -> None:
    batches = Batches("resnet50", signature, size_max)
    assert (batches.mixes, batches.cap) == (mixes, size_max if mixes else 1)


def test_a_size_that_is_enforced() -> None:
    told = "inference request batch-size must be <= 4 for 'resnet50'"
    with pytest.raises(BadRequest, match=told):
        Batches("resnet50", ONE, 4, enforced=True).place({"x": rows(5, 4)})
    assert Batches("resnet50", ONE, 4).place({"x": rows(5, 4)})[1:] == (4, 0)


def test_one_alone_is_not_copied() -> None:
    given = {"x": rows(2, 4)}
    assert Batches("resnet50", ONE, 4).joined([given]) is given


def test_each_has_its_own_rows_back() -> None:
    batches = Batches("resnet50", ONE, 8)
    given = [{"x": rows(count, 4) + 100 * count} for count in (1, 3, 2)]
    joined = batches.joined(given)["x"]
    parts = batches.parted({"y": joined[:, :2]}, [1, 3, 2])
    for before, after in zip(given, parts, strict=True):
        assert after["y"].tolist() == before["x"][:, :2].tolist()


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "no output y"),
        ({"y": rows(2, 2)}, "has 2 rows, and not 3"),
        ({"y": rows(4, 2)}, "has 4 rows, and not 3"),
        ({"y": rows(3, 3)}, "of shape"),
        ({"y": rows(6)}, "of shape"),
        ({"y": rows(3, 2).astype(np.float64)}, "float64"),
    ],
)
def test_outputs_that_are_not_what_was_promised_are_nobodys(outputs: Tensors, said: str) -> None:
    with pytest.raises(WrongOutputs, match=said):
        Batches("resnet50", ONE, 8).parted(outputs, [1, 2])


def test_bytes_are_mixed_too() -> None:
    signature = Signature((spec("t", -1, 1, datatype="BYTES"),), (spec("t", -1, 1),))
    batches = Batches("tokens", signature, 8)
    given = [{"t": np.array([[text]], object)} for text in (b"one\0", b"")]
    assert batches.joined(given)["t"].tolist() == [[b"one\0"], [b""]]
