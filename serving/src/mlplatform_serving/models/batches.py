"""How requests become one batch and its outputs become answers: what is mixed, put together and
taken apart, for the tensors of one model. No thread, no clock.

Requests are mixed when their inputs differ in the first dimension only. All inputs are there and of
the model's datatypes, or the request was refused; a backend is given no parameter and always gives
every output, so that neither can differ within a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlplatform_serving.batching.request import Key
from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.specs import Signature
from mlplatform_serving.protocol.tensors import Array

Tensors = Mapping[str, Array]

_KEYS_MAX = 256
"""Of the shapes that came, so many keep their key; it is made anew for others."""


class WrongOutputs(Exception):
    """A backend broke its model's word; the text is for the log."""


class Batches:
    """The batches of one model version."""

    def __init__(
        self,
        model: str,
        signature: Signature,
        size_max: int,
        *,
        enforced: bool = False,
    ) -> None:
        """`size_max`: items in a batch, 0 or 1 for a model that takes one request at a time.
        `enforced`: nor may one request bring more; else such a one runs alone."""
        specs = (*signature.inputs, *signature.outputs)
        self.mixes = size_max > 1 and all(spec.shape[:1] == (-1,) for spec in specs)
        """Whether requests share batches: every tensor's first dimension must be open."""
        self.cap = size_max if self.mixes else 1
        self._model = model
        self._most_of_one = size_max if enforced and self.mixes else 0
        self._names = [spec.name for spec in signature.inputs]
        self._outputs = [(spec, DTYPES[spec.datatype]) for spec in signature.outputs]
        fixed = self.mixes and all(-1 not in spec.shape[1:] for spec in signature.inputs)
        self._only_key = Key(model, "") if fixed else None
        self._only_name = self._names[0] if len(self._names) == 1 else None
        self._keys: dict[tuple[tuple[int, ...], ...], Key] = {}

    def place(self, inputs: Tensors) -> tuple[Key, int, int]:
        """With whom a request is mixed, as how many items of a batch it counts, and how many rows
        of the outputs are its; 0 rows: it is not mixed, and all of them are. `BadRequest`: it
        brings more than the model's configuration allows."""
        if not self.mixes:
            return self._key(tuple(inputs[name].shape for name in self._names)), 1, 0
        if self._only_name is not None:
            rows: int = inputs[self._only_name].shape[0]
        else:
            rows = self._common_rows(inputs)
        if 0 < self._most_of_one < rows:
            raise BadRequest(
                f"inference request batch-size must be <= {self._most_of_one} for '{self._model}'"
            )
        key = self._only_key or self._key(tuple(inputs[name].shape[1:] for name in self._names))
        if 0 < rows <= self.cap:
            return key, rows, rows
        # Empty, larger than a batch, or of inputs that do not agree: as a full batch, and so alone.
        return key, self.cap, 0

    def _common_rows(self, inputs: Tensors) -> int:
        """How many rows each of the inputs has; 0 if they differ."""
        found = {inputs[name].shape[0] for name in self._names}
        return int(found.pop()) if len(found) == 1 else 0

    def _key(self, shapes: tuple[tuple[int, ...], ...]) -> Key:
        key = self._keys.get(shapes)
        if key is None:
            if len(self._keys) >= _KEYS_MAX:
                self._keys.clear()
            key = self._keys[shapes] = Key(self._model, "", shapes)
        return key

    def joined(self, requests: Sequence[Tensors]) -> Tensors:
        """The inputs of all, one after the other. Of one alone nothing is copied."""
        if len(requests) == 1:
            return requests[0]
        return {name: np.concatenate([each[name] for each in requests]) for name in self._names}

    def parted(self, outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
        """Each request's own rows of the outputs. `WrongOutputs` unless these are what the model
        says, and exactly as many rows as went in: nobody is given another's."""
        total = sum(rows)
        for spec, dtype in self._outputs:
            array = outputs.get(spec.name)
            if array is None:
                raise WrongOutputs(f"there is no output {spec.name}")
            if array.dtype != dtype or not spec.admits(array.shape):
                raise WrongOutputs(
                    f"output {spec.name} is {array.dtype} of shape {array.shape}, "
                    f"and not {spec.datatype} of {spec.shape}"
                )
            if total and array.shape[0] != total:
                raise WrongOutputs(f"output {spec.name} has {array.shape[0]} rows, and not {total}")
        if len(rows) == 1:
            return [outputs]
        parts: list[Tensors] = []
        at = 0
        for count in rows:
            end = at + count
            parts.append({spec.name: outputs[spec.name][at:end] for spec, _ in self._outputs})
            at = end
        return parts
