"""The manifest is a contract between two distributions: its schema is tested from both sides."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from mlplatform.core.digest import BLOCK_BYTES, digest_of
from mlplatform.core.manifest import FileEntry, Manifest, Requirements, Tensor
from mlplatform.core.placement import ModelVersion


def manifest() -> Manifest:
    body = b"weights"
    digests = digest_of(body)
    tensor = Tensor(name="w", dtype="U8", shape=(7,), start=0, stop=7, blake3="0" * 64)
    entry = FileEntry(
        path="model.safetensors",
        size_bytes=len(body),
        blake3="0" * 64,
        crc64nvme=f"{digests.crc64nvme:016x}",
        crc32c=f"{digests.crc32c:08x}",
        tensors=(tensor,),
    )
    return Manifest.build(
        ModelVersion("m", "v1"),
        [entry],
        block_bytes=BLOCK_BYTES,
        requirements=Requirements(format="safetensors", compute_capability="9.0"),
        golden=None,
    )


@pytest.fixture
def schema() -> Any:
    """As the server reads it, without an import of ours."""
    text = files("mlplatform_serving").joinpath("manifest.schema.json").read_text()
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_what_we_write_is_what_the_server_reads(schema: Any) -> None:
    jsonschema.validate(json.loads(manifest().encoded), schema)


@pytest.mark.parametrize(
    "spoil",
    [
        {"schema": "mlplatform/manifest/2"},
        {"files": []},
        {"block_bytes": 0},
        {"surprise": 1},
        {"model": None},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_what_we_refuse_the_server_refuses(schema: Any, spoil: dict[str, Any]) -> None:
    told = json.loads(manifest().encoded) | spoil
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told, schema)
    with pytest.raises(ValueError, match=r".+"):
        Manifest.model_validate(told)
