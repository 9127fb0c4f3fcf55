"""What only AWS does: exchanges as its documents have them.

Nothing here has met AWS: these tests hold the adapter to the documents, and what rests on them
alone (a copied range's own CRC) is unproven until a live run.
"""

from __future__ import annotations

import base64
import re

import pytest

from mlplatform.adapters.s3 import S3Store
from mlplatform.core.digest import Digests, combine, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    DigestMismatch,
    NotFound,
    Unavailable,
    UsageError,
)
from mlplatform.ports.store import ABSENT, ALWAYS, Matches, Part, RangeCopy, Span

from .scripted import StandIn, refusal, reply

MIB = 1024 * 1024
FIRST, LAST = bytes(5 * MIB), b"the end"


def text(digests: Digests) -> str:
    assert digests.crc64nvme is not None
    return base64.b64encode(digests.crc64nvme.to_bytes(8, "big")).decode()


CREATED = """<?xml version="1.0" encoding="UTF-8"?>
<InitiateMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Bucket>models</Bucket><Key>k</Key><UploadId>u/+1</UploadId></InitiateMultipartUploadResult>"""
COPIED = f"""<?xml version="1.0" encoding="UTF-8"?>
<CopyPartResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<LastModified>2026-11-21T09:00:00.000Z</LastModified><ETag>"copied"</ETag>
<ChecksumCRC64NVME>{text(digest_of(FIRST))}</ChecksumCRC64NVME></CopyPartResult>"""
WHOLE = combine([(digest_of(FIRST), len(FIRST)), (digest_of(LAST), len(LAST))])
COMPLETED = f"""<?xml version="1.0" encoding="UTF-8"?>
<CompleteMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Location>https://models.s3.amazonaws.com/k</Location><Bucket>models</Bucket><Key>k</Key>
<ETag>"whole-2"</ETag><ChecksumCRC64NVME>{text(WHOLE)}</ChecksumCRC64NVME>
<ChecksumType>FULL_OBJECT</ChecksumType></CompleteMultipartUploadResult>"""


def test_range_assembly(service: StandIn, store: S3Store) -> None:
    """Unchanged ranges are copied where they lie, changed ones are sent, and the whole is proven by
    the digest that S3 is told to expect."""
    assert store.features.range_copy is RangeCopy.STATED
    service.answers(
        reply(200, CREATED),
        reply(200, COPIED),
        reply(200, ETag='"sent"', x_amz_checksum_crc64nvme=text(digest_of(LAST))),
        reply(200, COMPLETED),
    )
    size_bytes = len(FIRST) + len(LAST)
    upload = store.begin("k", size_bytes=size_bytes, part_bytes=5 * MIB)
    span = Span(100, 100 + len(FIRST))
    parts = [
        upload.copy_range(0, "old/ü k", span, when=Matches("old")),
        upload.part(1, LAST, digests=digest_of(LAST)),
    ]
    assert parts == [
        Part(0, len(FIRST), "copied", Digests(crc64nvme=digest_of(FIRST).crc64nvme)),
        Part(1, len(LAST), "sent", Digests(crc64nvme=digest_of(LAST).crc64nvme)),
    ]
    stat = upload.complete(parts, digests=WHOLE, when=ABSENT)
    assert (stat.tag, stat.size_bytes) == ("whole-2", size_bytes)
    assert stat.digests == Digests(crc64nvme=WHOLE.crc64nvme)

    created, copied, sent, completed = service.asked
    assert created.headers["x-amz-checksum-algorithm"] == "CRC64NVME"
    assert created.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert copied.query == {"partNumber": "1", "uploadId": "u/+1"}
    assert copied.headers["x-amz-copy-source"] == "models/old/%C3%BC%20k"
    assert copied.headers["x-amz-copy-source-range"] == f"bytes=100-{99 + len(FIRST)}"
    assert copied.headers["x-amz-copy-source-if-match"] == '"old"'
    assert sent.query == {"partNumber": "2", "uploadId": "u/+1"}
    assert sent.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert completed.headers["x-amz-checksum-crc64nvme"] == text(WHOLE)
    assert completed.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert completed.headers["x-amz-mp-object-size"] == str(size_bytes)
    assert completed.headers["If-None-Match"] == "*"
    listed = re.sub(r"\s|&quot;|\"", "", completed.body.decode())
    for part, body in zip(parts, (FIRST, LAST), strict=True):
        assert f"<PartNumber>{part.index + 1}</PartNumber>" in listed
        assert f"<ETag>{part.tag}</ETag>" in listed
        assert f"<ChecksumCRC64NVME>{text(digest_of(body))}</ChecksumCRC64NVME>" in listed


def test_a_wrong_assembly_is_refused(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, CREATED), reply(200, COPIED), refusal(400, "BadDigest", "no"))
    upload = store.begin("k", size_bytes=len(FIRST), part_bytes=5 * MIB)
    part = upload.copy_range(0, "old", Span(0, len(FIRST)), when=ALWAYS)
    with pytest.raises(DigestMismatch):
        upload.complete([part], digests=digest_of(b"other"), when=ALWAYS)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(412, "PreconditionFailed"), ConditionFailed),
        (refusal(404, "NoSuchKey"), NotFound),
        (refusal(416, "InvalidRange"), Unavailable),
        (reply(200, "<Error><Code>InternalError</Code></Error>"), Unavailable),
        (reply(200, ""), Unavailable),
    ],
)
def test_a_copy_that_fails(
    service: StandIn, store: S3Store, answer: bytes, kind: type[Exception]
) -> None:
    """Like a completion, a copy can fail behind a good status."""
    service.answers(reply(200, CREATED), answer)
    upload = store.begin("k", size_bytes=len(FIRST), part_bytes=5 * MIB)
    with pytest.raises(kind):
        upload.copy_range(0, "old", Span(0, len(FIRST)), when=Matches("t"))


def test_completion_computes_what_it_was_not_told(service: StandIn, store: S3Store) -> None:
    """The parts' digests make the whole's: it is never completed without one that could be had."""
    service.answers(
        reply(200, CREATED),
        reply(200, ETag='"1"', x_amz_checksum_crc64nvme=text(digest_of(FIRST))),
        reply(200, ETag='"2"', x_amz_checksum_crc64nvme=text(digest_of(LAST))),
        reply(200, COMPLETED),
    )
    upload = store.begin("k", size_bytes=len(FIRST) + len(LAST), part_bytes=5 * MIB)
    parts = [
        upload.part(0, FIRST, digests=digest_of(FIRST)),
        upload.part(1, LAST, digests=digest_of(LAST)),
    ]
    upload.complete(parts, digests=Digests(), when=ALWAYS)
    assert service.asked[-1].headers["x-amz-checksum-crc64nvme"] == text(WHOLE)


@pytest.mark.parametrize(
    ("size_bytes", "part_bytes", "says"),
    [
        (10 * MIB, 4 * MIB, "parts under"),
        (10 * MIB, 6 * 1024**3, "parts over"),
        (400 * 1024**3, 32 * MIB, "more than 10000 parts"),
        (0, 5 * MIB, "needs a size"),
    ],
)
def test_limits(store: S3Store, size_bytes: int, part_bytes: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        store.begin("k", size_bytes=size_bytes, part_bytes=part_bytes)


def test_parts_of_other_sizes_are_a_mistake_here(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, CREATED))
    upload = store.begin("k", size_bytes=11 * MIB, part_bytes=5 * MIB)
    for index, size_bytes in ((0, MIB), (2, 5 * MIB), (3, MIB), (-1, 5 * MIB)):
        with pytest.raises(UsageError, match="part"):
            upload.part(index, bytes(size_bytes), digests=Digests())
    assert len(service.asked) == 1
