"""What a tool is told to convert: a version that lies in the folder of models, or a file of this
machine. Nothing is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mlplatform_serving.backends.port import CONFIGURATION, read_configuration
from mlplatform_serving.errors import ServingError
from mlplatform_serving.models.golden import (
    GOLDEN_BYTES_MAX,
    GOLDEN_FILE,
    GoldenRequest,
    NotGolden,
    parse_golden,
)
from mlplatform_serving.models.manifest import MANIFEST, ModelFiles
from mlplatform_serving.names import by_number, is_name
from mlplatform_serving.tools.errors import CheckFailed, ToolError, Usage
from mlplatform_serving.tools.versions import FORMATS

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Source:
    """A model as it lies on a disk."""

    path: Path
    """The artefact itself."""
    name: str
    version: str | None = None
    golden: tuple[GoldenRequest, ...] = ()
    beside: dict[str, Path] = field(default_factory=dict)
    """What else belongs to the version."""


def find_source(model: str, folder: Path, golden: Path | None) -> Source:
    """A file, or NAME or NAME@VERSION in `folder`. `Usage` says what is missing; `CheckFailed` if a
    version there is not what was published."""
    if "://" in model:
        raise Usage(
            f"{model}: nothing is fetched",
            hint="name a file of this machine, or a published version that lies in --models",
        )
    given = () if golden is None else read_golden(golden)
    path = Path(model)
    if path.is_file():
        name = _NO_NAME.sub("-", path.stem).lstrip("._-") or "model"
        beside = path.parent / GOLDEN_FILE
        if golden is None and beside.is_file():
            given = read_golden(beside)
        return Source(path, name, golden=given)
    name, _, version = model.partition("@")
    if not is_name(name) or (version and not is_name(version)):
        raise Usage(f"{model}: there is no such file, and no model is called so")
    return _published(name, version or _newest(name, folder), folder, given)


def _newest(name: str, folder: Path) -> str:
    found = [path.parent.name for path in folder.glob(f"{name}/*/{MANIFEST}")]
    versions = [each for each in found if is_name(each)]
    if not versions:
        raise Usage(
            f"{name}: no such file here, and no version of it in {folder}",
            hint=f"python -m mlplatform_serving.tools.preload --model {name} --cache-dir {folder} "
            "brings it from a region's store",
        )
    return max(versions, key=by_number)


def _published(name: str, version: str, folder: Path, given: tuple[GoldenRequest, ...]) -> Source:
    where = folder / name / version
    try:
        files = ModelFiles(where)
        files.verify()
        configured = read_configuration(files).parameters.get("file")
        artefacts = [path for path in files.paths if Path(path).suffix in FORMATS]
        if isinstance(configured, str) and configured in artefacts:
            artefacts = [configured]
        golden = files.manifest.golden
        if golden is not None and not given:
            given = _parsed(files.read(golden), f"{where / golden}")
    except ServingError as error:
        raise CheckFailed(f"{name}@{version} in {folder}: {error.message}") from None
    if len(artefacts) != 1:
        raise Usage(
            f"{name}@{version} has {len(artefacts)} files that could be meant",
            hint="name the file itself: --model " + str(where / (artefacts or ["FILE"])[0]),
        )
    beside = {path: where / path for path in files.paths if path not in (artefacts[0], golden)}
    return Source(where / artefacts[0], name, version, given, beside)


def read_golden(path: Path) -> tuple[GoldenRequest, ...]:
    """A file of golden requests; `ToolError` if it is none."""
    try:
        with path.open("rb") as file:
            body = file.read(GOLDEN_BYTES_MAX + 1)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None
    if len(body) > GOLDEN_BYTES_MAX:
        raise ToolError(f"{path} is larger than {GOLDEN_BYTES_MAX} bytes")
    return _parsed(body, str(path))


def _parsed(body: bytes, where: str) -> tuple[GoldenRequest, ...]:
    try:
        return parse_golden(body)
    except NotGolden as error:
        raise ToolError(f"{where}: {error}") from None


def configuration_for(source: Source, file: str) -> bytes | None:
    """The version's `model-config.json`, naming this file as the model; None where it has none."""
    path = source.beside.get(CONFIGURATION)
    if path is None:
        return None
    told = msgspec.json.decode(path.read_bytes(), type=dict)
    if "file" in told.get("parameters", {}):
        told["parameters"]["file"] = file
    return msgspec.json.encode(told)
