"""What a model takes and gives: names, datatypes, and shapes in which −1 is any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform_serving.errors import BadRequest


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model's interface."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape fits."""
        if len(shape) != len(self.shape):
            return False
        for want, have in zip(self.shape, shape, strict=True):  # noqa: SIM110 - twice as quick
            if want not in (-1, have):
                return False
        return True

    def check(self, datatype: str, shape: Sequence[int]) -> None:
        """`BadRequest` unless it fits."""
        if datatype != self.datatype:
            raise BadRequest(f"input {self.name} is {self.datatype}, not what was sent")
        if not self.admits(shape):
            raise BadRequest(
                f"input {self.name} has the shape {list(self.shape)}, −1 being any size, "
                f"and not {list(shape)}"
            )

    def as_json(self) -> dict[str, object]:
        """As model metadata states it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    """All that a model takes and gives, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_size_max: int | None = None
    """How many items it takes at a time, by its own configuration; 0 or 1: its first dimension is
    none of items, or it takes one. None: that is not said."""

    def input(self, name: str) -> TensorSpec | None:
        """The input of that name."""
        return next((spec for spec in self.inputs if spec.name == name), None)
