"""Which part of an old checkpoint is a model's weights. Pure: what is a tensor, the caller knows.

`torch.save` has been given everything there is: a state dict, a training run's dictionary with one
in it, whole objects. Only tensors by name are weights; the rest is left out by name, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WHERE = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
"""Under which name a training run's checkpoint has them, in the order in which they are tried."""


class NotWeights(Exception):
    """There are none, or more than that; the message says what there is."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, and what else the checkpoint had."""

    tensors: dict[str, Any]
    left_out: tuple[str, ...] = ()


def find_weights(loaded: object, is_tensor: Callable[[object], bool]) -> Weights:
    """The weights in what was loaded. `NotWeights` if it is no dictionary of tensors by name, and
    has none under any of the usual names."""
    if not isinstance(loaded, Mapping):
        raise NotWeights(f"it is a {type(loaded).__name__}, not tensors by name")
    for name in WHERE:
        inner = loaded.get(name)
        if isinstance(inner, Mapping):
            others = tuple(sorted(str(each) for each in loaded if each != name))
            return Weights(_tensors(inner, is_tensor, f"its {name}"), others)
    return Weights(_tensors(loaded, is_tensor, "it"))


def _tensors(
    found: Mapping[Any, Any], is_tensor: Callable[[object], bool], what: str
) -> dict[str, Any]:
    if not found:
        raise NotWeights(f"{what} is empty")
    for name, value in found.items():
        if not isinstance(name, str):
            raise NotWeights(f"{what} has a {type(name).__name__} for a name")
        if not is_tensor(value):
            raise NotWeights(f"{what} has {name!r}, which is a {type(value).__name__}, no tensor")
    return dict(found)
