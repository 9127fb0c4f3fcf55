"""Google Cloud Storage: `gs://bucket/prefix?option=value`.

The JSON API by urllib3, with google-auth's credentials. A request costs a third to a half of the
CPU that the SDK's Blob objects take, and a GiB read a tenth: bodies go between socket and caller's
memory uncopied, and nothing below tries again behind our back. `STORAGE_EMULATOR_HOST` means
nothing here.

    endpoint        another server; on this machine it is asked without credentials
    credentials     path of a credentials file, instead of Google's own chain
    impersonate     service account to act as
    project         whose quota the requests count against
    requester_pays  project that pays for them
    kms_key, storage_class, tags    of what is written; tags become the objects' metadata
    stall_seconds   time without progress after which a connection is given up
    insecure        allows plain HTTP to another machine

A tag is a generation. Conditions are `ifGenerationMatch`. A body goes up with its CRC32C declared
beside it, so that the service refuses other bytes, and every object, composed ones too, has a
CRC32C that the service computed: that is the evidence.

An upload is a folder of objects, `.mlplatform/uploads/<hash of the key>-<size>-<part size>/`:

    .key                                          the marker: while it is there, so is the upload
    <index>-<size>-<crc32c>-<crc64nvme>           a part
    c<level>-<first index>-<size>-<crcs>          up to 32 of them, composed

All are created at generation 0 and named for their content, so that all writers of a key share
them and whoever sends or composes again finds what is there. Each carries the key in its metadata,
so that any one of them names the upload. `complete` composes 32 at a time, level by level (three
levels: 32,768 parts, which is 5 TiB in parts of 160 MiB), the last onto the key itself, under the
caller's condition; then the marker goes first and the parts after it, so that a late writer sees
that it is late and removes what it sent.

What to know of the bucket: soft delete bills deleted parts until it expires, retention and holds
keep parts from being deleted at all, and in a class other than STANDARD (a composed object has its
parts' class) each part costs the class's minimum storage time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import re
import secrets
import ssl
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead
from json import JSONDecodeError
from types import TracebackType
from typing import Any, Self, TypeGuard
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import certifi
import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.impersonated_credentials
import google.auth.transport.urllib3
import urllib3

from mlplatform.core.digest import (
    UNKNOWN_DIGESTS,
    Buffer,
    Digests,
    Evidence,
    combine,
    digest_of,
)
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    DigestMismatch,
    MlplatformError,
    NotFound,
    StoreError,
    StoreFull,
    Throttled,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.redact import redact
from mlplatform.core.store_url import StoreURL, is_loopback
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    KEY_BYTES_MAX,
    Absent,
    Always,
    Body,
    Condition,
    Matches,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
    check_key,
)

log = logging.getLogger(__name__)

ENDPOINT = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
# What asks IAM for another account's token needs this one; that token then has SCOPE.
IMPERSONATION_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

OPTIONS = frozenset(
    {
        "endpoint",
        "project",
        "credentials",
        "impersonate",
        "kms_key",
        "storage_class",
        "requester_pays",
        "tags",
        "insecure",
        "stall_seconds",
    }
)

COMPOSE_MAX = 32
FEATURES = StoreFeatures(
    evidence=Evidence.STORE_WHOLE,
    part_bytes_max=5 * 1024**4,
    parts_max=COMPOSE_MAX**3,
    put_bytes_max=5 * 1024**4,
)

_HOUSE = ".mlplatform/"
_UPLOADS = ".mlplatform/uploads/"
_MARKER = ".key"
_PART = re.compile(r"(\d{5})-(\d+)-([0-9a-f]{8})-([0-9a-f]{16})")
_KEY_LABEL = "mlplatform-key"

_POOL_SIZE = 32
_HANDS = 8
"""Threads that compose and delete the objects of one upload."""
_SLICE_BYTES = 1024 * 1024
"""A socket's time-out is for one call: a large body goes in slices, so that it is time without
progress that counts, not the time that all of it takes."""
_SMALL_BYTES = 64 * 1024
_ERROR_BYTES = 64 * 1024
_PAGE = 1000
_OBJECT_FIELDS = "name,size,generation,crc32c,timeCreated"
_GENERATION = re.compile(r"[1-9]\d{0,18}")


def open_store(url: StoreURL) -> GCSStore:
    """The bucket that `url` names. Nothing is asked of the network yet, nor of the credentials."""
    url.reject_unknown(OPTIONS)
    bucket, prefix = url.authority, url.path.strip("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
        raise UsageError(f"store URL {url} names no bucket", hint="write gs://bucket/prefix")
    if prefix:
        check_key(prefix)
    return GCSStore(
        url=str(url),
        bucket=bucket,
        prefix=f"{prefix}/" if prefix else "",
        api=_Api(_Login.of(url), url.seconds("stall_seconds", default=30.0)),
        kms_key=url.options.get("kms_key"),
        storage_class=url.options.get("storage_class"),
        requester_pays=url.options.get("requester_pays"),
        tags=_tags(url),
    )


def _tags(url: StoreURL) -> dict[str, str]:
    """`tags=team%3Dvision%26tier%3D2` as the objects' own metadata."""
    text = url.options.get("tags")
    try:
        tags = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=True)) if text else {}
    except ValueError:
        tags = {"": ""}
    if "" in tags:
        raise UsageError(
            f"store URL {url}: tags={text!r} is not name=value&name=value",
            hint="percent-encode it in the URL: tags=team%3Dvision%26tier%3D2",
        )
    return tags


@dataclass(frozen=True, slots=True)
class _Item:
    """An object as the service describes it, by its full name."""

    name: str
    generation: str
    size_bytes: int
    crc32c: int | None
    created: datetime | None
    labels: Mapping[str, str]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> _Item:
        created = answer.get("timeCreated")
        return cls(
            name=str(answer["name"]),
            generation=str(answer["generation"]),
            size_bytes=int(answer.get("size", 0)),
            crc32c=_crc32c_of(answer.get("crc32c")),
            created=datetime.fromisoformat(created) if created else None,
            labels=answer.get("metadata") or {},
        )

    @property
    def digests(self) -> Digests:
        return Digests(crc32c=self.crc32c)

    def is_whole(self, size_bytes: int, digests: Digests) -> bool:
        """Whether nothing that the service says of it speaks against what was meant."""
        return self.size_bytes == size_bytes and not self.digests.contradicts(digests)


@dataclass(frozen=True, slots=True)
class _Source:
    """Something to compose: a part, or parts that were composed before."""

    name: str
    generation: str
    first_index: int
    size_bytes: int
    digests: Digests
    stated: Digests
    """What the service says of it, which does not contradict `digests`."""

    @property
    def part(self) -> Part:
        # The tag is the content's, so that equal parts are the same part, whoever sent them.
        return Part(self.first_index, self.size_bytes, _hex(self.digests), self.stated)


class GCSStore:
    """One bucket, below a prefix."""

    def __init__(
        self,
        *,
        url: str,
        bucket: str,
        prefix: str,
        api: _Api,
        kms_key: str | None,
        storage_class: str | None,
        requester_pays: str | None,
        tags: Mapping[str, str],
    ) -> None:
        self._url = url
        self._bucket = bucket
        self._prefix = prefix
        self._api = api
        self._tags = tags
        self._shared = {"userProject": requester_pays} if requester_pays else {}
        self._written = {"kmsKeyName": kms_key} if kms_key else {}
        self._resource = {"contentType": "application/octet-stream"}
        if storage_class:
            self._resource["storageClass"] = storage_class

    def __repr__(self) -> str:
        return f"<GCSStore {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> StoreFeatures:
        return FEATURES

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        name, view = self._name(key), memoryview(body).cast("B")
        if view.nbytes > FEATURES.put_bytes_max:
            raise UsageError(
                f"{self._url}/{key}: a put takes at most {FEATURES.put_bytes_max} bytes"
            )
        if digests.crc32c is None:
            digests = self._computed(key, view, digests)
        item = self._insert(key, name, view, digests, when, labels=self._tags)
        return self._stat_of(key, item)

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        name = self._name(key)
        if span is not None and not span.size_bytes:
            return self._get_nothing(key, span, when)
        # The raw bytes: an object that was stored compressed is not to be unpacked on the way.
        headers = {"Accept-Encoding": "gzip"}
        if span is not None:
            headers["Range"] = f"bytes={span.start}-{span.stop - 1}"
        params = {"alt": "media"}
        if not (isinstance(when, Matches) and not _GENERATION.fullmatch(when.tag)):
            params |= self._require(key, when)
        try:
            response = self._open("GET", self._object(name, params), key, "get", headers=headers)
        except ConditionFailed:
            self.stat(key)  # `NotFound` if it is not even there
            raise
        try:
            stat, start, stop = self._read_headers(key, response.headers)
            if isinstance(when, Matches) and stat.tag != when.tag:
                raise ConditionFailed(
                    f"has tag {stat.tag}, not {when.tag}", store=self._url, key=key
                )
            wanted = span or Span(0, stat.size_bytes)
            if (start, stop) != (wanted.start, wanted.stop):
                raise Unavailable(
                    f"asked for bytes {wanted.start} to {wanted.stop}, was offered {start} to "
                    f"{stop} of {stat.size_bytes}",
                    store=self._url,
                    key=key,
                )
        except BaseException:
            response.close()
            raise
        return _Body(stat, response, wanted.size_bytes, partial(self._translated, key, "get"))

    def stat(self, key: str) -> Stat:
        return self._stat_of(key, self._item(key, self._name(key)))

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        base = len(self._prefix)
        params = {"fields": f"items({_OBJECT_FIELDS}),prefixes,nextPageToken"}
        if after > prefix:
            params["startOffset"] = self._prefix + after
        if shallow:
            params["delimiter"] = "/"
        for items, folders in self._pages(self._prefix + prefix, params):
            found = [self._stat_of(item.name[base:], item) for item in items]
            found += (Stat(folder[base:], 0, "") for folder in folders)
            # Code points sort as UTF-8 does. startOffset lets `after` itself through.
            for stat in sorted(found, key=lambda stat: stat.key):
                if stat.key > after and self._is_visible(stat.key, shallow=shallow):
                    yield stat

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        name = self._name(key)
        try:
            self._delete(key, name, self._require(key, when))
        except ConditionFailed:
            with _absence_is_fine():
                self.stat(key)
                raise

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        self._name(key)
        if size_bytes < 1 or part_bytes < 1:
            raise UsageError(f"{self._url}/{key}: an upload needs a size and a part size")
        if -(-size_bytes // part_bytes) > FEATURES.parts_max:
            raise UsageError(f"{self._url}/{key}: more than {FEATURES.parts_max} parts")
        if part_bytes > FEATURES.part_bytes_max:
            raise UsageError(f"{self._url}/{key}: parts over {FEATURES.part_bytes_max} bytes")
        upload = _GCSUpload(self, key, size_bytes, part_bytes, None)
        with suppress(ConditionFailed):  # somebody began it before: the same upload
            marker = self._insert(
                key,
                upload.folder + _MARKER,
                memoryview(b""),
                Digests(0, 0),
                ABSENT,
                labels=upload.labels,
            )
            upload.started = marker.created
        return upload

    def uploads(self, prefix: str) -> Iterator[Upload]:
        found: list[_GCSUpload] = []
        root = self._prefix + _UPLOADS
        for _, folders in self._pages(root, {"delimiter": "/", "fields": "prefixes,nextPageToken"}):
            for folder in folders:
                # ".key" comes before the parts; where it is gone, any other names the upload too.
                params = {"maxResults": "1", "fields": f"items({_OBJECT_FIELDS},metadata)"}
                first, _ = next(self._pages(folder, params))
                upload = self._upload_of(folder, first[0]) if first else None
                if upload is not None and upload.key.startswith(prefix):
                    found.append(upload)
        return iter(sorted(found, key=_newest_first))

    # Below: what the verbs share.

    def _name(self, key: str) -> str:
        check_key(key)
        if key.startswith(_UPLOADS):
            raise UsageError(f"{self._url}/{key}: {_UPLOADS} holds unfinished uploads alone")
        name = self._prefix + key
        if len(name.encode()) > KEY_BYTES_MAX:
            raise UsageError(
                f"{self._url}/{key}: with its prefix, the key has over {KEY_BYTES_MAX} bytes"
            )
        return name

    def _computed(self, key: str, body: memoryview, given: Digests) -> Digests:
        """Both digests of `body`, which are those that were given."""
        found = digest_of(body)
        if found.contradicts(given):
            raise DigestMismatch(f"{self._url}/{key}: got {found}, was to be {given}")
        return found

    def _stat_of(self, key: str, item: _Item) -> Stat:
        return Stat(
            key,
            item.size_bytes,
            item.generation,
            item.created,
            item.digests,
            None if item.crc32c is None else Evidence.STORE_WHOLE,
        )

    def _is_visible(self, key: str, *, shallow: bool) -> bool:
        if key.startswith(_UPLOADS):
            return False
        if shallow and key == _HOUSE:
            return next(self.list(_HOUSE, shallow=True), None) is not None
        return True

    def _upload_of(self, folder: str, item: _Item) -> _GCSUpload | None:
        """The upload that `item` lies in, unless the folder is none of ours."""
        key = item.labels.get(_KEY_LABEL, "")
        shape = re.fullmatch(r".*-(\d+)-(\d+)/", folder)
        if not shape:
            return None
        upload = _GCSUpload(self, key, int(shape[1]), int(shape[2]), item.created)
        return upload if upload.folder == folder else None

    def _require(self, key: str, when: Condition) -> dict[str, str]:
        match when:
            case Always():
                return {}
            case Absent():
                return {"ifGenerationMatch": "0"}
            case Matches(tag):
                if not _GENERATION.fullmatch(tag):  # "0" would mean: no such object
                    raise ConditionFailed(f"has no tag {tag!r}", store=self._url, key=key)
                return {"ifGenerationMatch": tag}

    def _get_nothing(self, key: str, span: Span, when: Condition) -> AbstractContextManager[Body]:
        """No bytes cannot be asked for: a range names its last byte."""
        stat = self.stat(key)
        if isinstance(when, Matches) and stat.tag != when.tag:
            raise ConditionFailed(f"has tag {stat.tag}, not {when.tag}", store=self._url, key=key)
        if span.stop > stat.size_bytes:
            raise Unavailable(f"byte {span.stop} of {stat.size_bytes}", store=self._url, key=key)
        return _Body(stat, None, 0, partial(self._translated, key, "get"))

    def _read_headers(self, key: str, headers: Mapping[str, str]) -> tuple[Stat, int, int]:
        """What a media answer says of the object, and which of its bytes it carries."""
        length = headers.get("Content-Length")
        size_bytes = int(headers.get("X-Goog-Stored-Content-Length", length or -1))
        start, stop = 0, int(length) if length else size_bytes
        if ranged := re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", "")):
            start, stop, size_bytes = int(ranged[1]), int(ranged[2]) + 1, int(ranged[3])
        stated = re.search(r"crc32c=([\w+/]+=*)", headers.get("X-Goog-Hash", ""))
        tag = headers.get("X-Goog-Generation")
        if tag is None or size_bytes < 0:  # the service always says; an emulator does not
            stat = self.stat(key)
            return stat, start, stat.size_bytes if stop < 0 else stop
        modified = headers.get("Last-Modified")
        item = _Item(
            name="",
            generation=tag,
            size_bytes=size_bytes,
            crc32c=_crc32c_of(stated[1]) if stated else None,
            created=parsedate_to_datetime(modified) if modified else None,
            labels={},
        )
        return self._stat_of(key, item), start, stop

    # The requests.

    def _insert(
        self,
        key: str,
        name: str,
        body: memoryview,
        digests: Digests,
        when: Condition,
        *,
        labels: Mapping[str, str],
    ) -> _Item:
        """Write an object in one request, its CRC32C declared."""
        resource = {"name": name, "crc32c": _base64_of(digests), "metadata": labels}
        boundary = secrets.token_hex(16)
        params = {"uploadType": "multipart", "fields": _OBJECT_FIELDS, "prettyPrint": "false"}
        params |= self._require(key, when) | self._written | self._shared
        try:
            answer = self._json(
                "POST",
                f"/upload/storage/v1/b/{self._bucket}/o?{urlencode(params)}",
                key,
                "put",
                body=_related(boundary, self._resource | resource, body),
                headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            )
        except NotFound as error:
            if isinstance(error, ContainerMissing):
                raise
            raise ConditionFailed("is not there", store=self._url, key=key) from error
        return self._confirmed(key, self._described(key, answer), body.nbytes, digests)

    def _compose(
        self,
        key: str,
        name: str,
        sources: Sequence[_Source],
        when: Condition,
        *,
        labels: Mapping[str, str],
    ) -> _Item:
        """Make an object of others, whose generations are pinned, its CRC32C declared."""
        whole = combine((source.digests, source.size_bytes) for source in sources)
        params = {"fields": _OBJECT_FIELDS, "prettyPrint": "false"}
        params |= self._require(key, when) | self._written | self._shared
        request = {
            "destination": {**self._resource, "crc32c": _base64_of(whole), "metadata": labels},
            "sourceObjects": [
                {"name": source.name, "generation": source.generation} for source in sources
            ],
        }
        answer = self._json(
            "POST",
            f"/storage/v1/b/{self._bucket}/o/{quote(name, safe='')}/compose?{urlencode(params)}",
            key,
            "put",
            body=json.dumps(request).encode(),
            headers={"Content-Type": "application/json"},
        )
        size_bytes = sum(source.size_bytes for source in sources)
        return self._confirmed(key, self._described(key, answer), size_bytes, whole)

    def _confirmed(self, key: str, item: _Item, size_bytes: int, digests: Digests) -> _Item:
        """`item`, unless the service states other bytes than were meant: then it goes again."""
        if item.is_whole(size_bytes, digests):
            return item
        self._delete(key, item.name, {"generation": item.generation})
        raise DigestMismatch(
            f"{self._url}/{key}: the store holds {item.size_bytes} bytes, {item.digests}; was to "
            f"be {size_bytes} bytes, {digests}"
        )

    def _item(self, key: str, name: str) -> _Item:
        params = {"fields": _OBJECT_FIELDS, "prettyPrint": "false"}
        return self._described(key, self._json("GET", self._object(name, params), key, "get"))

    def _delete(self, key: str, name: str, params: Mapping[str, str]) -> None:
        with _absence_is_fine():
            self._json("DELETE", self._object(name, params), key, "delete")

    def _pages(
        self, prefix: str, params: Mapping[str, str]
    ) -> Iterator[tuple[Sequence[_Item], Sequence[str]]]:
        """The pages of a listing below the full `prefix`: objects, and folders."""
        key = prefix.removeprefix(self._prefix)
        query = {"prefix": prefix, "maxResults": str(_PAGE), "prettyPrint": "false"}
        query |= {**params, **self._shared}
        while True:
            path = f"/storage/v1/b/{self._bucket}/o?{urlencode(query)}"
            page = self._json("GET", path, key, "list")
            items = [self._described(key, item) for item in page.get("items", ())]
            yield items, [str(folder) for folder in page.get("prefixes", ())]
            if not (token := page.get("nextPageToken")):
                return
            query["pageToken"] = str(token)

    def _below(self, prefix: str) -> Sequence[_Item]:
        """All objects below the full `prefix`."""
        params = {"fields": f"items({_OBJECT_FIELDS}),nextPageToken"}
        return [item for items, _ in self._pages(prefix, params) for item in items]

    def _described(self, key: str, answer: Any) -> _Item:
        try:
            return _Item.of(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(
                f"the answer describes no object: {_clean(str(answer))}", store=self._url, key=key
            ) from error

    def _object(self, name: str, params: Mapping[str, str]) -> str:
        query = urlencode({**params, **self._shared})
        return f"/storage/v1/b/{self._bucket}/o/{quote(name, safe='')}?{query}"

    def _json(
        self,
        method: str,
        path: str,
        key: str,
        right: str,
        *,
        body: bytes | _Related | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The answer to one request; any refusal in our words."""
        response = self._open(method, path, key, right, body=body, headers=headers)
        with self._translated(key, right):
            answer = json.loads(response.data or b"null")
        return answer if isinstance(answer, dict) else {}

    def _open(
        self,
        method: str,
        path: str,
        key: str,
        right: str,
        *,
        body: bytes | _Related | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer to one request, its body unread; any refusal in our words."""
        with self._translated(key, right):
            response = self._api.open(method, path, body, headers or {})
            if response.status in (200, 204, 206):
                return response
            text = response.read(_ERROR_BYTES, decode_content=True)
            response.close()
        refusal = _Refusal.of(response.status, response.headers, text, self._url, key, right)
        error = refusal.translated()
        if type(error) is NotFound and refusal.is_vague:
            # The text does not say whether it is the object or the bucket that is missing. A
            # listing does.
            with suppress(Denied):
                next(self._pages(self._prefix + _UPLOADS, {"maxResults": "1"}))
        raise error

    @contextmanager
    def _translated(self, key: str, right: str) -> Iterator[None]:
        """What goes wrong below HTTP, in our words."""
        try:
            yield
        except google.auth.exceptions.GoogleAuthError as error:
            raise _credentials_error(error, self._url, key, right) from error
        except (urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
            raise Unavailable(_transport_text(error), store=self._url, key=key) from error
        except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable(
                f"the answer is not JSON: {type(error).__name__}", store=self._url, key=key
            ) from error


@contextmanager
def _absence_is_fine() -> Iterator[None]:
    """The object's, that is; a missing bucket is no answer to anything."""
    try:
        yield
    except NotFound as error:
        if isinstance(error, ContainerMissing):
            raise


class _Body:
    """An object, or a span of it, on its way here."""

    __slots__ = ("_left", "_response", "_stat", "_translated")

    def __init__(
        self,
        stat: Stat,
        response: urllib3.BaseHTTPResponse | None,
        size_bytes: int,
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._stat = stat
        self._response = response
        self._left = size_bytes
        self._translated = translated

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._response is not None:
            # Read to the end, the connection has gone back to the pool; else it is of no more use.
            if self._left:
                self._response.close()
            self._response.release_conn()
            self._response = None

    @property
    def stat(self) -> Stat:
        return self._stat

    def readinto(self, buffer: memoryview) -> int:
        if self._response is None or not self._left:
            return 0
        # What urllib3 wraps fills the buffer from the socket, where urllib3 reads and then copies.
        source: HTTPResponse = self._response._original_response  # type: ignore[attr-defined]
        with self._translated():
            count = source.readinto(buffer.cast("B")[: self._left])
            if not count:
                raise IncompleteRead(b"", self._left)
        self._left -= count
        return count


class _GCSUpload:
    """A handle: all state lies in the bucket, so any handle of the same upload is as good."""

    __slots__ = ("_key", "_part_bytes", "_size_bytes", "_store", "folder", "started")

    def __init__(
        self, store: GCSStore, key: str, size_bytes: int, part_bytes: int, started: datetime | None
    ) -> None:
        self._store = store
        self._key = key
        self._size_bytes = size_bytes
        self._part_bytes = part_bytes
        self.started: datetime | None = started
        self.folder = f"{store._prefix}{_UPLOADS}{self.id}/"

    def __repr__(self) -> str:
        return f"<upload {self.id} of {self._store.url}/{self.key}>"

    @property
    def key(self) -> str:
        return self._key

    @property
    def id(self) -> str:
        # Parts of other sizes are another upload: an index means the same bytes to all who share.
        name = hashlib.sha256(self._key.encode()).hexdigest()[:32]
        return f"{name}-{self._size_bytes}-{self._part_bytes}"

    @property
    def labels(self) -> Mapping[str, str]:
        """The metadata of everything in the folder."""
        return {_KEY_LABEL: self._key}

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        store, view = self._store, memoryview(body).cast("B")
        expected = min(self._part_bytes, self._size_bytes - index * self._part_bytes)
        if index < 0 or view.nbytes != expected:
            raise UsageError(
                f"{store.url}/{self._key}: part {index} has {view.nbytes} bytes, not {expected}"
            )
        if digests.crc32c is None or digests.crc64nvme is None:
            digests = store._computed(self._key, view, digests)
        name = f"{self.folder}{index:05d}-{view.nbytes}-{_hex(digests)}"
        try:
            item = store._insert(self._key, name, view, digests, ABSENT, labels=self.labels)
        except ConditionFailed:
            item = self._found_again(index, name, view, digests)
        try:
            store._item(self._key, self.folder + _MARKER)
        except NotFound as error:
            if isinstance(error, ContainerMissing):
                raise
            store._delete(self._key, name, {"generation": item.generation})
            raise self._gone() from error
        return Part(index, item.size_bytes, _hex(digests), item.digests)

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        raise Unsupported(
            f"no range copies here: part {index}, {span} of {source_key} {when}",
            store=self._store.url,
            key=self._key,
        )

    def parts(self) -> Sequence[Part]:
        # Of several that were sent for an index, the last one.
        newest = {source.first_index: source.part for source in self._sources(self._held())}
        return [newest[index] for index in sorted(newest)]

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        store = self._store
        held = self._held()
        sources = self._chosen(parts, held)
        whole = combine((source.digests, source.size_bytes) for source in sources)
        if digests.contradicts(whole):
            raise DigestMismatch(
                f"{store.url}/{self._key}: the parts make {whole}, was to be {digests}"
            )
        there = {item.name: item for item in held}
        try:
            with ThreadPoolExecutor(_HANDS) as hands:
                level = 0
                while len(sources) > COMPOSE_MAX:
                    level += 1
                    groups = [
                        sources[start : start + COMPOSE_MAX]
                        for start in range(0, len(sources), COMPOSE_MAX)
                    ]
                    sources = list(hands.map(partial(self._joined, level, there), groups))
            name = store._prefix + self._key
            item = store._compose(self._key, name, sources, when, labels=store._tags)
        except NotFound as error:
            raise error if isinstance(error, ContainerMissing) else self._gone() from error
        try:
            self._clear()
        except StoreError as error:
            # The object is there and right. What is left is found by `uploads`, and cleaned.
            log.info("%s/%s: parts are left behind: %s", store.url, self._key, error)
        return store._stat_of(self._key, item)

    def abort(self) -> None:
        self._clear()

    def _held(self) -> Sequence[_Item]:
        """What lies in the folder; `NotFound` if the upload is gone."""
        with ThreadPoolExecutor(_HANDS) as hands:
            held = list(hands.map(self._stated, self._store._below(self.folder)))
        if not any(item.name == self.folder + _MARKER for item in held):
            raise self._gone()
        return held

    def _stated(self, item: _Item) -> _Item:
        """What was listed, with its digest: listings leave those out where a customer's own key
        encrypts the bucket."""
        if item.crc32c is not None or item.name.endswith(f"/{_MARKER}"):
            return item
        return self._store._item(self._key, item.name)

    def _gone(self) -> NotFound:
        return NotFound(
            f"upload {self.id} was completed or aborted", store=self._store.url, key=self._key
        )

    def _sources(self, held: Sequence[_Item]) -> list[_Source]:
        """The parts among what is held, in the order in which they came."""
        sources = []
        for item in sorted(held, key=lambda item: int(item.generation)):
            if name := _PART.fullmatch(item.name.removeprefix(self.folder)):
                size_bytes, named = int(name[2]), Digests(int(name[4], 16), int(name[3], 16))
                if item.is_whole(size_bytes, named):
                    index = int(name[1])
                    sources.append(
                        _Source(item.name, item.generation, index, size_bytes, named, item.digests)
                    )
        return sources

    def _found_again(self, index: int, name: str, body: memoryview, digests: Digests) -> _Item:
        """The part of that name, which is there already, as the last that came for its index."""
        store = self._store
        held = store._below(f"{self.folder}{index:05d}-")
        last = max(held, key=lambda item: int(item.generation), default=None)
        if last is not None and last.name == name:
            last = self._stated(last)
            if last.is_whole(body.nbytes, digests):
                return last
        return store._insert(self._key, name, body, digests, ALWAYS, labels=self.labels)

    def _chosen(self, parts: Sequence[Part], held: Sequence[_Item]) -> Sequence[_Source]:
        """The objects behind `parts`, which must be all of the upload."""
        there = {(s.first_index, s.part.tag): s for s in self._sources(held)}
        indexes = [part.index for part in parts]
        chosen = [there[part.index, part.tag] for part in parts if (part.index, part.tag) in there]
        size_bytes = sum(source.size_bytes for source in chosen)
        if (
            indexes != sorted(set(indexes))
            or len(chosen) < len(parts)
            or size_bytes != self._size_bytes
        ):
            raise DigestMismatch(
                f"{self._store.url}/{self._key}: {size_bytes} of {self._size_bytes} bytes are held "
                "as listed; other parts are missing, or were replaced"
            )
        return chosen

    def _joined(
        self, level: int, there: Mapping[str, _Item], sources: Sequence[_Source]
    ) -> _Source:
        """`sources` composed into one, unless somebody has done it before."""
        store = self._store
        whole = combine((source.digests, source.size_bytes) for source in sources)
        size_bytes = sum(source.size_bytes for source in sources)
        first = sources[0].first_index
        name = f"{self.folder}c{level}-{first:05d}-{size_bytes}-{_hex(whole)}"
        item = there.get(name)
        if item is None:
            try:
                item = store._compose(self._key, name, sources, ABSENT, labels=self.labels)
            except ConditionFailed:
                item = store._item(self._key, name)
        store._confirmed(self._key, item, size_bytes, whole)
        return _Source(name, item.generation, first, size_bytes, whole, item.digests)

    def _clear(self) -> None:
        """Remove the marker, then all that is listed after that: who wrote later sees it gone."""
        store = self._store
        store._delete(self._key, self.folder + _MARKER, {})
        names = [item.name for item in store._below(self.folder)]
        with ThreadPoolExecutor(_HANDS) as hands:
            list(hands.map(lambda name: store._delete(self._key, name, {}), names))


def _newest_first(upload: _GCSUpload) -> tuple[str, float]:
    return upload.key, -upload.started.timestamp() if upload.started else 0.0


def _hex(digests: Digests) -> str:
    return f"{digests.crc32c or 0:08x}-{digests.crc64nvme or 0:016x}"


def _base64_of(digests: Digests) -> str:
    """A CRC32C as the service writes it: base64 of four bytes, big-endian."""
    return base64.b64encode((digests.crc32c or 0).to_bytes(4, "big")).decode()


def _crc32c_of(text: str | None) -> int | None:
    with suppress(binascii.Error):
        return int.from_bytes(base64.b64decode(text or "", validate=True), "big") if text else None
    return None


# Bodies.


class _Related:
    """A multipart/related body: metadata, then bytes that are not copied."""

    __slots__ = ("_body", "_head", "_tail")

    def __init__(self, head: bytes, body: memoryview, tail: bytes) -> None:
        self._head = head
        self._body = body
        self._tail = tail

    def __len__(self) -> int:
        return len(self._head) + self._body.nbytes + len(self._tail)

    def __iter__(self) -> Iterator[Buffer]:
        yield self._head
        for start in range(0, self._body.nbytes, _SLICE_BYTES):
            yield self._body[start : start + _SLICE_BYTES]
        yield self._tail


def _related(boundary: str, resource: Mapping[str, Any], body: memoryview) -> bytes | _Related:
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
        f"{json.dumps(resource)}\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    if body.nbytes <= _SMALL_BYTES:  # one packet is worth more than one copy
        return b"".join((head, body, tail))
    return _Related(head, body, tail)


# The connection.


@dataclass(frozen=True, slots=True)
class _Login:
    """Whom to talk to, as whom."""

    endpoint: str
    anonymous: bool
    project: str | None
    credentials: str | None
    impersonate: str | None

    @classmethod
    def of(cls, url: StoreURL) -> _Login:
        endpoint = url.endpoint()
        options = url.options
        named = "credentials" in options or "impersonate" in options
        return cls(
            endpoint=endpoint or ENDPOINT,
            # Nobody's credentials go to a server on this machine, unless they are asked for.
            anonymous=(
                endpoint is not None
                and is_loopback(urlsplit(endpoint).hostname or "")
                and not named
            ),
            project=options.get("project"),
            credentials=options.get("credentials"),
            impersonate=options.get("impersonate"),
        )

    def load(self) -> Any:
        """By Google's own chain, or as the URL says. May ask the metadata server."""
        if self.anonymous:
            return google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
        scope = IMPERSONATION_SCOPE if self.impersonate else SCOPE
        if self.credentials:
            with warnings.catch_warnings():
                # It warns of files from strangers. This one the operator names in the topology.
                warnings.simplefilter("ignore", DeprecationWarning)
                found, _ = google.auth.load_credentials_from_file(  # type: ignore[no-untyped-call]
                    self.credentials, scopes=[scope], quota_project_id=self.project
                )
        else:
            found, _ = google.auth.default(scopes=[scope], quota_project_id=self.project)
        if self.impersonate:
            found = google.auth.impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
                found, self.impersonate, [SCOPE], quota_project_id=self.project
            )
        return found


class _Api:
    """One endpoint, one set of credentials, a pool of connections. Connects on first use."""

    def __init__(self, login: _Login, stall_seconds: float) -> None:
        self._login = login
        # Until the answer is awaited, urllib3 lets the connect time-out stand: for sending too.
        self._timeout = urllib3.Timeout(connect=stall_seconds, read=stall_seconds)
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def open(
        self, method: str, path: str, body: bytes | _Related | None, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """The answer to one request, its body unread. A request that was refused because its token
        had expired is sent again with a new one: it has done nothing yet."""
        session = self._session or self._connect()
        response = self._send(session, method, path, body, headers)
        if response.status == HTTPStatus.UNAUTHORIZED and not self._login.anonymous:
            response.drain_conn()
            session.credentials.refresh(session.token_request)
            response = self._send(session, method, path, body, headers)
        return response

    def _send(
        self,
        session: _Session,
        method: str,
        path: str,
        body: bytes | _Related | None,
        headers: Mapping[str, str],
    ) -> urllib3.BaseHTTPResponse:
        url = self._login.endpoint + path
        sent = {"Accept-Encoding": "identity", "User-Agent": "mlplatform", **headers}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        session.credentials.before_request(session.token_request, method, url, sent)
        return session.pool.urlopen(
            method,
            url,
            body=body,
            headers=sent,
            timeout=self._timeout,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def _connect(self) -> _Session:
        with self._lock:
            if self._session is None:
                pool = _pool(self._login, self._timeout)
                token_request = google.auth.transport.urllib3.Request(pool)  # type: ignore[no-untyped-call]
                self._session = _Session(self._login.load(), pool, token_request)
            return self._session


@dataclass(frozen=True, slots=True)
class _Session:
    """What requests are made with."""

    credentials: Any
    pool: urllib3.PoolManager
    token_request: google.auth.transport.urllib3.Request


def _pool(login: _Login, timeout: urllib3.Timeout) -> urllib3.PoolManager:
    """Connections, through the proxy that this machine is set up with, if any."""
    parts = urlsplit(login.endpoint)
    host = parts.hostname or ""
    options: dict[str, Any] = {"maxsize": _POOL_SIZE, "timeout": timeout}
    if parts.scheme == "https" or not login.anonymous:
        options["ssl_context"] = ssl.create_default_context(cafile=certifi.where())
        # What the machine's owner added: a proxy that opens TLS signs with a root of its own.
        options["ssl_context"].load_default_certs()
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or is_loopback(host) or urllib.request.proxy_bypass(host):
        return urllib3.PoolManager(**options)
    via = urlsplit(proxy)
    if via.username:
        options["proxy_headers"] = urllib3.make_headers(
            proxy_basic_auth=f"{via.username}:{via.password or ''}"
        )
    return urllib3.ProxyManager(proxy, **options)


# Errors: what Google says, in our words.


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An answer that is no success."""

    status: int
    reason: str
    text: str
    retry_after_seconds: float | None
    store: str
    key: str
    right: str

    @classmethod
    def of(
        cls,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        store: str,
        key: str,
        right: str,
    ) -> _Refusal:
        text, reason = body.decode(errors="replace"), ""
        with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            error = json.loads(text)["error"]
            text = str(error["message"])
            reason = str((error.get("errors") or [{}])[0].get("reason", ""))
        if xml := re.search(r"<Message>(.*?)</Message>", text, re.DOTALL):
            text = xml[1]
        try:
            after = float(headers.get("Retry-After", ""))
        except ValueError:
            after = None
        # The right that is missing is often another than that of the verb: overwriting deletes.
        if right_named := re.search(r"storage\.objects\.(\w+)", text):
            right = _RIGHTS.get(right_named[1], right)
        return cls(status, reason, _clean(text), after, store, key, right)

    @property
    def is_vague(self) -> bool:
        """A 404 that names neither object nor bucket."""
        return "No such object" not in self.text

    def translated(self) -> MlplatformError:
        said = f"{self.reason} {self.text}"
        for statuses, pattern, make in _TABLE:
            if self.status in statuses and re.search(pattern, said, re.IGNORECASE):
                return make(self)
        return StoreError(f"{self.status} {self.text}", store=self.store, key=self.key)


_RIGHTS = {"create": "put", "update": "put", "delete": "delete", "get": "get", "list": "list"}


def _denied(refusal: _Refusal, hint: str | None = None) -> Denied:
    return Denied(
        f"Access Denied: no right to {refusal.right} ({refusal.text or refusal.status})",
        right=refusal.right,
        store=refusal.store,
        key=refusal.key,
        hint=hint,
    )


def _as(
    kind: type[StoreError], says: str = "", hint: str | None = None
) -> Callable[[_Refusal], MlplatformError]:
    def make(refusal: _Refusal) -> MlplatformError:
        text = says or f"{refusal.status} {refusal.text}".strip()
        return kind(text, store=refusal.store, key=refusal.key, hint=hint)

    return make


def _missing(refusal: _Refusal) -> NotFound:
    if refusal.right == "list":  # an object that is not there is not listed, that is all
        return ContainerMissing("no such bucket", store=refusal.store, hint=_CREATE_BUCKET)
    return NotFound("no such object", store=refusal.store, key=refusal.key)


def _throttled(refusal: _Refusal) -> Throttled:
    return Throttled(
        f"asked to slow down: {refusal.status} {refusal.text}",
        retry_after_seconds=refusal.retry_after_seconds,
        store=refusal.store,
        key=refusal.key,
    )


def _mismatch(refusal: _Refusal) -> DigestMismatch:
    return DigestMismatch(f"{refusal.store}/{refusal.key}: refused: {refusal.text}")


def _busy(refusal: _Refusal) -> MlplatformError:
    if refusal.retry_after_seconds is not None:
        return _throttled(refusal)
    return _as(Unavailable)(refusal)


_CREATE_BUCKET = "create the bucket, or correct the name in the topology"
_LOG_IN = (
    "log in anew (gcloud auth application-default login), or name a credentials file in the "
    "store URL"
)
_GRANT = (
    "grant the account roles/storage.objectUser on the bucket; without the right to list, Google "
    "answers so for objects that are not there, too"
)

_TABLE: tuple[
    tuple[Sequence[int], str, Callable[[_Refusal], MlplatformError]],
    ...,
] = (
    ((304, 412), "constraint", _denied),  # an organisation's policy says 412 as well
    ((304, 412), "", _as(ConditionFailed)),
    ((400,), "crc32c|md5|checksum", _mismatch),
    (
        (400,),
        "userProjectMissing|requester pays",
        partial(_denied, hint="the bucket is requester-pays: add requester_pays=PROJECT"),
    ),
    ((401,), "", partial(_denied, hint=_LOG_IN)),
    ((403,), "rateLimit|slowDown", _throttled),
    ((403,), "quotaExceeded|dailyLimit|storage quota", _as(StoreFull)),
    (
        (403,),
        "retention|ActiveHold|TemporaryHold|EventBasedHold",
        partial(_denied, hint="a retention policy or a hold protects the object"),
    ),
    ((403,), "", partial(_denied, hint=_GRANT)),
    ((404,), "No such object", _missing),
    (
        (404,),
        r"bucket (\S+ )?(does not exist|not found)|no such bucket",
        _as(ContainerMissing, "no such bucket", hint=_CREATE_BUCKET),
    ),
    ((404,), "", _missing),
    ((408, 429), "", _throttled),
    ((409, 416), "", _as(Unavailable)),
    ((507,), "", _as(StoreFull)),
    (range(500, 600), "no space left|disk full|insufficient storage", _as(StoreFull)),
    (range(500, 600), "", _busy),
)
"""Status, what reason or text holds, what it is. The first row that fits is the answer."""


def _credentials_error(
    error: google.auth.exceptions.GoogleAuthError, store: str, key: str, right: str
) -> StoreError:
    if isinstance(error, google.auth.exceptions.TransportError) or error.retryable:
        return Unavailable(f"no token could be had: {_transport_text(error)}", store=store, key=key)
    reason = _clean(str(error.args[0] if error.args else "")) or type(error).__name__
    return Denied(
        f"Access Denied: the credentials do not serve to {right} ({reason})",
        right=right,
        store=store,
        key=key,
        hint=_LOG_IN,
    )


def _transport_text(error: BaseException) -> str:
    """The innermost reason, which names neither URL nor header."""
    while inner := next(filter(_is_error, (error.__cause__, *reversed(error.args))), None):
        error = inner
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return "timed out: the connection stalled"
    return _clean(f"{type(error).__name__}: {error}")


def _is_error(value: object) -> TypeGuard[BaseException]:
    return isinstance(value, BaseException)


def _clean(text: str) -> str:
    """A server's words on one line, without what looks like a secret."""
    return redact(" ".join(text.split()))[:300]
