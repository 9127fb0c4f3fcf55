"""Regions are looked at side by side: what befalls one is not the others'."""

from __future__ import annotations

from mlplatform.control.executors import DaemonThreads
from mlplatform.core.errors import Denied
from mlplatform.core.seen import Unknown
from mlplatform.replication.catalogue import each_region


def test_what_cannot_be_read_is_unknown_alone() -> None:
    def read(region: str) -> str:
        if region == "denied":
            raise Denied("Access Denied", store="s3://b")
        if region == "broken":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "an adapter's mistake")
        return region

    seen = each_region(
        ["good", "denied", "broken"], read, executor=DaemonThreads(), timeout_seconds=5
    )
    assert seen["good"] == "good"
    assert seen["denied"] == Unknown("denied: s3://b: Access Denied")
    broken = seen["broken"]
    assert isinstance(broken, Unknown)
    assert broken.reason.startswith("broken: internal error: UnicodeDecodeError: ")
