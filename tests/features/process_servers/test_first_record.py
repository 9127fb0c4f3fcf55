"""Who comes while another writes the first record takes it for no record that was lost."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.adapters import processes
from mlplatform.core.errors import NotFound
from mlplatform.ports.store import read_bytes

from .conftest import Folder, scale


def test_the_first_record_comes_between_two_looks(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = read_bytes
    overtaken = False

    def overtakes(*asked: Any) -> Any:
        nonlocal overtaken
        try:
            return look(*asked)
        except NotFound:
            if not overtaken:
                overtaken = True
                scale(folder.open(), 1)  # record and log are there now, and were not read
            raise

    monkeypatch.setattr(processes, "read_bytes", overtakes)
    state = folder.open().read()
    assert overtaken
    assert state.groups["v1"].wanted == 1
