"""Fixtures of cost's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.features.cost.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Books:
    """An empty ledger and an empty export."""
    return Books(tmp_path)
