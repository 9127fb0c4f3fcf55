"""PyTorch, which only `make test-torch` has."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest

_REQUIRED = os.environ.get("MLPLATFORM_REQUIRE_TORCH") == "1"


@pytest.fixture(scope="session")
def torch() -> Any:
    """The module; where it is not, the test is skipped by name, or fails under test-torch."""
    if find_spec("torch") is None:
        why = "PyTorch is not in this environment: make test-torch"
        if _REQUIRED:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    import torch

    return torch
