"""Amazon S3 and what speaks its language: `s3://bucket/prefix`.

**Two ways to the store.** What is rare (listings, starting and completing uploads) goes through
the SDK's low-level client, its retries switched off. What is frequent or large (get, put, part,
stat, delete) is signed by the SDK's own signer and sent by `s3_wire`: a third of the CPU for each
request, and bodies are never copied. Credentials, endpoints and certificates are the SDK's on both.

**What proves the bytes.** Each body carries its CRC64NVME in a header, which the store compares
with what arrived. So the payload is not signed (`UNSIGNED-PAYLOAD`): no SHA-256 of it, no chunked
encoding, no trailers. An upload declares CRC64NVME and FULL_OBJECT when it is created, for an
undeclared digest is stored unchecked, and looks like a checked one afterwards. A digest that is
read is believed only if it is of the whole object.

**Dialects** differ in what they keep of that. `DIALECTS` says how, as data; which one is spoken is
told by the host's name, the `Server` header, or the option `dialect`. A server that nobody has
tried is `other`: nothing is taken for granted there.

A completion is believed when its answer states a digest. Otherwise the object is looked at, since
versitygw answers 200 to the completion of any upload whose key has an object.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from botocore import exceptions as sdk
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    DeferredRefreshableCredentials,
)
from botocore.httpsession import get_cert_path
from botocore.loaders import create_loader
from botocore.session import Session
from botocore.utils import get_environ_proxies, parse_timestamp

from mlplatform.adapters.aws_session import open_session
from mlplatform.adapters.s3_wire import CONNECT_SECONDS, Answer, Wire
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
from mlplatform.core.store_url import StoreURL, is_loopback
from mlplatform.ports.store import (
    ALWAYS,
    Absent,
    Always,
    Body,
    Condition,
    Matches,
    Part,
    RangeCopy,
    Span,
    Stat,
    StoreFeatures,
    Upload,
    check_key,
    exists,
)

_OPTIONS = frozenset(
    {
        *("endpoint", "region", "insecure", "ca_bundle", "stall_seconds", "dialect"),
        *("profile", "role_arn"),
        *("storage_class", "kms_key_id", "tags", "requester_pays"),
    }
)
_STALL_SECONDS = 30.0
_PATIENCE = 10
"""How many stalls long a store may think about a completion or a range copy: it may have to read
all the bytes, and some keep silent meanwhile."""
_CONNECTIONS = 64
_REGION = "us-east-1"
"""Where neither the URL nor the SDK's configuration names one. Most other stores do not care."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_HOST_LABEL = re.compile(r"[a-z0-9-]{3,63}")
_PAGE = 1000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_FOREIGN = (sdk.BotoCoreError, sdk.ClientError, OSError, HTTPException)
"""What is raised on either way, and leaves here as an error of ours."""

# ------------------------------------------------------------------------------------- dialects


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one implementation makes of S3."""

    features: StoreFeatures
    checks: bool
    """It compares CRC64NVME with the bytes of a put, a part and a completed upload, keeps it, and
    states nothing else."""
    finds_uploads_by_prefix: bool = True
    """It lists unfinished uploads for any prefix, not only for a whole key or for the bucket."""
    pages_uploads_of_a_key: bool = True
    """A list of uploads can go on in the middle of a key's. Elsewhere it goes on with the next key:
    of more than a page's worth of one key the rest comes into sight when those are gone."""


_S3 = StoreFeatures(
    evidence=Evidence.STORE_WHOLE,
    part_bytes_min=5 * 1024**2,
    part_bytes_max=5 * 1024**3,
    parts_max=10_000,
    put_bytes_max=5 * 1024**3,
)

DIALECTS: Mapping[str, Dialect] = {
    # By its documents, and tested against recorded exchanges: a copied range's own CRC is stated.
    "aws": Dialect(replace(_S3, range_copy=RangeCopy.STATED), checks=True),
    # An upload that declares a digest takes no copied ranges. A stale tag does not stop a delete.
    # Its list of a bucket's uploads is of the server's memory: after a restart, ask by key.
    "minio": Dialect(
        replace(_S3, conditional_delete=False), checks=True, finds_uploads_by_prefix=False
    ),
    # A copied range is given the CRC of the whole source, and the completion then fails. Run with
    # --sidecar it is no control store: who reads during a put gets the old bytes with the new tag.
    "versitygw": Dialect(_S3, checks=True, pages_uploads_of_a_key=False),
    # By its documents: conditions on put and complete, CRC64NVME of whole objects.
    "r2": Dialect(
        replace(_S3, conditional_delete=False, put_bytes_max=4995 * 1000**2), checks=True
    ),
    # Takes any digest for a right one, and keeps none.
    "moto": Dialect(
        replace(_S3, evidence=Evidence.READ_BACK, range_copy=RangeCopy.READ_BACK), checks=False
    ),
    "other": Dialect(
        replace(
            _S3,
            evidence=Evidence.READ_BACK,
            conditional_put=False,
            conditional_complete=False,
            conditional_delete=False,
        ),
        checks=False,
    ),
}
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
_DIALECT_OF_HOST = (*((end, "aws") for end in _AWS_HOSTS), (".r2.cloudflarestorage.com", "r2"))
_DIALECT_OF_SERVER = (("MinIO", "minio"), ("VERSITYGW", "versitygw"), ("Werkzeug", "moto"))

# --------------------------------------------------------------------------------------- opening


def open_store(url: StoreURL, *, session: Session | None = None) -> S3Store:
    """A store on `s3://bucket/prefix`. Nothing is sent before the first verb.

    Options: `endpoint`, `region`, `insecure`, `ca_bundle`, `stall_seconds`, `dialect`; `profile` or
    `role_arn`, else the SDK's own chain of credentials; on what is written `storage_class`,
    `kms_key_id`, `tags=team=vision,tier=2`; `requester_pays`. `session` stands in for the SDK's
    own.
    """
    url.reject_unknown(_OPTIONS)
    prefix = url.path.strip("/")
    if not _BUCKET.fullmatch(url.authority):
        raise UsageError(
            f"store URL {url} does not name a bucket",
            hint="write s3://bucket or s3://bucket/prefix; bucket names have 3 characters or more",
        )
    if prefix:
        check_key(prefix)
    for name, value in url.options.items():
        if not value.isascii() or not value.isprintable():
            raise UsageError(f"store URL {url}: {name}={value!r} holds odd characters")
    dialect = url.options.get("dialect")
    if dialect is not None and dialect not in DIALECTS:
        raise UsageError(
            f"store URL {url}: unknown dialect {dialect!r}", hint=f"known: {', '.join(DIALECTS)}"
        )
    if (bundle := url.options.get("ca_bundle")) and not Path(bundle).is_file():
        raise UsageError(f"store URL {url}: ca_bundle={bundle!r} is no file")
    try:
        _ = urlsplit(url.endpoint() or "").port
    except ValueError as error:
        raise UsageError(f"store URL {url}: endpoint: {error}") from error
    if session is None:
        session = open_session(url, f"store URL {url}")
    return S3Store(url, session, prefix)


class _AssumedRole(CredentialProvider):  # type: ignore[misc]
    """A role, assumed with another session's credentials, and again before it expires."""

    METHOD = "mlplatform-role"

    def __init__(self, source: Session, role_arn: str, region: str) -> None:
        super().__init__()
        self._source = source
        self._role_arn = role_arn
        self._region = region

    def load(self) -> Any:
        """Credentials that are fetched when they are used."""
        credentials = self._source.get_credentials()
        if credentials is None:
            raise sdk.NoCredentialsError
        fetcher = AssumeRoleCredentialFetcher(
            partial(self._source.create_client, region_name=self._region),
            credentials,
            self._role_arn,
            extra_args={"RoleSessionName": "mlplatform"},
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, self.METHOD)


@cache
def _models(data_path: str | None) -> Any:
    """The SDK's description of S3: reading it takes ten times as long as making a client of it."""
    return create_loader(data_path)


_READING_MODELS = threading.Lock()
"""Regions are looked at together: one reads that description, and the others find it read."""


def _trusting(bundle: str | None) -> ssl.SSLContext:
    """The same authorities as the SDK's client trusts."""
    return ssl.create_default_context(cafile=bundle or get_cert_path(verify=True))


class _Link:
    """The two ways to one bucket, and who goes them."""

    def __init__(self, url: StoreURL, session: Session) -> None:
        bucket, endpoint = url.authority, url.endpoint()
        stall_seconds = url.seconds("stall_seconds", default=_STALL_SECONDS)
        self.region = url.options.get("region") or session.get_config_variable("region") or _REGION
        if role_arn := url.options.get("role_arn"):
            role = _AssumedRole(session, role_arn, self.region)
            session = open_session(url, f"store URL {url}")
            session.get_component("credential_provider").providers.insert(0, role)
        session.register_component("data_loader", _models(session.get_config_variable("data_path")))
        session.get_component("response_parser_factory").set_parser_defaults(
            timestamp_parser=_moment
        )
        self._credentials = session.get_credentials()
        bundle = url.options.get("ca_bundle") or session.get_config_variable("ca_bundle")

        def client(addressing: str) -> Any:
            with _READING_MODELS:
                return session.create_client(
                    "s3",
                    region_name=self.region,
                    endpoint_url=endpoint,
                    verify=bundle,
                    config=Config(
                        retries={"total_max_attempts": 1},
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=stall_seconds,
                        max_pool_connections=_CONNECTIONS,
                        tcp_keepalive=True,
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        s3={"payload_signing_enabled": False, "addressing_style": addressing},
                    ),
                )

        self.client = client("path" if endpoint else "auto")
        origin = self.client.meta.endpoint_url
        host = urlsplit(origin).hostname or ""
        if endpoint is None and not host.endswith(_AWS_HOSTS):
            # The SDK's own configuration names another store.
            if origin.startswith("http:") and not (is_loopback(host) or url.flag("insecure")):
                raise UsageError(f"store URL {url}: endpoint {origin!r} is plain HTTP")
            self.client = client("path")
        self._steer(stall_seconds * _PATIENCE)

        parts = urlsplit(origin)
        self.path = f"{parts.path.rstrip('/')}/{bucket}/"
        netloc = parts.netloc
        if endpoint is None and host.endswith(_AWS_HOSTS) and _HOST_LABEL.fullmatch(bucket):
            netloc, self.path = f"{bucket}.{netloc}", "/"
        self.origin = origin = f"{parts.scheme}://{netloc}"
        secure = parts.scheme == "https"
        self.wire = Wire(
            origin,
            stall_seconds=stall_seconds,
            context=_trusting(bundle) if secure else None,
            proxy=get_environ_proxies(origin).get("https" if secure else "http"),
        )
        self._signed_with = Config(s3={"payload_signing_enabled": False})

    def sign(self, method: str, target: str, headers: dict[str, str]) -> dict[str, str]:
        """`headers` with a signature that covers all but the payload."""
        request = AWSRequest(method, self.origin + target, {"Host": self.wire.host, **headers})
        request.context["client_config"] = self._signed_with
        S3SigV4Auth(self.identity(), "s3", self.region).add_auth(request)
        return dict(request.headers.items())

    def identity(self) -> Any:
        """The credentials of this moment; renewed if it is time."""
        if self._credentials is None:
            raise sdk.NoCredentialsError
        try:
            return self._credentials.get_frozen_credentials()
        except RuntimeError as error:
            # So the SDK says that what it was given anew has expired as well.
            raise sdk.CredentialRetrievalError(
                provider=self._credentials.method, error_msg=str(error)
            ) from error

    def server(self) -> tuple[int, str]:
        """What answers there, and what it calls itself."""
        with self.wire.send("GET", "/", {"Host": self.wire.host}) as answer:
            return answer.status, str(answer.headers.get("Server", ""))

    def _steer(self, patience_seconds: float) -> None:
        """What the client's configuration cannot say."""

        def stay(params: dict[str, Any], **_: Any) -> None:
            # A bucket in another region is for the store URL to mend: following it is one more
            # retry, and with a store that redirects whatever comes, one without end.
            params["context"].setdefault("s3_redirect", {})["redirected"] = True

        def wait(params: dict[str, Any], **_: Any) -> None:
            params["context"]["read_timeout"] = patience_seconds

        events = self.client.meta.events
        events.register("before-call.s3", stay)
        for operation in ("CompleteMultipartUpload", "UploadPartCopy"):
            events.register(f"before-call.s3.{operation}", wait)


# ----------------------------------------------------------------------------------------- verbs


class S3Store:
    """One bucket, below a prefix."""

    def __init__(self, url: StoreURL, session: Session, prefix: str) -> None:
        self._url = f"s3://{url.authority}/{prefix}".rstrip("/")
        self._bucket = url.authority
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = url
        self._session = session
        self._stall_seconds = url.seconds("stall_seconds", default=_STALL_SECONDS)
        self._payer = {"x-amz-request-payer": "requester"} if url.flag("requester_pays") else {}
        self._written = _on_what_is_written(url)
        self._lock = threading.Lock()
        self._made: _Link | None = None
        named = url.options.get("dialect")
        self._spoken = DIALECTS[named] if named else None

    def __repr__(self) -> str:
        return f"<S3Store {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> StoreFeatures:
        """Asks the server who it is, once. One that does not answer raises `Unavailable`: what it
        could do is not known, and not guessed."""
        return self._dialect.features

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        check_key(key)
        view = memoryview(body).cast("B")
        if view.nbytes > self.features.put_bytes_max:
            raise UsageError(
                f"{self._url}/{key}: a put takes at most {self.features.put_bytes_max} bytes"
            )
        if when != ALWAYS and not self.features.conditional_put:
            raise self._unsupported("conditional puts", key)
        headers = {
            **self._checksum(key, view, digests),
            **self._written,
            **_condition(when),
        }
        answer = self._exchange("PUT", key, "put", headers=headers, body=view, when=when)
        return self._stat(key, answer, view.nbytes)

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        check_key(key)
        if span is not None and not span.size_bytes:
            # HTTP has no empty range.
            stat = self._stat_if(key, when)
            if span.stop > stat.size_bytes:
                raise self._beyond(key, span, stat.size_bytes)
            return _S3Body(self, stat, None, 0)
        headers = _condition(when)
        if span is not None:
            headers["Range"] = f"bytes={span.start}-{span.stop - 1}"
        answer = self._send("GET", key, "get", headers=headers)
        try:
            size_bytes, total_bytes = _extent(self._length(key, answer.headers), answer, span)
            if span is not None and size_bytes != span.size_bytes:
                raise self._beyond(key, span, total_bytes)
            return _S3Body(self, self._stat(key, answer.headers, total_bytes), answer, size_bytes)
        except BaseException:
            answer.close()
            raise

    def stat(self, key: str) -> Stat:
        return self._stat_if(key, ALWAYS)

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        page: dict[str, Any] = {"Prefix": self._prefix + prefix}
        if shallow:
            page["Delimiter"] = "/"
        if after:
            page["StartAfter"] = self._prefix + after
        while True:
            answer = self._call("list_objects_v2", "", "list", MaxKeys=_PAGE, **page)
            cut = len(self._prefix)
            found = [
                Stat(
                    entry["Key"][cut:],
                    entry["Size"],
                    entry["ETag"].strip('"'),
                    entry.get("LastModified"),
                )
                for entry in answer.get("Contents", ())
                # Folders that consoles make are objects, but no keys of ours.
                if not entry["Key"].endswith("/")
            ]
            found += (
                Stat(entry["Prefix"][cut:], 0, "") for entry in answer.get("CommonPrefixes", ())
            )
            found.sort(key=lambda stat: stat.key)
            # `StartAfter` is of the objects: a folder can come that lies before it.
            yield from (stat for stat in found if stat.key > after)
            if not answer.get("IsTruncated"):
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        check_key(key)
        if when != ALWAYS and not self.features.conditional_delete:
            raise self._unsupported("conditional deletes", key)
        if isinstance(when, Absent):
            if exists(self, key):
                raise ConditionFailed("is there", store=self._url, key=key)
            return
        try:
            self._exchange("DELETE", key, "delete", headers=_condition(when))
        except ContainerMissing:
            raise
        except NotFound:
            return
        except ConditionFailed:
            # Some say so of an object that is not there, and then there is nothing left to do.
            if exists(self, key):
                raise

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        check_key(key)
        features = self.features
        if size_bytes < 1 or part_bytes < 1:
            raise UsageError(f"{self._url}/{key}: an upload needs a size and a part size")
        if -(-size_bytes // part_bytes) > features.parts_max:
            raise UsageError(f"{self._url}/{key}: more than {features.parts_max} parts")
        if part_bytes > features.part_bytes_max:
            raise UsageError(f"{self._url}/{key}: parts over {features.part_bytes_max} bytes")
        if part_bytes < min(features.part_bytes_min, size_bytes):
            raise UsageError(f"{self._url}/{key}: parts under {features.part_bytes_min} bytes")
        declared: dict[str, Any] = {_PARAMETERS[n]: value for n, value in self._written.items()}
        if self._dialect.checks:
            declared |= {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        answer = self._call("create_multipart_upload", key, "put", **declared)
        return _S3Upload(self, key, answer["UploadId"], None, (size_bytes, part_bytes))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        whole = self._prefix + prefix
        asked = [whole]
        if whole and not self._dialect.finds_uploads_by_prefix:
            asked.append("")
        found: dict[str, _S3Upload] = {}
        for part in asked:
            for entry in self._unfinished(part):
                if entry["Key"].startswith(whole):
                    key, upload_id = entry["Key"][len(self._prefix) :], entry["UploadId"]
                    upload = _S3Upload(self, key, upload_id, entry.get("Initiated"), None)
                    found.setdefault(upload_id, upload)
        # Stores list uploads of a key oldest first: that decides where their clocks are too coarse.
        ordered = list(found.values())[::-1]
        ordered.sort(key=lambda upload: upload.started or _LONG_AGO, reverse=True)
        ordered.sort(key=lambda upload: upload.key)
        return iter(ordered)

    # ------------------------------------------------------------------------ what verbs share

    @property
    def _link(self) -> _Link:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    try:
                        self._made = _Link(self._options, self._session)
                    except _FOREIGN as error:
                        raise self._translated(error, "", "get") from error
        return self._made

    @property
    def _dialect(self) -> Dialect:
        if self._spoken is None:
            link = self._link
            with self._lock:
                if self._spoken is None:
                    self._spoken = self._heard(link)
        return self._spoken

    def _heard(self, link: _Link) -> Dialect:
        host = urlsplit(link.origin).hostname or ""
        for end, name in _DIALECT_OF_HOST:
            if host.endswith(end):
                return DIALECTS[name]
        try:
            status, server = link.server()
        except _FOREIGN as error:
            raise self._translated(error, "", "get") from error
        if status >= 500:
            # A proxy speaks for a store that is away: nothing to be remembered.
            raise self._refused(status, "", "", {}, "", "get")
        for start, name in _DIALECT_OF_SERVER:
            if server.startswith(start):
                return DIALECTS[name]
        return DIALECTS["other"]

    def _send(
        self,
        method: str,
        key: str,
        right: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        when: Condition = ALWAYS,
    ) -> Answer:
        """A request by the wire, and its answer if it is a good one."""
        link = self._link
        target = link.path + quote(self._prefix + key, safe="/~") + (f"?{query}" if query else "")
        try:
            signed = link.sign(method, target, {**(headers or {}), **self._payer})
            answer = link.wire.send(method, target, signed, body)
            if answer.status in (200, 204, 206):
                return answer
            with answer:
                document = answer.read(64 * 1024).decode(errors="replace")
        except _FOREIGN as error:
            raise self._translated(error, key, right) from error
        code, message = (_element(document, name) for name in ("Code", "Message"))
        raise self._refused(answer.status, code, message, answer.headers, key, right, when)

    def _exchange(self, method: str, key: str, right: str, **request: Any) -> Message:
        """A request by the wire whose answer is all in its headers."""
        with self._send(method, key, right, **request) as answer:
            try:
                answer.read(64 * 1024)
            except (OSError, HTTPException) as error:
                raise self._translated(error, key, right) from error
            return answer.headers

    def _call(
        self, operation: str, key: str, right: str, *, when: Condition = ALWAYS, **params: Any
    ) -> dict[str, Any]:
        """A request by the SDK's client."""
        if key:
            params["Key"] = self._prefix + key
        if self._payer:
            params["RequestPayer"] = "requester"
        link = self._link
        try:
            link.identity()
            answer: dict[str, Any] = getattr(link.client, operation)(Bucket=self._bucket, **params)
            return answer
        except _FOREIGN as error:
            raise self._translated(error, key, right, when) from error

    def _unfinished(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Uploads whose whole key starts with `prefix`, as the store lists them."""
        page: dict[str, Any] = {"Prefix": prefix}
        while True:
            answer = self._call("list_multipart_uploads", "", "list", MaxUploads=_PAGE, **page)
            entries = answer.get("Uploads", [])
            yield from entries
            if not answer.get("IsTruncated") or not entries:
                return
            # MinIO names no next key when it lists the uploads of one.
            page["KeyMarker"] = answer.get("NextKeyMarker") or entries[-1]["Key"]
            if self._dialect.pages_uploads_of_a_key:
                page["UploadIdMarker"] = answer.get("NextUploadIdMarker") or entries[-1]["UploadId"]

    def _stat_if(self, key: str, when: Condition) -> Stat:
        check_key(key)
        headers = {"x-amz-checksum-mode": "ENABLED", **_condition(when)}
        try:
            answer = self._exchange("HEAD", key, "get", headers=headers)
        except (NotFound, Denied, StoreError) as unexplained:
            if unexplained.retryable or isinstance(unexplained, ConditionFailed):
                raise
            # A HEAD's refusal has no body that could tell a missing key from a missing bucket, or
            # an expired token from a missing right. The same question by GET has one.
            self._send("GET", key, "get", headers={"Range": "bytes=0-0"}).close()
            raise
        return self._stat(key, answer, self._length(key, answer))

    def _length(self, key: str, headers: Message) -> int:
        """What is still to come. A head that was cut off is taken for a whole one by whoever reads
        it: its object must not pass for an empty one."""
        length = headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Unavailable("the answer states no length", store=self._url, key=key)
        return int(length)

    def _stat(self, key: str, headers: Message, size_bytes: int) -> Stat:
        tag = str(headers.get("ETag", "")).strip('"')
        if not tag:
            raise Unavailable("the answer states no tag", store=self._url, key=key)
        modified = headers.get("Last-Modified")
        digests = UNKNOWN_DIGESTS
        if headers.get("x-amz-checksum-type") == "FULL_OBJECT":
            digests = self._believed(
                headers.get("x-amz-checksum-crc64nvme"), headers.get("x-amz-checksum-crc32c")
            )
        return Stat(
            key,
            size_bytes,
            tag,
            parsedate_to_datetime(modified) if modified else None,
            digests,
            None if digests == UNKNOWN_DIGESTS else self.features.evidence,
        )

    def _believed(self, crc64nvme: str | None, crc32c: str | None = None) -> Digests:
        """What a store states, where it is one that checks what it states."""
        if not self._dialect.checks:
            return UNKNOWN_DIGESTS
        return Digests(_number(crc64nvme, 8), _number(crc32c, 4))

    def _checksum(self, key: str, view: memoryview, digests: Digests) -> dict[str, str]:
        """The header by which the store checks `view`. What it will not check, this does."""
        if digests.crc64nvme is None or not self._dialect.checks:
            found = digest_of(view)
            if digests.contradicts(found):
                raise DigestMismatch(
                    f"{self._url}/{key}: Checksum mismatch: has {found}, was to be {digests}"
                )
            digests = found
        return {"x-amz-checksum-crc64nvme": _text(digests.crc64nvme or 0)}

    def _beyond(self, key: str, span: Span, total_bytes: int) -> Unavailable:
        return Unavailable(
            f"bytes {span.start} to {span.stop} of {total_bytes}", store=self._url, key=key
        )

    def _unsupported(self, what: str, key: str) -> Unsupported:
        return Unsupported(
            f"no {what} here",
            store=self._url,
            key=key,
            hint="if the store has them, say which S3 it is like: dialect=aws"
            if self._dialect is DIALECTS["other"]
            else None,
        )

    # ------------------------------------------------------------------------------- errors

    def _refused(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, Any] | Message,
        key: str,
        right: str,
        when: Condition = ALWAYS,
    ) -> MlplatformError:
        """What the store's refusal means, in our words."""
        meaning = _MEANINGS.get(code) or _BY_STATUS.get(status) or _by_class(status)
        if code == "NoSuchKey" and isinstance(when, Matches):
            meaning = _MEANINGS["PreconditionFailed"]
        text = meaning.text
        if code not in _MEANINGS and message:
            text = f"{text}: {_one_line(message)}"
        request_id = headers.get("x-amz-request-id")
        text += f" ({' '.join(filter(None, (str(status), code)))}"
        text += f", request {request_id})" if request_id else ")"
        hint = meaning.hint
        region = headers.get("x-amz-bucket-region")
        if region and (status == 301 or code == "AuthorizationHeaderMalformed"):
            text, hint = f"the bucket is in {region} ({status} {code})", f"add region={region}"
        kind = meaning.kind
        if issubclass(kind, Denied):
            return Denied(
                text.replace("{right}", right), right=right, store=self._url, key=key, hint=hint
            )
        if issubclass(kind, Throttled):
            return Throttled(
                text,
                retry_after_seconds=_seconds(headers.get("retry-after")),
                store=self._url,
                key=key,
                hint=hint,
            )
        if issubclass(kind, StoreError):
            return kind(text, store=self._url, key=key, hint=hint)
        return kind(f"{self._url}/{key}: {text}", hint=hint)

    def _translated(
        self, error: Exception, key: str, right: str, when: Condition = ALWAYS
    ) -> MlplatformError:
        """What went wrong on the way, in our words: without addresses, which may be signed."""
        if isinstance(error, sdk.ClientError):
            answer = error.response
            about, details = answer.get("ResponseMetadata", {}), answer.get("Error", {})
            status = int(about.get("HTTPStatusCode", 0))
            code, message = str(details.get("Code", "")), str(details.get("Message", ""))
            if error.operation_name.startswith("AssumeRole") and status < 500:
                return Denied(
                    f"Access Denied: the role cannot be assumed ({status} {code})",
                    right=right,
                    store=self._url,
                    hint="its trust policy has to name who asks: aws sts get-caller-identity",
                )
            headers = about.get("HTTPHeaders", {})
            return self._refused(status, code, message, headers, key, right, when)
        for kinds, kind, text, hint in _ON_THE_WAY:
            if isinstance(error, kinds):
                said = text.format(stall=self._stall_seconds, error=type(error).__name__)
                if kind is Denied:
                    return Denied(said, right=right, store=self._url, key=key, hint=hint)
                return kind(said, store=self._url, key=key, hint=hint)
        return StoreError(
            f"{type(error).__name__}: {_one_line(str(error))}", store=self._url, key=key
        )


class _S3Body:
    """An object, or a span of it, on its way."""

    __slots__ = ("_answer", "_left", "_stat", "_store")

    def __init__(self, store: S3Store, stat: Stat, answer: Answer | None, size_bytes: int) -> None:
        self._store = store
        self._stat = stat
        self._answer = answer
        self._left = size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left = 0
        if self._answer:
            self._answer.close()

    @property
    def stat(self) -> Stat:
        return self._stat

    def readinto(self, buffer: memoryview) -> int:
        if not self._left or not self._answer:
            return 0
        try:
            count = self._answer.readinto(buffer[: self._left])
        except (OSError, HTTPException) as error:
            raise self._store._translated(error, self._stat.key, "get") from error
        if not count and buffer.nbytes:
            raise Unavailable(
                f"the connection ended {self._left} bytes early",
                store=self._store.url,
                key=self._stat.key,
            )
        self._left -= count
        return count


class _S3Upload:
    """A handle: all state lies in the store, so any handle of the same upload is as good."""

    __slots__ = ("_id", "_key", "_planned", "_started", "_store")

    def __init__(
        self,
        store: S3Store,
        key: str,
        upload_id: str,
        started: datetime | None,
        planned: tuple[int, int] | None,
    ) -> None:
        self._store = store
        self._key = key
        self._id = upload_id
        self._started = started
        self._planned = planned

    def __repr__(self) -> str:
        return f"<upload {self._id} of {self._store.url}/{self._key}>"

    @property
    def key(self) -> str:
        return self._key

    @property
    def id(self) -> str:
        return self._id

    @property
    def started(self) -> datetime | None:
        return self._started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        view = memoryview(body).cast("B")
        self._require_planned(index, view.nbytes)
        answer = self._store._exchange(
            "PUT",
            self._key,
            "put",
            query=urlencode({"partNumber": index + 1, "uploadId": self._id}),
            headers=self._store._checksum(self._key, view, digests),
            body=view,
        )
        return self._part(
            index, view.nbytes, answer.get("ETag"), answer.get("x-amz-checksum-crc64nvme")
        )

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        check_key(source_key)
        store = self._store
        if store.features.range_copy is RangeCopy.NONE:
            raise store._unsupported("range copies", self._key)
        self._require_planned(index, span.size_bytes)
        answer = store._call(
            "upload_part_copy",
            self._key,
            "put",
            UploadId=self._id,
            PartNumber=index + 1,
            CopySource={"Bucket": store._bucket, "Key": store._prefix + source_key},
            CopySourceRange=f"bytes={span.start}-{span.stop - 1}",
            **_parameters(when, "CopySource"),
        )
        copied = answer.get("CopyPartResult", {})
        return self._part(
            index, span.size_bytes, copied.get("ETag"), copied.get("ChecksumCRC64NVME")
        )

    def parts(self) -> Sequence[Part]:
        found: list[Part] = []
        page: dict[str, Any] = {}
        while True:
            answer = self._store._call(
                "list_parts", self._key, "list", UploadId=self._id, MaxParts=_PAGE, **page
            )
            entries = answer.get("Parts", [])
            found += (
                self._part(
                    entry["PartNumber"] - 1,
                    entry["Size"],
                    entry["ETag"],
                    entry.get("ChecksumCRC64NVME"),
                )
                for entry in entries
            )
            if not answer.get("IsTruncated") or not entries:
                return found
            page["PartNumberMarker"] = entries[-1]["PartNumber"]

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        store, checks = self._store, self._store._dialect.checks
        if when != ALWAYS and not store.features.conditional_complete:
            raise store._unsupported("conditional completions", self._key)
        self._require_all(parts)
        if not checks:
            self._require_held(parts)
        size_bytes = sum(part.size_bytes for part in parts)
        known = combine((part.digests, part.size_bytes) for part in parts)
        whole = known.crc64nvme if digests.crc64nvme is None else digests.crc64nvme
        stated: dict[str, Any] = {}
        if checks:
            stated = {"ChecksumType": "FULL_OBJECT", "MpuObjectSize": size_bytes}
            if whole is not None:
                stated["ChecksumCRC64NVME"] = _text(whole)
        answer = store._call(
            "complete_multipart_upload",
            self._key,
            "put",
            when=when,
            UploadId=self._id,
            MultipartUpload={"Parts": [_listed(part) for part in parts]},
            **stated,
            **_parameters(when),
        )
        tag = str(answer.get("ETag", "")).strip('"')
        if not tag:
            # The status comes before the work is done, to keep the connection alive.
            raise Unavailable("the answer ended early", store=store.url, key=self._key)
        # No type is asked for here: CRC64NVME has this one only, and MinIO leaves it out.
        found = store._believed(answer.get("ChecksumCRC64NVME"))
        if found != UNKNOWN_DIGESTS:
            return Stat(self._key, size_bytes, tag, None, found, store.features.evidence)
        stat = store.stat(self._key)
        if (stat.tag, stat.size_bytes) != (tag, size_bytes):
            raise NotFound(
                f"upload {self._id} is gone, and the object is not its doing",
                store=store.url,
                key=self._key,
            )
        return stat

    def abort(self) -> None:
        try:
            self._store._exchange(
                "DELETE", self._key, "delete", query=urlencode({"uploadId": self._id})
            )
        except ContainerMissing:
            raise
        except NotFound:
            return

    def _part(self, index: int, size_bytes: int, tag: str | None, crc64nvme: str | None) -> Part:
        if not tag:
            raise Unavailable("the answer names no part", store=self._store.url, key=self._key)
        return Part(index, size_bytes, tag.strip('"'), self._store._believed(crc64nvme))

    def _require_planned(self, index: int, size_bytes: int) -> None:
        expected = size_bytes
        if self._planned:
            whole_bytes, part_bytes = self._planned
            expected = min(part_bytes, whole_bytes - index * part_bytes)
        if not 0 <= index < self._store.features.parts_max or size_bytes != expected:
            raise UsageError(
                f"{self._store.url}/{self._key}: part {index} has {size_bytes} bytes, "
                f"not {expected}"
            )

    def _require_all(self, parts: Sequence[Part]) -> None:
        size_bytes = sum(part.size_bytes for part in parts)
        planned = self._planned[0] if self._planned else size_bytes
        if (
            not parts
            or size_bytes != planned
            or any(part.index != place for place, part in enumerate(parts))
        ):
            raise DigestMismatch(
                f"{self._store.url}/{self._key}: {len(parts)} parts of {size_bytes} bytes are not "
                f"all of {planned} bytes, from the first to the last"
            )

    def _require_held(self, parts: Sequence[Part]) -> None:
        """For stores that take whatever they are told."""
        held = {part.index: (part.size_bytes, part.tag) for part in self.parts()}
        for part in parts:
            if held.get(part.index) != (part.size_bytes, part.tag):
                raise DigestMismatch(
                    f"{self._store.url}/{self._key}: part {part.index} is missing, or was replaced"
                )


# ---------------------------------------------------------------------- the forms of the protocol

_PARAMETERS = {
    "x-amz-storage-class": "StorageClass",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-tagging": "Tagging",
}
"""The headers of a put, as the SDK names them where an upload begins."""


def _on_what_is_written(url: StoreURL) -> dict[str, str]:
    headers = {}
    if storage_class := url.options.get("storage_class"):
        headers["x-amz-storage-class"] = storage_class
    if key_id := url.options.get("kms_key_id"):
        headers["x-amz-server-side-encryption"] = "aws:kms"
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = key_id
    if tags := url.options.get("tags"):
        pairs = [pair.partition("=") for pair in tags.split(",")]
        if not all(name and equals for name, equals, _ in pairs):
            raise UsageError(
                f"store URL {url}: tags={tags!r} is not name=value,name=value",
                hint="write tags=team=vision,tier=2",
            )
        headers["x-amz-tagging"] = urlencode([(name, value) for name, _, value in pairs])
    return headers


def _condition(when: Condition) -> dict[str, str]:
    if isinstance(when, Matches):
        return {"If-Match": f'"{when.tag}"'}
    return {} if isinstance(when, Always) else {"If-None-Match": "*"}


def _parameters(when: Condition, of: str = "") -> dict[str, Any]:
    return {of + name.replace("-", ""): value for name, value in _condition(when).items()}


def _listed(part: Part) -> dict[str, Any]:
    listed: dict[str, Any] = {"PartNumber": part.index + 1, "ETag": f'"{part.tag}"'}
    if part.digests.crc64nvme is not None:
        listed["ChecksumCRC64NVME"] = _text(part.digests.crc64nvme)
    return listed


def _text(crc64nvme: int) -> str:
    return base64.b64encode(crc64nvme.to_bytes(8, "big")).decode()


def _number(text: str | None, size_bytes: int) -> int | None:
    try:
        raw = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        return None
    return int.from_bytes(raw, "big") if len(raw) == size_bytes else None


def _extent(length: int, answer: Answer, span: Span | None) -> tuple[int, int]:
    """How many bytes come, and how many the object has. A server that ignores ranges answers with
    all of it, which will do only if that is what was asked for."""
    if answer.status != 206:
        return (0 if span is not None and span.start else length), length
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    if not match or span is None or int(match[1]) != span.start:
        return 0, 0
    return min(length, int(match[2]) + 1 - span.start), int(match[3])


def _element(document: str, name: str) -> str:
    """The text of an element of a flat document."""
    match = re.search(f"<{name}>([^<]*)</{name}>", document)
    return html.unescape(match[1]).strip() if match else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _moment(text: Any) -> Any:
    """A time that the SDK has to read: its own way takes half of what a listing costs."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)


def _seconds(text: Any) -> float | None:
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        return None


# ---------------------------------------------------------------------------- the table of errors


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a code or a status stands for."""

    kind: type[MlplatformError]
    text: str
    hint: str | None = None


_SIGN_IN = "look at who you are (aws sts get-caller-identity) and sign in or renew the credentials"
_CREDENTIALS = _Meaning(Denied, "Access Denied: the credentials are not accepted", _SIGN_IN)
_EXPIRED = _Meaning(Denied, "Access Denied: the credentials have expired", _SIGN_IN)
_RIGHT = _Meaning(
    Denied,
    "Access Denied: no right to {right}",
    "mlplatform validate says which rights are missing on which store",
)
_CHECKSUM = _Meaning(DigestMismatch, "Checksum mismatch: the store saw other bytes than were sent")
_PARTS = _Meaning(DigestMismatch, "the parts that are held are not those that were listed")
_BUSY = _Meaning(Throttled, "the store is busy")
_CONFLICT = _Meaning(Throttled, "another writer is at it")
_CONDITION = _Meaning(ConditionFailed, "the object is not in the expected state")
_FULL = _Meaning(StoreFull, "no space left, or over quota")
_GONE = _Meaning(NotFound, "no such object")
_DOWN = _Meaning(Unavailable, "the store cannot answer now")
_BELOW_A_KEY = _Meaning(StoreError, "here no key can lie below another")
_TOO_LARGE = _Meaning(UsageError, "larger than the store takes")

_MEANINGS: Mapping[str, _Meaning] = {
    "NoSuchKey": _GONE,
    "NoSuchVersion": _GONE,
    "NoSuchUpload": _Meaning(NotFound, "the upload was completed or aborted"),
    "NoSuchBucket": _Meaning(
        ContainerMissing, "there is no such bucket", "make the bucket, or mend the store URL"
    ),
    "AccessDenied": _RIGHT,
    "AllAccessDisabled": _RIGHT,
    "AccountProblem": _RIGHT,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "InvalidSecurity": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "XAdminUserNotFound": _CREDENTIALS,  # versitygw, with a 404
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": _Meaning(
        Denied, "Access Denied: this machine's clock is wrong", "set the clock (timedatectl status)"
    ),
    "RequestExpired": _Meaning(
        Denied, "Access Denied: this machine's clock is wrong", "set the clock (timedatectl status)"
    ),
    "BadDigest": _CHECKSUM,
    "XAmzContentChecksumMismatch": _CHECKSUM,
    "XAmzContentSHA256Mismatch": _CHECKSUM,
    "InvalidDigest": _CHECKSUM,
    "IncompleteBody": _Meaning(Unavailable, "the body ended early on its way"),
    "InvalidPart": _PARTS,
    "InvalidPartOrder": _PARTS,
    "EntityTooSmall": _PARTS,  # a short part in the middle: another is missing behind it
    "PreconditionFailed": _CONDITION,
    "ConditionalRequestConflict": _CONFLICT,
    "OperationAborted": _CONFLICT,
    "SlowDown": _BUSY,
    "SlowDownRead": _BUSY,
    "SlowDownWrite": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "TooManyRequests": _BUSY,
    "ServiceUnavailable": _BUSY,
    "XMinioServerNotInitialized": _DOWN,
    "RequestTimeout": _DOWN,
    "TemporaryRedirect": _DOWN,  # a new bucket, before its name has got round
    "InternalError": _DOWN,
    "InvalidRange": _Meaning(Unavailable, "shorter than was asked for"),
    "ObjectParentIsFile": _BELOW_A_KEY,  # versitygw
    "ExistingObjectIsDirectory": _BELOW_A_KEY,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "InsufficientCapacity": _FULL,
    "EntityTooLarge": _TOO_LARGE,
    "KeyTooLongError": _Meaning(UsageError, "the key, with the store's prefix, is too long"),
    "InvalidObjectState": _Meaning(
        StoreError, "archived: it has to be restored first", "aws s3api restore-object"
    ),
    "PermanentRedirect": _Meaning(
        UsageError, "the bucket is in another region", "add region=… to the store URL"
    ),
    "AuthorizationHeaderMalformed": _Meaning(
        UsageError, "the bucket is in another region", "add region=… to the store URL"
    ),
    "NotImplemented": _Meaning(Unsupported, "the store does not offer that"),
    "MethodNotAllowed": _Meaning(Unsupported, "the store does not offer that"),
}
_BY_STATUS: Mapping[int, _Meaning] = {
    301: _MEANINGS["PermanentRedirect"],
    304: _CONDITION,
    401: _RIGHT,
    403: _RIGHT,
    404: _GONE,
    408: _DOWN,
    412: _CONDITION,
    413: _TOO_LARGE,
    416: _MEANINGS["InvalidRange"],
    429: _BUSY,
    501: _MEANINGS["NotImplemented"],
    503: _BUSY,
    507: _FULL,
}
"""For answers without a code that is known: those to HEAD have none at all."""


def _by_class(status: int) -> _Meaning:
    return _DOWN if status >= 500 else _Meaning(StoreError, "the store refuses")


_ON_THE_WAY: tuple[tuple[tuple[type[Exception], ...], type[StoreError], str, str | None], ...] = (
    (
        (ssl.SSLCertVerificationError, sdk.SSLError),
        StoreError,
        "the server's certificate is not accepted",
        "name the authority that signed it: ca_bundle=FILE",
    ),
    (
        (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.NoAuthTokenError),
        Denied,
        "Access Denied: no credentials were found",
        "sign in (aws sso login, aws configure), or name a profile: profile=NAME",
    ),
    (
        (
            sdk.UnauthorizedSSOTokenError,
            sdk.SSOError,
            sdk.TokenRetrievalError,
            sdk.CredentialRetrievalError,
            sdk.MetadataRetrievalError,
        ),
        Denied,
        "Access Denied: the credentials cannot be had ({error})",
        _SIGN_IN,
    ),
    (
        (TimeoutError, sdk.ConnectTimeoutError, sdk.ReadTimeoutError),
        Unavailable,
        "no answer within {stall:g} s",
        None,
    ),
    (
        (socket.gaierror, ConnectionRefusedError, sdk.EndpointConnectionError),
        Unavailable,
        "no connection ({error})",
        "is the endpoint in the store URL right, and up?",
    ),
    (
        (
            OSError,
            HTTPException,
            sdk.HTTPClientError,
            sdk.ConnectionError,
            sdk.IncompleteReadError,
        ),
        Unavailable,
        "the connection broke ({error})",
        None,
    ),
)
"""The first that fits decides."""
