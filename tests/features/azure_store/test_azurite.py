"""On a real server: what blocks and metadata say afterwards, other tools, SAS, pages."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from azure.storage.blob import (
    BlobBlock,
    ContainerClient,
    ContainerSasPermissions,
    generate_container_sas,
)

from mlplatform.adapters import azure_blob
from mlplatform.adapters.azure_blob import AzureBlobStore, open_store
from mlplatform.core.digest import UNKNOWN_DIGESTS, Digests, Evidence, digest_of
from mlplatform.core.errors import Denied, DigestMismatch, NotFound
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    Condition,
    Matches,
    Part,
    Stat,
    Upload,
    exists,
    read_bytes,
)
from tests.real.servers.launch import Endpoint

from .conftest import Opener

pytestmark = pytest.mark.xdist_group("azurite")

PIECES = [bytes([index]) * 1000 for index in range(3)]
WHOLE = b"".join(PIECES)
CRC64 = Digests(digest_of(WHOLE).crc64nvme)


def begin(store: AzureBlobStore, key: str = "k") -> Upload:
    return store.begin(key, size_bytes=3000, part_bytes=1000)


def send(upload: Upload, *indices: int) -> list[Part]:
    return [
        upload.part(index, PIECES[index], digests=digest_of(PIECES[index])) for index in indices
    ]


def assemble(store: AzureBlobStore, key: str = "k", when: Condition = ALWAYS) -> Stat:
    upload = begin(store, key)
    return upload.complete(send(upload, 0, 1, 2), digests=digest_of(WHOLE), when=when)


def test_the_block_list_states_the_digest(
    store: AzureBlobStore, container: ContainerClient
) -> None:
    """To anyone, by what the service keeps."""
    done = assemble(store)
    assert (done.digests, done.evidence) == (CRC64, Evidence.STORE_PARTS)
    stat = store.stat("k")
    assert (stat.digests, stat.evidence, stat.tag) == (CRC64, Evidence.STORE_PARTS, done.tag)
    committed, staged = container.get_blob_client("k").get_block_list("all")
    assert [block.id for block in committed] == [
        f"mlp1-0000{index}-{digest_of(piece).crc64nvme:016x}" for index, piece in enumerate(PIECES)
    ]
    assert staged == []


def test_what_other_tools_write_states_nothing(
    store: AzureBlobStore, container: ContainerClient
) -> None:
    """Nor what they overwrite: the digests go with the bytes."""
    container.upload_blob("put", b"theirs")
    blob = container.get_blob_client("blocks")
    for block, body in (("one", b"the"), ("two", b"irs")):
        blob.stage_block(block, body)
    blob.commit_block_list([BlobBlock("one"), BlobBlock("two")])
    for key in ("put", "blocks"):
        stat = store.stat(key)
        assert (stat.size_bytes, stat.digests, stat.evidence) == (6, UNKNOWN_DIGESTS, None)
        assert read_bytes(store, key)[0] == b"theirs"
    for in_parts in (False, True):
        ours = assemble(store, "ours") if in_parts else store.put("ours", WHOLE)
        assert ours.digests == CRC64
        container.upload_blob("ours", b"theirs", overwrite=True)
        assert store.stat("ours").digests == UNKNOWN_DIGESTS


def test_a_list_that_claims_to_be_ours(store: AzureBlobStore, container: ContainerClient) -> None:
    """Marked as ours, of foreign blocks: nothing is stated."""
    blob = container.get_blob_client("k")
    blob.stage_block("foreign", b"1")
    blob.commit_block_list([BlobBlock("foreign")], metadata={"mlplatform_blocks": "1"})
    assert store.stat("k").digests == UNKNOWN_DIGESTS


def test_other_tools_read_ours(store: AzureBlobStore, container: ContainerClient) -> None:
    """It is a blob like any other."""
    assemble(store, "a b/ä%20+")
    assert container.download_blob("a b/ä%20+").readall() == WHOLE


def test_bytes_that_changed_on_the_way(
    store: AzureBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are refused by the service; nothing is there, and what was there stays."""
    before = store.put("k", b"before")
    upload = begin(store, "new")

    class Corrupting(azure_blob._Slices):
        def __init__(self, body: memoryview) -> None:
            changed = bytearray(body)
            changed[-1] ^= 1
            super().__init__(memoryview(changed))

    with monkeypatch.context() as patched:
        patched.setattr(azure_blob, "_Slices", Corrupting)
        for key in ("k", "new"):
            with pytest.raises(DigestMismatch):
                store.put(key, WHOLE, digests=digest_of(WHOLE))
        with pytest.raises(DigestMismatch):
            send(upload, 0)
    assert store.stat("k").tag == before.tag
    assert not exists(store, "new")
    assert upload.parts() == []


def test_blocks_of_another_tool_are_not_parts(
    store: AzureBlobStore, container: ContainerClient
) -> None:
    """An upload of theirs is not ours to resume, and ours goes on beside it."""
    foreign = base64.b64decode(b"bWxwMS0wMDAwMC1ub3QtYS1jcmMtNjQuLi4u")
    assert len(foreign) == 27
    container.get_blob_client("k").stage_block(foreign.decode(), b"x" * 1000)
    assert list(store.uploads("")) == []
    upload = begin(store)
    assert upload.parts() == []
    send(upload, 1)
    assert [part.index for part in upload.parts()] == [1]
    (found,) = store.uploads("k")
    send(found, 0, 2)
    found.complete(found.parts(), digests=digest_of(WHOLE), when=ABSENT)
    assert read_bytes(store, "k")[0] == WHOLE


def test_a_part_that_two_writers_dispute(store: AzureBlobStore, opened: Opener) -> None:
    """Each knows its own; a third sends it again."""
    mine, theirs = begin(store), begin(opened())
    send(mine, 0)
    other = theirs.part(0, PIECES[1], digests=UNKNOWN_DIGESTS)
    assert [part.digests for part in mine.parts()] == [Digests(digest_of(PIECES[0]).crc64nvme)]
    assert [part.tag for part in theirs.parts()] == [other.tag]
    (third,) = opened().uploads("k")
    send(third, 1)
    assert [part.index for part in third.parts()] == [1]
    send(third, 0, 2)
    third.complete(third.parts(), digests=digest_of(WHOLE), when=ABSENT)
    assert read_bytes(store, "k")[0] == WHOLE


def test_parts_of_another_size_are_not_taken(store: AzureBlobStore, opened: Opener) -> None:
    """Left by an attempt with other parts."""
    opened().begin("k", size_bytes=3000, part_bytes=1500).part(
        0, WHOLE[:1500], digests=UNKNOWN_DIGESTS
    )
    upload = begin(store)
    assert upload.parts() == []
    send(upload, 0)
    assert [(part.index, part.size_bytes) for part in upload.parts()] == [(0, 1000)]


def test_the_second_of_two_replicators(store: AzureBlobStore, opened: Opener) -> None:
    """The first commit takes the blocks along: the other finds its upload gone."""
    mine, theirs = begin(store), begin(opened())
    parts = send(mine, 0, 1, 2)
    theirs_parts = send(theirs, 0, 1, 2)
    assert parts == theirs_parts
    mine.complete(parts, digests=digest_of(WHOLE), when=ALWAYS)
    with pytest.raises(NotFound):
        theirs.parts()
    with pytest.raises(NotFound, match="another writer committed"):
        theirs.complete(theirs_parts, digests=digest_of(WHOLE), when=ALWAYS)
    assert read_bytes(store, "k")[0] == WHOLE


def test_blocks_beside_a_blob(store: AzureBlobStore) -> None:
    """They are found by the exact key; the service does not list them."""
    tag = store.put("k", b"before").tag
    send(begin(store), 0)
    assert [upload.key for upload in store.uploads("k")] == ["k"]
    assert list(store.uploads("")) == []
    (found,) = store.uploads("k")
    send(found, 1, 2)
    found.complete(found.parts(), digests=digest_of(WHOLE), when=Matches(tag))
    assert store.stat("k").digests == CRC64


def test_an_empty_blob_is_not_an_upload(store: AzureBlobStore) -> None:
    """Though a listing shows both with no bytes."""
    store.put("empty", b"")
    send(begin(store, "started"), 0)
    (found,) = store.uploads("")
    assert found.key == "started"
    assert found.started is not None
    assert abs(datetime.now(UTC) - found.started) < timedelta(hours=1)


def test_pages(
    store: AzureBlobStore, monkeypatch: pytest.MonkeyPatch, container: ContainerClient
) -> None:
    """However small, folders that span them included."""
    monkeypatch.setattr(azure_blob, "_PAGE_KEYS", 2)
    names = [f"m/v{index}/{file}" for index in range(3) for file in ("a", "b", "c")] + ["m-1", "n"]
    for name in names:
        store.put(name, b"1")
    assert [stat.key for stat in store.list("")] == sorted(names)
    assert [stat.key for stat in store.list("", shallow=True)] == ["m-1", "m/", "n"]
    assert [stat.key for stat in store.list("m/", shallow=True)] == ["m/v0/", "m/v1/", "m/v2/"]
    assert [stat.key for stat in store.list("m/", after="m/v2/a")] == ["m/v2/b", "m/v2/c"]
    for index in range(5):
        send(begin(store, f"up/{index}"), 0)
    assert [upload.key for upload in store.uploads("up/")] == [f"up/{index}" for index in range(5)]


def test_a_listing_states_the_digests_of_puts(store: AzureBlobStore) -> None:
    """Thousands of small files need no request each; assembled ones are asked for."""
    store.put("a", WHOLE)
    assemble(store, "b")
    listed = list(store.list(""))
    assert [stat.digests for stat in listed] == [CRC64, UNKNOWN_DIGESTS]
    assert listed[0] == store.stat("a")


def test_a_prefix_is_a_folder_of_its_own(opened: Opener, container: ContainerClient) -> None:
    """Two stores in one container do not meet."""
    inner, outer = opened(prefix="team/models"), opened()
    inner.put("k", b"inner")
    send(begin(inner, "up"), 0)
    outer.put("team/models2/k", b"outer")
    assert [stat.key for stat in inner.list("")] == ["k"]
    assert [upload.key for upload in inner.uploads("")] == ["up"]
    assert container.download_blob("team/models/k").readall() == b"inner"
    assert [stat.key for stat in outer.list("", shallow=True)] == ["team/"]
    assert inner.url.endswith("/team/models")


def test_tier_and_tags(opened: Opener, container: ContainerClient) -> None:
    """As the URL asks, however the blob is made."""
    store = opened("storage_class=Cool&tags=team%3Dml%26stage%3Dprod")
    store.put("put", WHOLE)
    assemble(store, "assembled")
    for key in ("put", "assembled"):
        blob = container.get_blob_client(key)
        assert blob.get_blob_properties().blob_tier == "Cool"
        assert blob.get_blob_tags() == {"team": "ml", "stage": "prod"}


def by_sas(
    azurite: Endpoint, container: ContainerClient, permission: str, valid: timedelta
) -> AzureBlobStore:
    sas = generate_container_sas(
        azurite.user,
        container.container_name,
        account_key=azurite.secret,
        permission=ContainerSasPermissions.from_string(permission),
        start=datetime.now(UTC) - timedelta(days=2),
        expiry=datetime.now(UTC) + valid,
    )
    url = f"az://{azurite.user}/{container.container_name}?endpoint={azurite.url}"
    return open_store(StoreURL.parse(url), environ={"AZURE_STORAGE_SAS_TOKEN": sas})


def test_a_sas_is_enough(azurite: Endpoint, container: ContainerClient) -> None:
    """For every verb, with read, write, delete and list."""
    store = by_sas(azurite, container, "rwdl", timedelta(hours=1))
    store.put("k", b"1", when=ABSENT)
    assemble(store, "large")
    assert [stat.key for stat in store.list("")] == ["k", "large"]
    assert store.stat("large").digests == CRC64
    store.delete("k", when=Matches(store.stat("k").tag))
    assert not exists(store, "k")


def test_a_sas_that_may_only_read(azurite: Endpoint, container: ContainerClient) -> None:
    """The refusal names what was tried."""
    container.upload_blob("k", b"1")
    store = by_sas(azurite, container, "r", timedelta(hours=1))
    assert read_bytes(store, "k")[0] == b"1"
    for right, verb in (
        ("put", lambda: store.put("k", b"2")),
        ("delete", lambda: store.delete("k")),
        ("list", lambda: list(store.list(""))),
    ):
        with pytest.raises(Denied, match="Access Denied") as raised:
            verb()
        assert raised.value.right == right


def test_credentials_that_have_expired(azurite: Endpoint, container: ContainerClient) -> None:
    """Or are another account's: never "not found"."""
    expired = by_sas(azurite, container, "rwdl", timedelta(hours=-1))
    wrong = open_store(
        StoreURL.parse(f"az://{azurite.user}/models?endpoint={azurite.url}"),
        environ={"AZURE_STORAGE_KEY": base64.b64encode(b"another key").decode()},
    )
    for store in (expired, wrong):
        with pytest.raises(Denied, match="Access Denied") as raised:
            store.put("k", b"1")
        assert raised.value.hint
