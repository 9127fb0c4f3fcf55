"""A file of this machine as a version to serve: `python -m mlplatform_serving --model m.onnx`. To
try a model before it is published; what is published has its own folder and manifest."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mlplatform_serving.backends.port import CONFIGURATION
from mlplatform_serving.models.golden import GOLDEN_FILE
from mlplatform_serving.models.manifest import Requirements
from mlplatform_serving.tools.versions import new_version, seal

VERSION = "local"
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def lay_out(path: Path, folder: Path) -> str:
    """Have the file in `folder` as a version of a model, with the configuration and the golden
    requests that lie beside it; its name."""
    name = _NO_NAME.sub("-", path.stem).lstrip("._-") or "model"
    with new_version(folder, name, VERSION) as version:
        shutil.copyfile(path, version / path.name)
        for each in (CONFIGURATION, GOLDEN_FILE):
            if (path.parent / each).is_file():
                shutil.copyfile(path.parent / each, version / each)
        seal(version, name, VERSION, Requirements())
    return name
