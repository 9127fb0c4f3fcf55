"""What goes over the line, and what comes back."""

from __future__ import annotations

import base64
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlplatform.adapters.s3 import S3Store
from mlplatform.core.digest import UNKNOWN_DIGESTS, Digests, digest_of
from mlplatform.core.errors import DigestMismatch, Unavailable
from mlplatform.ports.store import ABSENT, Matches, Span, read_bytes, read_into

from .conftest import ACCESS_KEY, Opener
from .scripted import StandIn, refusal, reply

BODY = bytes(range(256)) * 100


def crc64(body: bytes) -> str:
    value = digest_of(body).crc64nvme
    assert value is not None
    return base64.b64encode(value.to_bytes(8, "big")).decode()


def crc32c(body: bytes) -> str:
    value = digest_of(body).crc32c
    assert value is not None
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def test_put_states_its_checksum_and_signs_no_payload(service: StandIn, store: S3Store) -> None:
    """A plain body with its length: no chunks, no trailer, no SHA-256 of it."""
    service.answers(reply(200, ETag='"tag"'))
    store.put("a b/ü+%.bin", BODY, digests=digest_of(BODY))
    (asked,) = service.asked
    assert (asked.method, asked.target) == ("PUT", "/models/a%20b/%C3%BC%2B%25.bin")
    assert asked.body == BODY
    assert asked.headers["Content-Length"] == str(len(BODY))
    assert asked.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert asked.headers["x-amz-checksum-crc64nvme"] == crc64(BODY)
    assert f"Credential={ACCESS_KEY}/" in asked.headers["Authorization"]
    assert "x-amz-checksum-crc64nvme" in asked.headers["Authorization"]
    for header in ("Transfer-Encoding", "Content-Encoding", "x-amz-trailer", "Expect", "If-Match"):
        assert header not in asked.headers


def test_conditions(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, ETag='"tag"'))
    store.put("k", b"x", when=ABSENT)
    store.put("k", b"x", when=Matches("abc-2"))
    assert service.asked[0].headers["If-None-Match"] == "*"
    assert service.asked[1].headers["If-Match"] == '"abc-2"'


def test_unknown_digests_are_computed(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, ETag='"tag"'))
    store.put("k", BODY)
    assert service.asked[0].headers["x-amz-checksum-crc64nvme"] == crc64(BODY)


def test_crc32c_alone_is_compared_here(service: StandIn, store: S3Store) -> None:
    """One checksum goes with a request, and it is always the same one."""
    with pytest.raises(DigestMismatch, match="Checksum mismatch"):
        store.put("k", BODY, digests=Digests(crc32c=1))
    assert service.asked == []


def test_a_store_that_checks_nothing_gets_what_was_checked_here(
    service: StandIn, scripted: Opener
) -> None:
    store = scripted("dialect=other")
    with pytest.raises(DigestMismatch):
        store.put("k", BODY, digests=Digests(crc64nvme=1))
    service.answers(reply(200, ETag='"1"', x_amz_checksum_crc64nvme=crc64(BODY)))
    assert store.put("k", BODY).digests == UNKNOWN_DIGESTS


@pytest.mark.parametrize(
    ("algorithm", "text", "kind", "believed"),
    [
        ("crc64nvme", crc64(BODY), "FULL_OBJECT", Digests(crc64nvme=digest_of(BODY).crc64nvme)),
        ("crc32c", crc32c(BODY), "FULL_OBJECT", Digests(crc32c=digest_of(BODY).crc32c)),
        ("crc32c", f"{crc32c(BODY)}-3", "COMPOSITE", UNKNOWN_DIGESTS),
        ("crc32c", crc32c(BODY), "COMPOSITE", UNKNOWN_DIGESTS),
        ("crc64nvme", crc64(BODY), "", UNKNOWN_DIGESTS),
        ("sha256", "eA==", "FULL_OBJECT", UNKNOWN_DIGESTS),
        ("crc64nvme", "eA==", "FULL_OBJECT", UNKNOWN_DIGESTS),
        ("crc64nvme", "no base64", "FULL_OBJECT", UNKNOWN_DIGESTS),
    ],
)
def test_only_a_digest_of_the_whole_is_believed(
    service: StandIn, store: S3Store, algorithm: str, text: str, kind: str, believed: Digests
) -> None:
    stated = {f"x_amz_checksum_{algorithm}": text, "x_amz_checksum_type": kind}
    service.answers(reply(200, ETag='"tag"', **stated))
    stat = store.stat("k")
    assert service.asked[0].headers["x-amz-checksum-mode"] == "ENABLED"
    assert stat.digests == believed
    assert (stat.evidence is None) == (believed == UNKNOWN_DIGESTS)


def test_a_body_arrives_in_the_callers_memory(service: StandIn, store: S3Store) -> None:
    service.answers(
        reply(206, BODY[10:1010], ETag='"t"', Content_Range=f"bytes 10-1009/{len(BODY)}")
    )
    buffer = memoryview(bytearray(2000))
    stat = read_into(store, "k", Span(10, 1010), buffer, when=Matches("t"))
    assert bytes(buffer[:1000]) == BODY[10:1010]
    assert stat.size_bytes == len(BODY)
    assert service.asked[0].headers["Range"] == "bytes=10-1009"
    assert service.asked[0].headers["If-Match"] == '"t"'


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, BODY),
        reply(206, BODY[:10], Content_Range=f"bytes 0-9/{len(BODY)}"),
        reply(206, BODY[10:20], Content_Range=f"bytes 10-19/{len(BODY)}"),
        reply(206, BODY[10:1010]),
        reply(206, BODY[10:1010], Content_Range="bytes what"),
    ],
    ids=["all of it", "other bytes", "fewer bytes", "no range", "odd range"],
)
def test_bytes_that_were_not_asked_for(service: StandIn, store: S3Store, answer: bytes) -> None:
    service.answers(answer)
    with pytest.raises(Unavailable):
        read_into(store, "k", Span(10, 1010), memoryview(bytearray(1000)))


def test_all_of_it_is_a_span_too(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, BODY, ETag='"t"'))
    buffer = memoryview(bytearray(len(BODY)))
    read_into(store, "k", Span(0, len(BODY)), buffer)
    assert bytes(buffer) == BODY


def test_an_empty_span_is_asked_for_without_a_range(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, ETag='"t"', Content_Length="5"))
    with store.get("k", Span(5, 5), when=Matches("t")) as body:
        assert body.readinto(memoryview(bytearray(1))) == 0
        assert body.stat.size_bytes == 5
    assert service.asked[0].method == "HEAD"
    assert service.asked[0].headers["If-Match"] == '"t"'


def test_connections_are_kept(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, BODY, ETag='"t"'))
    for _ in range(5):
        assert read_bytes(store, "k")[0] == BODY
        store.put("k", BODY)
        store.delete("k")
    assert service.connections == 1


def test_as_many_connections_as_there_are_requests_at_once(
    service: StandIn, store: S3Store
) -> None:
    def slow(connection: socket.socket) -> None:
        together.wait(20)
        connection.sendall(reply(200, ETag='"t"'))

    together = threading.Barrier(32)
    service.answers(slow)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda index: store.put(f"k{index}", b""), range(32)))
    assert service.connections == 32


def test_a_body_that_was_not_read_costs_the_connection(service: StandIn, store: S3Store) -> None:
    """Rather than reading gigabytes that nobody wants."""
    service.answers(reply(200, BODY, ETag='"t"'))
    with store.get("k") as body:
        body.readinto(memoryview(bytearray(10)))
    assert read_bytes(store, "k")[0] == BODY
    assert service.connections == 2


def test_a_connection_that_the_server_closed_is_not_used_again(
    service: StandIn, store: S3Store
) -> None:
    """Many servers close what has been idle; the next request must not pay for that."""

    def last_words(connection: socket.socket) -> None:
        connection.sendall(reply(200, BODY, ETag='"t"'))
        connection.shutdown(socket.SHUT_WR)
        ended.release()

    ended = threading.Semaphore(0)
    service.answers(last_words)
    for _ in range(3):
        assert read_bytes(store, "k")[0] == BODY
        assert ended.acquire(timeout=30)
    assert service.connections == 3


def test_a_refusal_while_the_body_is_being_sent_is_heard(service: StandIn, store: S3Store) -> None:
    """Servers refuse early and close; the reason must not be lost in a broken pipe."""

    def refuse(connection: socket.socket) -> None:
        connection.sendall(refusal(404, "NoSuchBucket"))
        connection.settimeout(2)
        time.sleep(0.2)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    service.answers(refuse)
    with pytest.raises(Exception, match="no such bucket"):
        store.put("k", bytes(64 << 20))
