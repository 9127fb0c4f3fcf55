"""A world of models that do as a test says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform_serving.backends import formats
from tests.serving.loading import scene


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> scene.World:
    scene.STAGE[:] = [scene.Stage()]
    monkeypatch.setitem(formats.BACKENDS, "actor", scene.__name__)
    return scene.World(tmp_path, scene.STAGE[0])
