"""Three real control planes, up while their stories are told; and which stories are."""

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


@pytest.fixture(scope="module")
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
