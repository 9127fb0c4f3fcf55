"""What a region shows of a version; what cannot be read is never taken for absent."""

from __future__ import annotations

import pytest

from mlplatform.control.catalogue import list_versions, read_region
from mlplatform.core.errors import ContainerMissing, Unavailable
from tests.features.replication.world import (
    SUBJECT,
    Call,
    Watched,
    bring,
    memory,
    mixed,
    stored,
)


def test_nothing_there() -> None:
    seen = read_region(memory(), "eu", SUBJECT, measure_partial=True)
    assert (seen.manifest, seen.receipt, seen.damaged, seen.present_bytes) == (None, None, None, 0)
    assert not seen.stored


def test_a_version_that_is_there() -> None:
    model, store = mixed(), memory()
    receipt = stored(model, "eu", store)
    seen = read_region(store, "eu", SUBJECT)
    assert seen.manifest == model.manifest
    assert seen.receipt == receipt
    assert seen.stored


def test_bytes_without_a_manifest_are_measured_when_asked() -> None:
    model, store = mixed(), memory()
    bring(model, ("eu", store))
    assert read_region(store, "eu", SUBJECT).present_bytes == 0
    seen = read_region(store, "eu", SUBJECT, measure_partial=True)
    assert seen.present_bytes == model.size_bytes
    assert not seen.stored


def test_a_bucket_that_is_not_there_is_not_an_empty_one() -> None:
    store = memory()
    store.drop()
    with pytest.raises(ContainerMissing):
        read_region(store, "eu", SUBJECT)


@pytest.mark.parametrize("key", ["manifest", "receipt", "withdrawal"])
def test_what_cannot_be_read_is_never_taken_for_absent(key: str) -> None:
    store = memory()
    stored(mixed(), "eu", store)

    def fail(call: Call) -> None:
        if key in call.key or ("withdrawn" in call.key and key == "withdrawal"):
            raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        read_region(Watched(store, before=fail), "eu", SUBJECT)


def test_a_receipt_of_another_region_is_none() -> None:
    model, store = mixed(), memory()
    stored(model, "us", store)  # a bucket copied whole from there
    seen = read_region(store, "eu", SUBJECT)
    assert seen.receipt is None
    assert not seen.stored


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 10_000])
def test_a_receipt_that_cannot_be_read_is_none(body: bytes) -> None:
    store = memory()
    stored(mixed(), "eu", store)
    store.put(SUBJECT.receipt_key, body)
    assert not read_region(store, "eu", SUBJECT).stored


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 10_000, b"\xff"])
def test_a_withdrawal_that_cannot_be_read_is_still_one(body: bytes) -> None:
    store = memory()
    stored(mixed(), "eu", store)
    store.put(SUBJECT.withdrawal_key, body)
    assert read_region(store, "eu", SUBJECT).withdrawal is not None


def test_versions_are_listed_by_their_folders() -> None:
    store = memory()
    for key in (
        "models/resnet50/v1.0.0/manifest.json",
        "models/resnet50/v1.0.0/a/b.bin",
        "models/resnet50/v1.1.0/half.bin",
        "models/vgg/v1/x",
        "models/vgg-v1.2.0.pth",
        "models/vgg/README.md",
        "models/bad name/v1/x",
        "models/vgg/-v1/x",
        "elsewhere/a/b",
    ):
        store.put(key, b"1")
    assert list_versions(store) == {"resnet50": ["v1.0.0", "v1.1.0"], "vgg": ["v1"]}
