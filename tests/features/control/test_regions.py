"""Regions are looked at side by side: what befalls one is not the others'."""

from __future__ import annotations

import threading

from mlplatform.control.executors import DaemonThreads, InlineExecutor
from mlplatform.control.regions import each_region
from mlplatform.core.errors import Denied, MlplatformError
from mlplatform.core.seen import Unknown


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


def test_each_region_by_itself() -> None:
    def read(region: str) -> str:
        if region == "denied":
            raise Denied("Access Denied", right="get")
        return region.upper()

    answers = each_region(["eu", "denied"], read, executor=InlineExecutor(), timeout_seconds=None)
    assert answers["eu"] == "EU"
    assert isinstance(answers["denied"], Unknown)
    assert "Access Denied" in answers["denied"].reason


def test_a_region_that_does_not_answer_costs_its_time_out() -> None:
    never = threading.Event()

    def read(region: str) -> str:
        if region == "dead":
            never.wait(timeout=30)
        return region

    answers = each_region(["dead", "eu"], read, executor=DaemonThreads(), timeout_seconds=1.5)
    never.set()
    assert answers["eu"] == "eu"
    assert isinstance(answers["dead"], Unknown)
    assert "1.5 s" in answers["dead"].reason


def test_an_error_of_a_region_is_told_in_one_line() -> None:
    error: MlplatformError = Denied("no", right="get", store="s3://eu", key="models/x")
    answers = each_region(
        ["eu"], lambda region: fail(error), executor=InlineExecutor(), timeout_seconds=None
    )
    assert isinstance(answers["eu"], Unknown)
    assert "\n" not in answers["eu"].reason


def fail(error: MlplatformError) -> str:
    raise error
