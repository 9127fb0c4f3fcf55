"""What `validate` finds out of a store: rights that are missing, conditions that do not hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from mlplatform.adapters.local import open_store
from mlplatform.adapters.memory import FEATURES, MemoryStore
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.store_probe import Check, Probe, StoreReport, Verdict, probe_all
from mlplatform.core.errors import Denied, Throttled, Unavailable, UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ALWAYS, Condition, Stat, StoreFeatures, Upload


class Forbidding(MemoryStore):
    """Denies some rights."""

    def __init__(self, *rights: str) -> None:
        super().__init__("forbidding")
        self.rights = rights

    def _check(self, right: str, key: str) -> None:
        if right in self.rights:
            raise Denied(f"Access Denied (s3:{right})", right=right, store=self.url, key=key)

    def put(self, key: str, *rest: Any, **named: Any) -> Stat:
        self._check("put", key)
        return super().put(key, *rest, **named)

    def get(self, key: str, *rest: Any, **named: Any) -> Any:
        self._check("get", key)
        return super().get(key, *rest, **named)

    def stat(self, key: str) -> Stat:
        self._check("get", key)
        return super().stat(key)

    def list(self, prefix: str, **named: Any) -> Iterator[Stat]:
        self._check("list", prefix)
        return super().list(prefix, **named)

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        self._check("delete", key)
        super().delete(key, when=when)


class Careless(MemoryStore):
    """Takes conditions and ignores some of them."""

    def __init__(self, *ignored: str) -> None:
        super().__init__("careless")
        self.ignored = ignored

    def put(self, key: str, body: Any, *, when: Condition = ALWAYS, **named: Any) -> Stat:
        return super().put(key, body, when=ALWAYS if "put" in self.ignored else when, **named)

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        super().delete(key, when=ALWAYS if "delete" in self.ignored else when)

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        upload = super().begin(key, size_bytes=size_bytes, part_bytes=part_bytes)
        return cast("Upload", CarelessUpload(upload)) if "complete" in self.ignored else upload


class CarelessUpload:
    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    def __getattr__(self, name: str) -> Any:
        return getattr(self.upload, name)

    def complete(self, parts: Any, *, digests: Any, when: Condition) -> Stat:
        return self.upload.complete(parts, digests=digests, when=ALWAYS)


def without(features: StoreFeatures, feature: str) -> StoreFeatures:
    changed: dict[str, Any] = {feature: False}
    return replace(features, **changed)


def verdicts(report: StoreReport) -> dict[str, str]:
    return {check.value: finding.verdict.value for check, finding in report.findings.items()}


def test_a_good_store() -> None:
    store = MemoryStore("good")
    report = Probe(store, "n").run()
    assert set(verdicts(report).values()) == {"ok"}
    assert report.exit_codes == {0}
    assert report.features == store.features
    assert report.leftover is None
    assert not list(store.list(""))
    assert not list(store.uploads(""))


def test_a_folder(tmp_path: Path) -> None:
    report = Probe(open_store(StoreURL.parse(f"file://{tmp_path}/store")), "n").run()
    assert set(verdicts(report).values()) == {"ok"}, report
    assert report.leftover is None


def test_a_folder_whose_parent_is_missing_costs_one_answer(tmp_path: Path) -> None:
    report = Probe(open_store(StoreURL.parse(f"file://{tmp_path}/not/there")), "n").run()
    assert set(verdicts(report).values()) == {"unknown"}
    assert report.exit_codes == {2}


@pytest.mark.parametrize("right", ["list", "put", "get", "delete"])
def test_the_missing_right_is_named_and_hides_no_other(right: str) -> None:
    report = Probe(Forbidding(right), "n").run()
    assert report.missing_rights == (right,)
    assert 4 in report.exit_codes
    others = {"list", "put", "get", "delete"} - {right}
    assert {verdicts(report)[each] for each in others} == {"ok"}
    assert f"Access Denied (s3:{right})" in report.findings[Check(right)].reason


def test_no_right_at_all() -> None:
    report = Probe(Forbidding("list", "put", "get", "delete"), "n").run()
    assert report.missing_rights == ("list", "get", "put", "delete")
    assert report.leftover is None


def test_what_cannot_be_deleted_is_named() -> None:
    report = Probe(Forbidding("delete"), "n").run()
    assert report.leftover == ".mlplatform/scratch/n"


@pytest.mark.parametrize("verb", ["put", "complete", "delete"])
def test_a_condition_that_is_ignored_is_found(verb: str) -> None:
    store = Careless(verb)
    report = Probe(store, "n").run()
    broken = Check(f"conditional_{verb}")
    assert report.findings[broken].verdict is Verdict.BROKEN
    assert report.exit_codes == {0, 3}
    assert report.features == without(store.features, f"conditional_{verb}")
    assert not list(store.list(""))
    assert not list(store.uploads(""))


@pytest.mark.parametrize(
    ("feature", "codes"),
    [("conditional_put", {0, 3}), ("conditional_complete", {0}), ("conditional_delete", {0})],
)
def test_what_a_store_does_not_offer_is_not_tried(feature: str, codes: set[int]) -> None:
    store = MemoryStore("plain", features=without(FEATURES, feature))
    report = Probe(store, "n").run()
    assert report.findings[Check(feature)].verdict is Verdict.NO
    assert report.exit_codes == codes
    assert not list(store.list(""))


def test_a_missing_container_is_a_matter_of_configuration() -> None:
    store = MemoryStore("gone")
    store.drop()
    report = Probe(store, "n").run()
    assert set(verdicts(report).values()) == {"unknown"}
    assert report.exit_codes == {2}


class Dying(MemoryStore):
    """Takes one write, then answers no more."""

    calls = 0

    def list(self, *_: Any, **__: Any) -> Iterator[Stat]:
        type(self).calls += 1
        raise Unavailable("connection reset", store=self.url)


def test_a_store_that_stops_answering_is_not_asked_again() -> None:
    report = Probe(Dying(), "n").run()
    assert verdicts(report)["put"] == "ok"
    assert report.findings[Check.DELETE].reason == "memory://memory: connection reset"
    assert report.exit_codes == {0, 5}
    assert report.leftover == ".mlplatform/scratch/n"
    assert Dying.calls == 1


class Strange(MemoryStore):
    @property
    def features(self) -> StoreFeatures:
        raise Unavailable("who are you?", store=self.url)


def test_a_store_that_does_not_say_what_it_can_do() -> None:
    report = Probe(Strange(), "n").run()
    assert set(verdicts(report).values()) == {"unknown"}
    assert report.features is None
    assert report.exit_codes == {5}
    assert not list(MemoryStore.list(Strange(), ""))


class Busy(MemoryStore):
    def list(self, *_: Any, **__: Any) -> Iterator[Stat]:
        raise Throttled("slow down", store=self.url)


def test_a_busy_store_is_unknown_in_what_it_did_not_say() -> None:
    report = Probe(Busy(), "n").run()
    assert verdicts(report)["list"] == "unknown"
    assert verdicts(report)["put"] == "ok"
    assert report.exit_codes == {0, 5}


class Hanging(MemoryStore):
    def __init__(self) -> None:
        super().__init__("hanging")
        self.freed = threading.Event()

    def get(self, *_: Any, **__: Any) -> Any:
        self.freed.wait()


def test_dead_stores_cost_one_timeout_together() -> None:
    hanging = [Hanging() for _ in range(20)]

    def refuse() -> MemoryStore:
        raise UsageError("boto3 is not installed", hint="pip install 'mlplatform[aws]'")

    began = time.monotonic()
    reports = probe_all(
        {
            "good": lambda: MemoryStore("good"),
            **{f"dead{i}": (lambda store=store: store) for i, store in enumerate(hanging)},  # type: ignore[misc]
            "none": refuse,
        },
        "n",
        executor=DaemonThreads(),
        timeout_seconds=1.5,
    )
    took = time.monotonic() - began
    for store in hanging:
        store.freed.set()
    assert took < len(hanging) * 1.5, "one after the other"
    assert list(reports) == ["good", *(f"dead{i}" for i in range(len(hanging))), "none"]
    assert reports["good"].exit_codes == {0}
    assert verdicts(reports["dead3"])["put"] == "ok"
    assert reports["dead3"].findings[Check.GET].reason == "no answer within 1.5 s"
    assert 5 in reports["dead3"].exit_codes
    assert reports["dead3"].leftover == ".mlplatform/scratch/n"
    assert reports["none"].exit_codes == {2}
    assert reports["none"].hints == ("pip install 'mlplatform[aws]'",)
