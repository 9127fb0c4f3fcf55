"""Stalls, broken connections, and answers that stop half-way."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from mlplatform.adapters.s3 import S3Store
from mlplatform.core.digest import UNKNOWN_DIGESTS
from mlplatform.core.errors import NotFound, Throttled, Unavailable
from mlplatform.ports.store import ALWAYS, Part, Upload, read_bytes

from .conftest import Opener
from .scripted import StandIn, reply
from .test_urls import CREATED

Verb = Callable[[S3Store], object]
VERBS: dict[str, Verb] = {
    "put": lambda store: store.put("k", b"x"),
    "get": lambda store: read_bytes(store, "k"),
    "stat": lambda store: store.stat("k"),
    "delete": lambda store: store.delete("k"),
    "list": lambda store: list(store.list("")),
    "begin": lambda store: store.begin("k", size_bytes=1, part_bytes=1),
    "uploads": lambda store: list(store.uploads("")),
}


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(connection: socket.socket) -> None:
    connection.settimeout(20)
    while connection.recv(1 << 20):
        pass


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_silence(service: StandIn, hasty: S3Store, verb: Verb) -> None:
    service.answers(hang)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        verb(hasty)
    assert 0.5 < time.monotonic() - began < 20


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("rude", [reset, lambda _: None], ids=["reset", "closed"])
def test_no_answer(
    service: StandIn, store: S3Store, verb: Verb, rude: Callable[[socket.socket], None]
) -> None:
    service.answers(rude)
    with pytest.raises(Unavailable):
        verb(store)
    assert len(service.asked) == 1, "an adapter does not retry"


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_nobody_there(verb: Verb, service: StandIn, scripted: Opener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Unavailable, match="no connection") as raised:
        verb(scripted())
    assert raised.value.hint


def test_unknown_host(scripted: Opener, service: StandIn) -> None:
    service.url = "https://no-such-host.invalid"
    with pytest.raises(Unavailable, match="no connection"):
        scripted().put("k", b"")


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_nonsense(service: StandIn, store: S3Store, verb: Verb) -> None:
    service.answers(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"))
    with pytest.raises(Unavailable):
        verb(store)


def test_a_document_that_is_cut_off(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, "<ListBucketResult><IsTruncated>tr"))
    with pytest.raises(Unavailable):
        list(store.list(""))


@pytest.mark.parametrize("verb", [VERBS["put"], VERBS["get"], VERBS["stat"]])
def test_a_head_that_is_cut_off(service: StandIn, store: S3Store, verb: Verb) -> None:
    """Libraries take what there is of it for all of it: an object of no bytes."""
    whole = reply(200, b"x" * 1000, ETag='"t"')
    for cut in (b"Content-Length", b"ETag"):
        head = whole[: whole.index(cut)]
        service.answers(lambda connection, head=head: connection.sendall(head))  # type: ignore[misc]
        with pytest.raises(Unavailable):
            verb(store)


def test_a_body_that_ends_early(service: StandIn, store: S3Store) -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(reply(200, b"x" * 1000, ETag='"t"')[:-500])

    service.answers(half)
    with pytest.raises(Unavailable, match="500 bytes early"):
        read_bytes(store, "k")


def test_a_body_that_stalls(service: StandIn, hasty: S3Store) -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(reply(200, b"x" * 1000, ETag='"t"')[:-500])
        hang(connection)

    service.answers(half)
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        read_bytes(hasty, "k")


def test_a_body_that_nobody_takes(service: StandIn, hasty: S3Store) -> None:
    def deaf(connection: socket.socket) -> None:
        done.wait(20)

    done = threading.Event()
    service.answers(deaf)
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        hasty.put("k", bytes(64 << 20))
    done.set()


def test_a_slow_line_is_not_a_stalled_one(service: StandIn, scripted: Opener) -> None:
    """16 MiB in five seconds, where silence may last three: buffers are emptied meanwhile."""

    def slow(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        left = 16 << 20
        while left > 0:
            time.sleep(0.04)
            got = len(connection.recv(128 << 10))
            assert got
            left -= got
        connection.sendall(reply(200, ETag='"t"'))

    service.answers(slow)
    began = time.monotonic()
    scripted("dialect=aws&stall_seconds=3").put("k", bytes(16 << 20))
    assert time.monotonic() - began > 4


def test_a_proxys_excuse_says_nothing_of_the_dialect(service: StandIn, scripted: Opener) -> None:
    store = scripted("")
    service.answers(reply(503, Server="nginx"))
    with pytest.raises(Throttled):
        _ = store.features
    service.answers(reply(403, Server="MinIO"))
    assert not store.features.conditional_delete


def test_a_stranger_is_trusted_with_nothing(service: StandIn, scripted: Opener) -> None:
    service.answers(reply(403, Server="Ceph"))
    features = scripted("").features
    assert not features.conditional_put
    assert not features.conditional_complete
    assert not features.conditional_delete
    assert features.evidence.value == "read-back"


# ------------------------------------------------------------------------------------ completion

PARTS = [Part(0, 5, "e1")]


def upload(service: StandIn, store: S3Store) -> Upload:
    service.answers(reply(200, CREATED))
    return store.begin("k", size_bytes=5, part_bytes=5)


def test_a_good_status_with_an_error_inside(service: StandIn, store: S3Store) -> None:
    """S3 says 200 before it knows."""
    begun = upload(service, store)
    document = "<Error><Code>InternalError</Code><Message>We encountered…</Message></Error>"
    service.answers(reply(200, document))
    with pytest.raises(Unavailable):
        begun.complete(PARTS, digests=UNKNOWN_DIGESTS, when=ALWAYS)
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    "document", ["", "   ", '<?xml version="1.0"?>\n   ', "<CompleteMultipartUploadResult>"]
)
def test_a_good_status_and_then_nothing(service: StandIn, store: S3Store, document: str) -> None:
    begun = upload(service, store)
    service.answers(reply(200, document))
    with pytest.raises(Unavailable):
        begun.complete(PARTS, digests=UNKNOWN_DIGESTS, when=ALWAYS)


COMPLETED = "<CompleteMultipartUploadResult><Key>k</Key><ETag>&quot;e-1&quot;</ETag></CompleteMultipartUploadResult>"  # noqa: E501


def test_a_completion_without_a_digest_is_looked_at(service: StandIn, store: S3Store) -> None:
    begun = upload(service, store)
    service.answers(reply(200, COMPLETED), reply(200, ETag='"e-1"', Content_Length="5"))
    stat = begun.complete(PARTS, digests=UNKNOWN_DIGESTS, when=ALWAYS)
    assert (stat.tag, stat.size_bytes) == ("e-1", 5)


def test_somebody_elses_object_is_not_taken_for_ours(service: StandIn, store: S3Store) -> None:
    begun = upload(service, store)
    service.answers(reply(200, COMPLETED), reply(200, ETag='"other-1"', Content_Length="5"))
    with pytest.raises(NotFound, match="not its doing"):
        begun.complete(PARTS, digests=UNKNOWN_DIGESTS, when=ALWAYS)


def test_the_store_may_think_about_a_completion(service: StandIn, hasty: S3Store) -> None:
    """It may have to read all the bytes, and say nothing meanwhile."""

    def ponder(connection: socket.socket) -> None:
        time.sleep(2)
        connection.sendall(reply(200, COMPLETED))

    begun = upload(service, hasty)
    service.answers(ponder, reply(200, ETag='"e-1"', Content_Length="5"))
    begun.complete(PARTS, digests=UNKNOWN_DIGESTS, when=ALWAYS)
