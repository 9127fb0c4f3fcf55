"""Names of models and versions: what may stand in a key of a store, and nothing else. No client's
name is looked up in a folder before it has passed here."""

from __future__ import annotations

import re

from mlplatform_serving.errors import NotFound

NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""The control plane's rule for `models/<model>/<version>/`."""
_NAME = re.compile(NAME_PATTERN)
_NUMBERS = re.compile(r"(\d+)")


def is_name(text: str) -> bool:
    """Whether a model or a version can be called so."""
    return _NAME.fullmatch(text) is not None


def model_name(text: str) -> str:
    """`text`, if a model can be called so; else `NotFound`, in Triton's words."""
    if not is_name(text):
        raise NotFound("Request for unknown model: that is no name of a model")
    return text


def by_number(version: str) -> tuple[object, ...]:
    """Orders versions as people do: v1.10.0 after v1.9.0, and v2.0.0-rc1 before v2.0.0."""
    release, _, before = version.partition("-")
    return _numbered(release), not before, _numbered(before)


def _numbered(text: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in _NUMBERS.split(text) if part
    ]
