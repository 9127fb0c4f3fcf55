"""Three real control planes, up for the rest of the session; and which stories are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.cluster import Cluster, clusters_in

REGIONS = ("us", "eu", "ap")
_NEEDED = ("kubernetes", "etcd", "kwok", "caddy", "prometheus")
_REQUIRED = os.environ.get("MLPLATFORM_REQUIRE_SERVERS") == "1"
_ALL = os.environ.get("MLPLATFORM_ROLLOUT_STORIES") == "all"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Some are for who has changed something here."""
    skip = pytest.mark.skip(reason="a long story; MLPLATFORM_ROLLOUT_STORIES=all tells it")
    for item in items:
        if (
            not _ALL
            and item.get_closest_marker("slow")
            and Path(__file__).parent in item.path.parents
        ):
            item.add_marker(skip)
    _keep_together(items)


def _keep_together(items: list[pytest.Item]) -> None:
    """One worker has the three clusters. xdist 3.8 writes a group into what was a test's id before
    pytest 9.2, so that there each worker would start three (pytest-dev/pytest-xdist#1386)."""
    for item in items:
        group = item.get_closest_marker("xdist_group")
        ours = Path(__file__).parent in item.path.parents
        if ours and group and getattr(item.config.option, "loadgroup", False):
            named = f"{item.nodeid}@{group.args[0]}"
            if hasattr(item, "_id") and "@" not in item.nodeid:
                item._id = type(item._id).parse(named)


@pytest.fixture(scope="session")
def clusters() -> Iterator[dict[str, Cluster]]:
    """By region."""
    missing = [name for name in _NEEDED if not BY_NAME[name].built]
    if missing:
        why = f"{', '.join(missing)} not built; try: make servers"
        if _REQUIRED:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    with clusters_in(REGIONS) as there:
        yield there
