"""One server with a model of each kind, for all tests that do not change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.rig import DATATYPES, ServerProcess, identity, layers, publish, running


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish(folder, "every", "v1.0.0", identity(*DATATYPES))
    for datatype in DATATYPES:
        publish(folder, f"echo-{datatype.lower()}", "v1.0.0", identity(datatype))
    publish(folder, "layers", "v1.9.0", layers(scale=9))
    publish(folder, "layers", "v1.10.0", layers(scale=10))
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    with running(models, REGION="us-east-1", MAX_INPUT_SIZE_MB=1) as server:
        yield server
