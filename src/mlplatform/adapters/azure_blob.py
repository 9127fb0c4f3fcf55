"""Azure Blob Storage: `az://account/container/prefix`.

Requests are REST, sent through azure-core's pipeline; credentials are azure-identity's. The blob
client of the SDK is left out: it costs twice the CPU per request, retries by itself, copies bodies,
and has no public way to send a CRC64 of our own.

**What proves the bytes.** `x-ms-content-crc64` is CRC64NVME, little-endian: the service computes it
of what arrived and refuses another (`Crc64Mismatch`), for a whole Put Blob and for each Put Block.
Azurite knows no CRC64: there the digests are compared with the body here, and Content-MD5 guards
the way (`checksum=md5`, the default for loopback endpoints). The service keeps no digest of a whole
blob, so it is written down where it cannot part from the bytes: a Put Blob carries it in metadata
of the same request; an assembled blob states it by its committed block list, since

**a block's id is its index and its CRC64.** So two replicators stage identical blocks, any machine
can tell what is there already, and the list of a committed blob combines to the digest of the
whole. CRC32C is not stated: nothing here checks it.

**Uncommitted blocks belong to the blob's name, not to an upload**: all writers share them. A commit
(and a Put Blob) discards what it does not name; a writer who comes second finds its blocks gone.
There is no verb that drops them: what would (writing the blob and deleting it) shows readers an
object that never was, and takes other writers' blocks along. So `abort` only ends the handle; the
service forgets uncommitted blocks a week after the last one came.

Range copies (Put Block From URL) are not offered: the id of a block states its CRC64, which is
known only after the copy.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import hashlib
import hmac
import http.client
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import formatdate, parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree as ET

import requests
from azure.core.credentials import AccessToken, AzureSasCredential, TokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.core.pipeline import Pipeline, PipelineRequest
from azure.core.pipeline.policies import (
    AzureSasCredentialPolicy,
    BearerTokenCredentialPolicy,
    HTTPPolicy,
    SansIOHTTPPolicy,
)
from azure.core.pipeline.transport import HttpRequest, HttpResponse, RequestsTransport
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

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

FEATURES = StoreFeatures(
    evidence=Evidence.STORE_PARTS,
    drops_uploads=False,
    part_bytes_max=4000 * 1024**2,
    parts_max=50_000,
    put_bytes_max=5000 * 1024**2,
)

_OPTIONS = frozenset(
    {
        *("endpoint", "insecure", "stall_seconds", "checksum"),
        *("client_id", "tenant_id", "storage_class", "tags", "encryption_scope"),
    }
)
_API_VERSION = "2021-12-02"
"""Old enough for every region, private cloud and emulator; new enough for CRC64, 4000 MiB blocks
and percent-encoded names in listings."""
_TOKEN_SCOPE = "https://storage.azure.com/.default"  # noqa: S105 - a scope, not a token
_STALL_SECONDS = 30.0
_POOL_CONNECTIONS = 64
_SEND_BYTES = 1024 * 1024
"""A socket's time-out covers one call of send, so a body goes out in pieces: a slow line is not a
stalled one."""
_PAGE_KEYS = 5000
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*|\$root|\$web")

_DIGEST_META = "mlplatform_crc64nvme"
"""Metadata of a blob that one Put Blob wrote: its CRC64NVME, checked as it came."""
_BLOCKS_META = "mlplatform_blocks"
"""Metadata of a blob that we assembled: its block list states the digests."""


def open_store(url: StoreURL, *, environ: Mapping[str, str] = os.environ) -> AzureBlobStore:
    """The container that `url` names. No request is made.

    Options: `endpoint` (of the account's blob service), `insecure`, `stall_seconds`; `checksum`
    (crc64, or md5 for services without it); `storage_class` (the access tier), `tags`
    (name=value&…, percent-encoded) and `encryption_scope`, given to every blob; `client_id` and
    `tenant_id`, which select an identity. A key, SAS or connection string in the environment comes
    before identities (`_key_or_sas`).
    """
    url.reject_unknown(_OPTIONS)
    account = url.authority
    container, _, prefix = url.path.strip("/").partition("/")
    if not _ACCOUNT.fullmatch(account) or not _CONTAINER.fullmatch(container):
        raise UsageError(
            f"store URL {url} does not name an account and a container",
            hint="write az://account/container or az://account/container/prefix",
        )
    if prefix:
        check_key(prefix)
    key, sas, endpoint = _key_or_sas(account, environ)
    if endpoint and "endpoint" not in url.options:
        url = replace(url, options={**url.options, "endpoint": endpoint})
    endpoint = url.endpoint() or f"https://{account}.blob.core.windows.net"
    policy: _Policy
    if key:
        policy = _SharedKey(account, key)
    elif sas:
        policy = AzureSasCredentialPolicy(AzureSasCredential(sas))
    elif endpoint.startswith("http:"):
        raise UsageError(
            f"store URL {url}: no key for {account} in the environment, and tokens are sent over "
            "HTTPS only",
            hint=_CREDENTIALS_HINT,
        )
    else:
        policy = BearerTokenCredentialPolicy(
            _identity(url.options.get("client_id"), url.options.get("tenant_id")), _TOKEN_SCOPE
        )
    checksum = url.options.get("checksum") or (
        "md5" if is_loopback(urlsplit(endpoint).hostname or "") else "crc64"
    )
    if checksum not in ("crc64", "md5"):
        raise UsageError(f"store URL {url}: checksum={checksum!r} is neither crc64 nor md5")
    service = _Service(
        str(url),
        f"{endpoint}/{container}",
        policy,
        stall_seconds=url.seconds("stall_seconds", default=_STALL_SECONDS),
    )
    return AzureBlobStore(
        service,
        prefix=f"{prefix}/" if prefix else "",
        service_checks_crc64=checksum == "crc64",
        on_write=_write_headers(url),
        on_block={
            name: value
            for name, value in _write_headers(url).items()
            if name == "x-ms-encryption-scope"
        },
    )


def _write_headers(url: StoreURL) -> dict[str, str]:
    """What the URL asks to be written with each blob."""
    asked = {
        "x-ms-access-tier": url.options.get("storage_class"),
        "x-ms-encryption-scope": url.options.get("encryption_scope"),
        "x-ms-tags": url.options.get("tags"),
    }
    if asked["x-ms-tags"]:
        pairs = parse_qsl(asked["x-ms-tags"], strict_parsing=False)
        if not pairs:
            raise UsageError(
                f"store URL {url}: tags={asked['x-ms-tags']!r} is not name=value&name=value",
                hint="percent-encode it in the URL: tags=team%3Dml%26stage%3Dprod",
            )
        asked["x-ms-tags"] = urlencode(pairs)
    return {name: value for name, value in asked.items() if value}


# ---------------------------------------------------------------------------------- credentials

_CREDENTIALS_HINT = (
    "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING "
    "(for one account of several: with _ACCOUNT behind the name), run `az login`, or give the "
    "machine an identity"
)

_Policy = HTTPPolicy[HttpRequest, HttpResponse] | SansIOHTTPPolicy[HttpRequest, HttpResponse]


def _key_or_sas(
    account: str, environ: Mapping[str, str]
) -> tuple[str | None, str | None, str | None]:
    """An account key or a SAS for `account`, and an endpoint, from the environment.

    The names are those of the `az` command. Each may carry the account in capitals
    (`AZURE_STORAGE_KEY_MODELSEU`), for several accounts at once; that one comes first. Without it,
    a connection string serves the account that it names, and a key or SAS the account in
    AZURE_STORAGE_ACCOUNT, or any if that is not set.
    """
    own = f"_{account.upper()}"
    generic = environ.get("AZURE_STORAGE_ACCOUNT", account) == account
    for suffix, fits in ((own, True), ("", generic)):
        text = environ.get(f"AZURE_STORAGE_CONNECTION_STRING{suffix}", "")
        fields = dict(field.split("=", 1) for field in text.split(";") if "=" in field)
        endpoint = fields.get("BlobEndpoint", "").rstrip("/") or None
        named = fields.get("AccountName") or (urlsplit(endpoint or "").hostname or "").split(".")[0]
        if fields and named == account:
            key, sas = fields.get("AccountKey"), fields.get("SharedAccessSignature")
            if key or sas:
                return key, sas, endpoint
        key = environ.get(f"AZURE_STORAGE_KEY{suffix}") if fits else None
        sas = environ.get(f"AZURE_STORAGE_SAS_TOKEN{suffix}") if fits else None
        if key or sas:
            return key, sas, None
    return None, None, None


def _identity(client_id: str | None, tenant_id: str | None) -> TokenCredential:
    """The SDK's own chain: environment, workload identity, managed identity, `az login`."""
    from azure.identity import DefaultAzureCredential

    options: dict[str, Any] = {}
    if client_id:
        options |= {"managed_identity_client_id": client_id}
        options |= {"workload_identity_client_id": client_id}
    if not tenant_id:
        return DefaultAzureCredential(**options)
    return _InTenant(
        DefaultAzureCredential(**options, additionally_allowed_tenants=[tenant_id]), tenant_id
    )


class _InTenant:
    """A credential that asks one tenant."""

    def __init__(self, credential: TokenCredential, tenant_id: str) -> None:
        self._credential = credential
        self._tenant_id = tenant_id

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        options["tenant_id"] = self._tenant_id
        return self._credential.get_token(*scopes, **options)


class _SharedKey(SansIOHTTPPolicy[HttpRequest, HttpResponse]):
    """Signs with an account key ("Authorize with Shared Key" in the service's documents)."""

    _SIGNED = (
        *("content-encoding", "content-language", "content-length", "content-md5"),
        *("content-type", "date", "if-modified-since", "if-match", "if-none-match"),
        *("if-unmodified-since", "range"),
    )

    def __init__(self, account: str, key: str) -> None:
        super().__init__()
        self._account = account
        try:
            self._key = base64.b64decode(key, validate=True)
        except ValueError:
            raise UsageError(
                f"the account key for {account} in the environment is not base64"
            ) from None

    def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
        sent = request.http_request
        headers = {name.lower(): value for name, value in sent.headers.items()}
        if headers.get("content-length") == "0":
            del headers["content-length"]
        url = urlsplit(sent.url)
        lines = [sent.method, *(headers.get(name, "") for name in self._SIGNED)]
        lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name[:5] == "x-ms-"]
        lines.append(f"/{self._account}{url.path}")
        lines += [f"{name}:{value}" for name, value in sorted(parse_qsl(url.query))]
        signature = hmac.digest(self._key, "\n".join(lines).encode(), "sha256")
        encoded = base64.b64encode(signature).decode()
        sent.headers["Authorization"] = f"SharedKey {self._account}:{encoded}"


# ------------------------------------------------------------------------------------- the errors


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What an error code of the service is to us."""

    kind: type[MlplatformError]
    text: str
    hint: str | None = None


_NO_ROLE = _Meaning(
    Denied,
    "Access Denied: no right to {right}",
    "the identity needs the role Storage Blob Data Contributor (to read: Storage Blob Data Reader) "
    "on the container, or the SAS this permission",
)
_NO_TRUST = _Meaning(
    Denied,
    "Access Denied: the credentials were refused (to {right})",
    "has the SAS or token expired, is the key another account's, or this machine's clock off?",
)
_NO_ENTRY = _Meaning(
    Denied,
    "Access Denied: the account does not let this client in (to {right})",
    "see the account's network rules and the kinds of credentials it allows; and is the key right?",
)
_REFUSED = _Meaning(ConditionFailed, "the object is not in the state that was asked for")
_GONE = _Meaning(NotFound, "no such object")
_NO_CONTAINER = _Meaning(
    ContainerMissing,
    "no such container",
    "create it (`az storage container create`), or correct the store URL",
)
_ROTTEN = _Meaning(DigestMismatch, "the bytes that arrived have other digests than were sent")
_FULL = _Meaning(StoreFull, "the account is full, or over a quota")
_BUSY = _Meaning(Throttled, "the account is over its request or bandwidth limit")
_DOWN = _Meaning(Unavailable, "the service failed")
_COLD = _Meaning(
    Unsupported, "the blob is archived", "rehydrate it first (`az storage blob set-tier`)"
)

_BY_CODE: Mapping[str, _Meaning] = {
    "BlobNotFound": _GONE,
    "ResourceNotFound": _GONE,
    "ContainerNotFound": _NO_CONTAINER,
    "ContainerDisabled": _NO_CONTAINER,
    "ContainerBeingDeleted": _NO_CONTAINER,
    "ConditionNotMet": _REFUSED,
    "TargetConditionNotMet": _REFUSED,
    "BlobAlreadyExists": _REFUSED,
    "Crc64Mismatch": _ROTTEN,
    "Md5Mismatch": _ROTTEN,
    "InvalidBlockList": _Meaning(NotFound, "staged blocks are gone: another writer committed"),
    "InvalidBlobOrBlock": _Meaning(
        StoreError,
        "blocks of another tool are staged under this name",
        "they vanish a week after the last one, or when that tool completes its upload",
    ),
    "BlockCountExceedsLimit": _Meaning(StoreFull, "too many blocks are staged under this name"),
    "InvalidRange": _Meaning(Unavailable, "the span lies beyond the end"),
    "AuthorizationPermissionMismatch": _NO_ROLE,
    "AuthorizationResourceTypeMismatch": _NO_ROLE,
    "InsufficientAccountPermissions": _NO_ROLE,
    "UnauthorizedBlobOverwrite": _NO_ROLE,
    "AuthenticationFailed": _NO_TRUST,
    "InvalidAuthenticationInfo": _NO_TRUST,
    "NoAuthenticationInformation": _NO_TRUST,
    "AuthorizationFailure": _NO_ENTRY,
    "AuthorizationProtocolMismatch": _NO_ENTRY,
    "AuthorizationServiceMismatch": _NO_ENTRY,
    "AuthorizationSourceIPMismatch": _NO_ENTRY,
    "AccountIsDisabled": _NO_ENTRY,
    "KeyBasedAuthenticationNotPermitted": _NO_ENTRY,
    "PublicAccessNotPermitted": _NO_ENTRY,
    "BlobImmutableDueToPolicy": _Meaning(
        Denied,
        "Access Denied: a retention policy or a legal hold protects the blob (to {right})",
    ),
    "LeaseIdMissing": _Meaning(
        Denied, "Access Denied: another client holds a lease on the blob (to {right})"
    ),
    "SnapshotsPresent": _Meaning(
        Denied,
        "Access Denied: the blob has snapshots (to {right})",
        "delete them first, if nobody needs them",
    ),
    "ServerBusy": _BUSY,
    "BlobArchived": _COLD,
    "BlobBeingRehydrated": _COLD,
    "FeatureNotSupported": _Meaning(
        Unsupported,
        "the service does not know what was asked",
        "an emulator behind another name than loopback needs checksum=md5 in the store URL",
    ),
}

_BY_STATUS: Mapping[int, _Meaning] = {
    401: _NO_TRUST,
    403: _NO_ENTRY,
    404: _GONE,
    408: _DOWN,
    409: _REFUSED,
    412: _REFUSED,
    416: _BY_CODE["InvalidRange"],
    429: _BUSY,
    501: _BY_CODE["FeatureNotSupported"],
    503: _BUSY,
    507: _FULL,
}


def _meaning(status: int, code: str) -> _Meaning:
    if known := _BY_CODE.get(code):
        return known
    if "Quota" in code or "Capacity" in code:
        return _FULL
    if (known := _BY_STATUS.get(status)) and not (code and status == 409):
        return known
    return _DOWN if status >= 500 else _Meaning(StoreError, "the service refused the request")


# ------------------------------------------------------------------------------------ the service


class _Slices:
    """A body that goes out in pieces, uncopied. Its length makes it no chunked transfer."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._body), _SEND_BYTES):
            yield self._body[start : start + _SEND_BYTES]


class _Service:
    """One container, as requests and answers. Everything foreign is translated here."""

    def __init__(
        self, store_url: str, container_url: str, policy: _Policy, *, stall_seconds: float
    ) -> None:
        self.store_url = store_url
        self._container_url = container_url
        self._stall_seconds = stall_seconds
        session = requests.Session()
        # What the environment says is read once: by default it is read, and ~/.netrc with it,
        # for each request.
        session.trust_env = False
        session.proxies = dict(requests.utils.get_environ_proxies(container_url))
        no_retries = Retry(total=False, redirect=False, raise_on_status=False)
        for scheme in ("http://", "https://"):
            session.mount(
                scheme, HTTPAdapter(pool_maxsize=_POOL_CONNECTIONS, max_retries=no_retries)
            )
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self._pipeline: Pipeline[HttpRequest, HttpResponse] = Pipeline(
            RequestsTransport(
                session=session,
                connection_timeout=stall_seconds,
                read_timeout=stall_seconds,
                connection_verify=bundle or True,
            ),
            [policy],
        )

    def call(
        self,
        method: str,
        name: str | None,
        *,
        right: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        stream: bool = False,
    ) -> HttpResponse:
        """Send a request about the blob `name`, or the container. An answer that is no success
        raises; `right` and `key` are for its text."""
        url = self._container_url
        if name is not None:
            url += "/" + quote(name, safe="/~")
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        sent = {
            "x-ms-version": _API_VERSION,
            "x-ms-date": formatdate(usegmt=True),
            "Accept-Encoding": "identity",
            **(headers or {}),
        }
        if method == "PUT":
            sent["Content-Length"] = str(len(body) if body else 0)
        data: Any = _Slices(body) if body else None  # anything that iterates and has a length
        failure: AzureError
        try:
            response = self._pipeline.run(
                HttpRequest(method, url, sent, data=data), stream=stream
            ).http_response
        except AzureError as error:
            failure = error
        else:
            if response.status_code >= 300:
                raise self._refusal(response, right=right, key=key)
            if not response.headers.get("x-ms-request-id"):
                raise Unavailable("something else answered", store=self.store_url, key=key)
            return response
        # Outside of `except`: the SDK's error may hold the URL, and with it a SAS.
        if isinstance(failure, ClientAuthenticationError):
            raise Denied(
                f"Access Denied: no token to {right} with: {_first_line(failure)}",
                right=right,
                store=self.store_url,
                key=key,
                hint=_CREDENTIALS_HINT,
            )
        raise self.lost(failure, key)

    def lost(self, failure: Exception, key: str) -> Unavailable:
        """For no answer, or half of one."""
        root = _root_of(failure)
        if isinstance(root, TimeoutError):
            why = f"nothing came or went for {self._stall_seconds:g} s"
        else:
            why = str(root) if root else type(failure).__name__
        error = Unavailable(why, store=self.store_url, key=key)
        error.__cause__ = root
        return error

    def _refusal(self, response: HttpResponse, *, right: str, key: str) -> MlplatformError:
        headers, status = response.headers, response.status_code
        code = headers.get("x-ms-error-code", "")
        if code == "InvalidOperation" and b"MD5 doesn't match" in response.body():
            code = "Md5Mismatch"  # as Azurite says it
        _read_up(response)
        meaning = _meaning(status, code)
        request_id = headers.get("x-ms-request-id", "")
        text = meaning.text.format(right=right) + f" ({status}"
        text += f" {code}" if code else ""
        text += f", request {request_id})" if request_id else ")"
        store = self.store_url
        if issubclass(meaning.kind, Denied):
            return Denied(text, right=right, store=store, key=key, hint=meaning.hint)
        if issubclass(meaning.kind, Throttled):
            seconds = _seconds(headers.get("Retry-After"))
            return Throttled(text, retry_after_seconds=seconds, store=store, key=key)
        if issubclass(meaning.kind, StoreError):
            return meaning.kind(text, store=store, key=key, hint=meaning.hint)
        return meaning.kind(f"{store}/{key}: {text}", hint=meaning.hint)


def _read_up(response: HttpResponse) -> None:
    """Take what is left of an answer, so that its connection can be used again."""
    answer: requests.Response = response.internal_response
    with contextlib.suppress(requests.RequestException, HTTPError, OSError), answer:
        _ = answer.content


def _root_of(failure: BaseException) -> OSError | None:
    """The system's own error at the bottom of a pile of wrappers, which may name the URL."""
    pile: builtins.list[object] = [failure]
    seen: set[int] = set()
    while pile:
        error = pile.pop()
        if not isinstance(error, BaseException) or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            return error
        below = (error.__cause__, error.__context__, getattr(error, "inner_exception", None))
        pile += (*error.args, getattr(error, "reason", None), *below)
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None


# -------------------------------------------------------------------------------------- the store


class AzureBlobStore:
    """One container, below a prefix."""

    def __init__(
        self,
        service: _Service,
        *,
        prefix: str,
        service_checks_crc64: bool,
        on_write: Mapping[str, str],
        on_block: Mapping[str, str],
    ) -> None:
        self._service = service
        self._prefix = prefix
        self._service_checks_crc64 = service_checks_crc64
        self._on_write = on_write
        self._on_block = on_block

    def __repr__(self) -> str:
        return f"<AzureBlobStore {self.url}>"

    @property
    def url(self) -> str:
        return self._service.store_url

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
        name = self._name(key)
        view = memoryview(body).cast("B")
        if len(view) > FEATURES.put_bytes_max:
            raise UsageError(
                f"{self.url}/{key}: a put takes at most {FEATURES.put_bytes_max} bytes"
            )
        crc64, checked = self._checked(key, view, digests)
        headers = {
            "x-ms-blob-type": "BlockBlob",
            f"x-ms-meta-{_DIGEST_META}": f"{crc64:016x}",
            **self._on_write,
            **checked,
        }
        response = self._write(key, name, headers, view, when)
        return self._stat(key, response.headers, len(view), Digests(crc64))

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        if span is None or span.size_bytes:
            return self._open(key, span, when)
        # The service cannot express an empty span.
        stat = self._head(key, when)
        if span.stop > stat.size_bytes:
            raise Unavailable(f"byte {span.stop} of {stat.size_bytes}", store=self.url, key=key)
        return _AzureBody(self._service, None, stat, 0)

    def _open(self, key: str, span: Span | None, when: Condition) -> _AzureBody:
        headers = {"x-ms-range": f"bytes={span.start}-{span.stop - 1}"} if span else {}
        response = self._on("GET", key, "get", when, headers, stream=True)
        came = response.headers
        here = int(came.get("Content-Length", -1))
        size_bytes = int(came.get("Content-Range", "").rpartition("/")[2] or here)
        expected = span.size_bytes if span else size_bytes
        if here != expected:
            response.internal_response.close()
            raise Unavailable(
                f"{here} bytes of {expected} asked for; the object has {size_bytes}",
                store=self.url,
                key=key,
            )
        stat = self._stated(key, came, size_bytes)
        if not expected:
            _read_up(response)
            return _AzureBody(self._service, None, stat, 0)
        return _AzureBody(self._service, response, stat, expected)

    def stat(self, key: str) -> Stat:
        headers = self._on("HEAD", key, "get").headers
        stat = self._stated(key, headers, int(headers["Content-Length"]))
        if f"x-ms-meta-{_BLOCKS_META}" not in headers:
            return stat
        tag, blocks = self._blocks(key, "committed")
        if tag != stat.tag:
            raise Unavailable("replaced while its blocks were read", store=self.url, key=key)
        ours = [part for part in map(_part_of, blocks) if part is not None]
        if len(ours) != len(blocks) or sum(part.size_bytes for part in ours) != stat.size_bytes:
            return stat
        crc64 = combine((part.digests, part.size_bytes) for part in ours).crc64nvme
        return replace(stat, digests=Digests(crc64), evidence=Evidence.STORE_PARTS)

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        """The service lists by UTF-16, has no "start after" in this API version, and gives folders
        apart: all pages are read, then sorted."""
        found: dict[str, Stat] = {}
        for blob in self._pages(prefix, "metadata", shallow=shallow):
            key = _text(blob, "Name", encoded=True)[len(self._prefix) :]
            if key <= after:
                continue
            if blob.tag == "BlobPrefix":
                found[key] = Stat(key, 0, "")
            elif not _is_folder(blob):
                found[key] = self._listed(key, blob)
        return iter([found[key] for key in sorted(found)])

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        try:
            self._on("DELETE", key, "delete", when)
        except ContainerMissing:
            raise
        except NotFound:
            return

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """Makes no request: blocks are staged under the blob's name as it is."""
        self._name(key)
        if size_bytes < 1 or part_bytes < 1:
            raise UsageError(f"{self.url}/{key}: an upload needs a size and a part size")
        if -(-size_bytes // part_bytes) > FEATURES.parts_max:
            raise UsageError(f"{self.url}/{key}: more than {FEATURES.parts_max} parts")
        if part_bytes > FEATURES.part_bytes_max:
            raise UsageError(f"{self.url}/{key}: parts over {FEATURES.part_bytes_max} bytes")
        return _AzureUpload(self, key, size_bytes=size_bytes, part_bytes=part_bytes)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """One for each name that has staged blocks of ours.

        The service lists such a name only while there is no blob of that name. Blocks that wait
        beside a blob are found when `prefix` is exactly its key.
        """
        found: dict[str, datetime | None] = {}
        for blob in self._pages(prefix, "uncommittedblobs"):
            key = _text(blob, "Name", encoded=True)[len(self._prefix) :]
            # An unfinished one has no bytes yet; whether an empty one is unfinished is asked.
            unfinished = _text(blob, "Properties/Content-Length") in ("", "0")
            if (unfinished or key == prefix) and _is_key(key):
                found[key] = _time(_text(blob, "Properties/Last-Modified"))
        for key in sorted(found):
            if self._staged(key):
                yield _AzureUpload(self, key, started=found[key], found=True)

    # What the verbs share.

    def _name(self, key: str) -> str:
        check_key(key)
        return self._prefix + key

    def _checked(self, key: str, body: memoryview, given: Digests) -> tuple[int, dict[str, str]]:
        """The CRC64NVME of `body`, and the header by which the service checks what arrives.

        Where the service checks the CRC64, the one that was given is sent as it is, and the body is
        not read for it.
        """
        crc64 = given.crc64nvme
        if crc64 is None or not self._service_checks_crc64:
            found = digest_of(body)
            if given.contradicts(found):
                raise DigestMismatch(f"{self.url}/{key}: has {found}, was to be {given}")
            crc64 = found.crc64nvme or 0
        if self._service_checks_crc64:
            wire = crc64.to_bytes(8, "little")
            return crc64, {"x-ms-content-crc64": base64.b64encode(wire).decode()}
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        return crc64, {"Content-MD5": base64.b64encode(md5).decode()}

    def _write(
        self,
        key: str,
        name: str,
        headers: Mapping[str, str],
        body: memoryview,
        when: Condition,
        query: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Make `body` the blob `name`, or what `query` says, under a condition."""
        try:
            response = self._service.call(
                "PUT",
                name,
                right="put",
                key=key,
                query=query,
                headers={**headers, **_conditions(when)},
                body=body,
            )
        except ContainerMissing:
            raise
        except NotFound as error:
            if isinstance(when, Matches) and "BlobNotFound" in error.message:
                raise ConditionFailed(
                    f"is not there, tag {when.tag} was expected", store=self.url, key=key
                ) from error
            raise
        self._compare_stated(key, headers, response.headers)
        return response

    def _compare_stated(self, key: str, sent: Mapping[str, str], came: Mapping[str, str]) -> None:
        """The service states the CRC64 of what it got; it refused another already."""
        told, said = sent.get("x-ms-content-crc64"), came.get("x-ms-content-crc64")
        if told and said and told != said:
            raise DigestMismatch(f"{self.url}/{key}: the service got other bytes than were sent")

    def _on(
        self,
        method: str,
        key: str,
        right: str,
        when: Condition = ALWAYS,
        headers: Mapping[str, str] | None = None,
        *,
        stream: bool = False,
    ) -> HttpResponse:
        """Ask for, or delete, what is there already: nothing there is `NotFound` whatever `when`
        says, although the service calls it a condition that does not hold."""
        name = self._name(key)
        if isinstance(when, Absent):
            # Azurite would delete it all the same.
            raise ConditionFailed(f"has tag {self._head(key).tag}", store=self.url, key=key)
        try:
            return self._service.call(
                method,
                name,
                right=right,
                key=key,
                headers={**(headers or {}), **_conditions(when)},
                stream=stream,
            )
        except ConditionFailed:
            if isinstance(when, Matches):
                self._head(key)
            raise

    def _head(self, key: str, when: Condition = ALWAYS) -> Stat:
        headers = self._on("HEAD", key, "get", when).headers
        return self._stated(key, headers, int(headers["Content-Length"]))

    def _pages(self, prefix: str, include: str, *, shallow: bool = False) -> Iterator[ET.Element]:
        """All `Blob` and `BlobPrefix` elements of a listing."""
        query = {
            "restype": "container",
            "comp": "list",
            "include": include,
            "maxresults": str(_PAGE_KEYS),
            "prefix": self._prefix + prefix,
        }
        if shallow:
            query["delimiter"] = "/"
        while True:
            sent = {name: value for name, value in query.items() if value}
            page = self._xml(self._service.call("GET", None, right="list", key=prefix, query=sent))
            yield from page.find("Blobs") or ()
            query["marker"] = _text(page, "NextMarker")
            if not query["marker"]:
                return

    def _blocks(self, key: str, kind: str) -> tuple[str, Sequence[ET.Element]]:
        """The blob's tag, and its committed or uncommitted blocks."""
        response = self._service.call(
            "GET",
            self._name(key),
            right="get",
            key=key,
            query={"comp": "blocklist", "blocklisttype": kind},
        )
        blocks = self._xml(response).find(f"{kind.capitalize()}Blocks")
        return _unquoted(response.headers.get("ETag", "")), () if blocks is None else blocks[:]

    def _staged(self, key: str) -> Sequence[Part]:
        """Our uncommitted blocks under the name, none if there are none."""
        try:
            _, blocks = self._blocks(key, "uncommitted")
        except ContainerMissing:
            raise
        except NotFound:
            return ()
        return [part for part in map(_part_of, blocks) if part is not None]

    def _xml(self, response: HttpResponse) -> ET.Element:
        try:
            return ET.fromstring(response.body())  # noqa: S314 - expat bounds entity expansion
        except ET.ParseError as error:
            raise Unavailable(f"an answer that is not XML: {error}", store=self.url) from error

    def _stated(self, key: str, headers: Mapping[str, str], size_bytes: int) -> Stat:
        """With the digest that lies in the blob's own metadata, if it does."""
        digests = _digests(headers.get(f"x-ms-meta-{_DIGEST_META}"))
        return self._stat(key, headers, size_bytes, digests)

    def _stat(
        self, key: str, headers: Mapping[str, str], size_bytes: int, digests: Digests
    ) -> Stat:
        return Stat(
            key,
            size_bytes,
            _unquoted(headers["ETag"]),
            _time(headers.get("Last-Modified", "")),
            digests,
            None if digests == UNKNOWN_DIGESTS else Evidence.STORE_PARTS,
        )

    def _listed(self, key: str, blob: ET.Element) -> Stat:
        digests = _digests(_text(blob, f"Metadata/{_DIGEST_META}"))
        return Stat(
            key,
            int(_text(blob, "Properties/Content-Length") or 0),
            _unquoted(_text(blob, "Properties/Etag")),
            _time(_text(blob, "Properties/Last-Modified")),
            digests,
            None if digests == UNKNOWN_DIGESTS else Evidence.STORE_PARTS,
        )


def _conditions(when: Condition) -> dict[str, str]:
    if isinstance(when, Matches):
        return {"If-Match": f'"{when.tag}"'}
    return {"If-None-Match": "*"} if isinstance(when, Absent) else {}


def _unquoted(etag: str) -> str:
    """Headers quote it, listings do not."""
    return etag.strip('"')


def _time(text: str) -> datetime | None:
    return parsedate_to_datetime(text) if text else None


def _digests(text: str | None) -> Digests:
    if text and re.fullmatch("[0-9a-f]{16}", text):
        return Digests(int(text, 16))
    return UNKNOWN_DIGESTS


def _text(element: ET.Element, path: str, *, encoded: bool = False) -> str:
    """The text at `path`. A name with characters that XML cannot hold comes percent-encoded."""
    found = element.find(path)
    if found is None or not found.text:
        return ""
    return unquote(found.text) if encoded and found.get("Encoded") == "true" else found.text


def _is_key(key: str) -> bool:
    try:
        check_key(key)
    except UsageError:
        return False
    return True


def _is_folder(blob: ET.Element) -> bool:
    """In accounts with a hierarchical namespace folders are blobs, too."""
    kind = _text(blob, "Properties/ResourceType") or _text(blob, "Metadata/hdi_isfolder")
    return kind in ("directory", "true")


# --------------------------------------------------------------------------------------- a download


class _AzureBody:
    """The body of one answer, read from its socket into the caller's buffer."""

    def __init__(
        self, service: _Service, response: HttpResponse | None, stat: Stat, size_bytes: int
    ) -> None:
        self._service = service
        self._stat = stat
        self._left = size_bytes
        self._answer: requests.Response | None = response.internal_response if response else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closes the connection, unless all was read and it went back to the pool.
        if self._answer is not None:
            self._answer.close()
        self._left = 0

    @property
    def stat(self) -> Stat:
        return self._stat

    def readinto(self, buffer: memoryview) -> int:
        if self._answer is None:
            return 0
        # What urllib3 wraps: it fills the buffer from the socket, where urllib3 reads and copies.
        source: http.client.HTTPResponse = self._answer.raw._original_response
        wanted = buffer[: min(len(buffer), self._left)]
        filled = 0
        failure: Exception
        try:
            while filled < len(wanted):
                count = source.readinto(wanted[filled:])
                if not count:
                    raise Unavailable(
                        f"short read: {self._left} bytes did not come",
                        store=self._service.store_url,
                        key=self._stat.key,
                    )
                filled += count
                self._left -= count
        except (OSError, http.client.HTTPException) as error:
            failure = error
        else:
            if not self._left:
                self._answer.raw.release_conn()
            return filled
        raise self._service.lost(failure, self._stat.key)


# ---------------------------------------------------------------------------------------- an upload

_BLOCK_ID = re.compile(r"mlp1-(\d{5})-([0-9a-f]{16})")


def _block_id(index: int, crc64nvme: int) -> str:
    """All ids under one name must have one length. This one needs no padding in base64."""
    return f"mlp1-{index:05d}-{crc64nvme:016x}"


def _part_of(block: ET.Element) -> Part | None:
    """A block of ours as a part; None for another tool's."""
    try:
        text = base64.b64decode(_text(block, "Name"), validate=True).decode()
    except ValueError:
        return None
    found = _BLOCK_ID.fullmatch(text)
    if found is None:
        return None
    size_bytes = int(_text(block, "Size"))
    return Part(int(found[1]), size_bytes, text, Digests(int(found[2], 16)))


class _AzureUpload:
    """A handle on the blocks that are staged under a name. What other writers stage under it is
    theirs as much as ours, so the id is the same for all."""

    id = "staged-blocks"

    def __init__(
        self,
        store: AzureBlobStore,
        key: str,
        *,
        size_bytes: int | None = None,
        part_bytes: int = 0,
        started: datetime | None = None,
        found: bool = False,
    ) -> None:
        self._store = store
        self._key = key
        self._size_bytes = size_bytes
        self._part_bytes = part_bytes
        self._started = started
        self._ended = False
        self._sent: dict[int, str] = {}
        """The newest block of each index that went through this handle."""
        self._held = found
        """Whether the service held blocks when it was last asked or told: if it holds none now,
        somebody committed."""

    def __repr__(self) -> str:
        return f"<upload of {self._store.url}/{self._key}>"

    @property
    def key(self) -> str:
        return self._key

    @property
    def started(self) -> datetime | None:
        return self._started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        self._require_open()
        store, key = self._store, self._key
        view = memoryview(body).cast("B")
        if not 0 <= index < FEATURES.parts_max or not self._fits(index, len(view)):
            raise UsageError(f"{store.url}/{key}: part {index} cannot have {len(view)} bytes")
        crc64, headers = store._checked(key, view, digests)
        tag = _block_id(index, crc64)
        store._write(
            key,
            store._name(key),
            {**headers, **store._on_block},
            view,
            ALWAYS,
            {"comp": "block", "blockid": base64.b64encode(tag.encode()).decode()},
        )
        self._sent[index] = tag
        self._held = True
        return Part(index, len(view), tag, Digests(crc64))

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        raise Unsupported("no range copies here", store=self._store.url, key=self._key)

    def parts(self) -> Sequence[Part]:
        """An index under which writers staged other bytes, and we do not know ours, is left out:
        it is sent again."""
        self._require_open()
        found: dict[int, builtins.list[Part]] = {}
        for part in self._store._staged(self._key):
            if self._fits(part.index, part.size_bytes):
                found.setdefault(part.index, []).append(part)
        if self._held and not found:
            raise self._gone()
        self._held = bool(found)
        chosen = []
        for index, candidates in sorted(found.items()):
            own = [part for part in candidates if part.tag == self._sent.get(index)]
            if own or len(candidates) == 1:
                chosen.append((own or candidates)[0])
        return chosen

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        self._require_open()
        store, key = self._store, self._key
        size_bytes = sum(part.size_bytes for part in parts)
        ids = [_BLOCK_ID.fullmatch(part.tag) for part in parts]
        indices = [int(found[1]) for found in ids if found]
        expected = size_bytes if self._size_bytes is None else self._size_bytes
        if not parts or indices != builtins.list(range(len(parts))) or size_bytes != expected:
            raise DigestMismatch(
                f"{store.url}/{key}: {size_bytes} bytes in {len(parts)} parts are not the whole"
            )
        # The ids tell what the service checked, whatever else the caller made of the parts.
        stated = combine(
            (Digests(int(found[2], 16)), part.size_bytes)
            for found, part in zip(ids, parts, strict=True)
            if found
        )
        whole = Digests(stated.crc64nvme)
        if digests.contradicts(whole):
            raise DigestMismatch(
                f"{store.url}/{key}: the parts make {whole}, the whole was to be {digests}"
            )
        try:
            response = store._write(
                key,
                store._name(key),
                {f"x-ms-meta-{_BLOCKS_META}": str(len(parts)), **store._on_write},
                memoryview(_block_list(part.tag for part in parts)),
                when,
                {"comp": "blocklist"},
            )
        except ContainerMissing:
            raise
        except NotFound as error:
            if store._staged(key):
                raise DigestMismatch(
                    f"{store.url}/{key}: not all of the listed parts are staged"
                ) from error
            raise
        self._ended = True
        return store._stat(key, response.headers, size_bytes, whole)

    def abort(self) -> None:
        """Ends this handle. The blocks stay until a commit discards them, or a week has passed."""
        self._ended = True

    def _fits(self, index: int, size_bytes: int) -> bool:
        """Whether a part can have that size, as far as this handle knows."""
        if self._size_bytes is None:
            return size_bytes > 0
        return size_bytes == min(self._part_bytes, self._size_bytes - index * self._part_bytes)

    def _require_open(self) -> None:
        if self._ended:
            raise self._gone()

    def _gone(self) -> NotFound:
        return NotFound("the upload was completed or aborted", store=self._store.url, key=self._key)


def _block_list(ids: Iterable[str]) -> bytes:
    """The body of a commit. "Uncommitted", so that what another writer committed is never taken for
    ours."""
    blocks = "".join(
        f"<Uncommitted>{base64.b64encode(block.encode()).decode()}</Uncommitted>" for block in ids
    )
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
