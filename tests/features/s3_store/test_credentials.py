"""Who asks, and over what line: profiles, roles, expiry, certificates, proxies."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials
from botocore.session import Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlplatform.adapters.s3 import S3Store, open_store
from mlplatform.core.errors import Denied, StoreError, Throttled
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import read_bytes
from tests.real.servers.launch import Endpoint

from .conftest import ACCESS_KEY, SECRET_KEY, keyed
from .scripted import StandIn, refusal, reply, standing_in

CREDENTIALS_OF_THIS_MACHINE = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The SDK's files, and nothing else that it could find."""
    for name in CREDENTIALS_OF_THIS_MACHINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def on(service: StandIn, options: str = "", session: Session | None = None) -> S3Store:
    url = f"s3://models?endpoint={service.url}&dialect=aws&{options}"
    return open_store(StoreURL.parse(url.rstrip("&")), session=session)


def asked_by(service: StandIn) -> list[str]:
    """The access keys of all requests."""
    return [
        asked.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        for asked in service.asked
    ]


def test_nobody(home: Path, service: StandIn) -> None:
    """By either way; and nothing is sent unsigned."""
    service.answers(reply(200))
    for verb in (lambda: on(service).put("k", b""), lambda: list(on(service).list(""))):
        with pytest.raises(Denied, match="Access Denied: no credentials") as raised:
            verb()
        assert "profile=" in str(raised.value.hint)
    assert service.asked == []


def test_profile(home: Path, service: StandIn) -> None:
    (home / "credentials").write_text(
        "[default]\naws_access_key_id=DEFAULT\naws_secret_access_key=d\n"
        "[models]\naws_access_key_id=MODELS\naws_secret_access_key=m\naws_session_token=session\n"
    )
    service.answers(reply(200, "<ListBucketResult></ListBucketResult>", ETag='"1"'))
    for options in ("profile=models", ""):
        store = on(service, options)
        store.put("k", b"")
        assert list(store.list("")) == []
    assert asked_by(service) == ["MODELS", "MODELS", "DEFAULT", "DEFAULT"]
    tokens = [asked.headers.get("X-Amz-Security-Token") for asked in service.asked]
    assert tokens == ["session", "session", None, None]


def test_region_of_the_profile(home: Path, service: StandIn) -> None:
    (home / "config").write_text("[profile models]\nregion=eu-central-1\n")
    (home / "credentials").write_text("[models]\naws_access_key_id=A\naws_secret_access_key=b\n")
    service.answers(reply(200, ETag='"1"'))
    on(service, "profile=models").put("k", b"")
    on(service, "profile=models&region=eu-west-1").put("k", b"")
    regions = [asked.headers["Authorization"].split("/")[2] for asked in service.asked]
    assert regions == ["eu-central-1", "eu-west-1"]


def test_role(
    home: Path, service: StandIn, moto: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assumed once, with the source's credentials, and used on both ways."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.url)
    service.answers(reply(200, "<ListBucketResult></ListBucketResult>", ETag='"1"'))
    role = "arn:aws:iam::123456789012:role/replicator"
    store = on(service, f"role_arn={role}", keyed(ACCESS_KEY, SECRET_KEY))
    store.put("k", b"")
    assert list(store.list("")) == []
    put, listed = service.asked
    assert put.headers["X-Amz-Security-Token"] == listed.headers["X-Amz-Security-Token"]
    assert ACCESS_KEY not in asked_by(service)


def test_role_that_may_not_be_assumed(
    home: Path, service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.url)
    service.answers(
        reply(
            403,
            "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            "</ErrorResponse>",
        )
    )
    store = on(service, "role_arn=arn:aws:iam::123456789012:role/r", keyed(ACCESS_KEY, SECRET_KEY))
    with pytest.raises(Denied, match="the role cannot be assumed") as raised:
        store.put("k", b"")
    assert raised.value.hint
    service.answers(refusal(503, "Throttling"))
    with pytest.raises(Throttled):
        store.put("k", b"")


def test_credentials_are_renewed_before_they_expire(home: Path, service: StandIn) -> None:
    served = 0

    def renew() -> dict[str, str]:
        nonlocal served
        served += 1
        lives = timedelta(seconds=1) if served < 3 else timedelta(hours=1)
        return {
            "access_key": f"KEY{served}",
            "secret_key": "s",
            "token": "t",
            "expiry_time": (datetime.now(UTC) + lives).isoformat(),
        }

    session = Session()
    session._credentials = RefreshableCredentials.create_from_metadata(renew(), renew, "test")
    service.answers(reply(200, ETag='"1"'))
    store = on(service, session=session)
    for _ in range(3):
        store.put("k", b"")
    assert asked_by(service)[-1] == "KEY3"


def test_renewed_credentials_that_have_expired_already(home: Path, service: StandIn) -> None:
    """By either way, `Denied`, as for anything else that a person has to mend."""
    past = {"access_key": "K", "secret_key": SECRET_KEY, "token": "t"}
    past["expiry_time"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    session = Session()
    session._credentials = RefreshableCredentials.create_from_metadata(past, lambda: past, "test")
    store = on(service, session=session)
    for verb in (lambda: store.put("k", b""), lambda: list(store.list(""))):
        with pytest.raises(Denied, match="Access Denied") as raised:
            verb()
        assert SECRET_KEY not in f"{raised.value} {raised.value.__cause__}"


# ---------------------------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("authority") / "stand-in.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def secured(authority: Path) -> Iterator[StandIn]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    with standing_in(context) as stand_in:
        yield stand_in


def test_unknown_authority(secured: StandIn) -> None:
    secured.answers(reply(200))
    store = on(secured, session=keyed(ACCESS_KEY, SECRET_KEY))
    for verb in (lambda: store.put("k", b""), lambda: list(store.list(""))):
        with pytest.raises(StoreError, match="certificate is not accepted") as raised:
            verb()
        assert "ca_bundle" in str(raised.value.hint)
        assert not raised.value.retryable
    assert secured.asked == []


@pytest.mark.parametrize("how", ["option", "environment"])
def test_named_authority(
    how: str, secured: StandIn, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    options = f"ca_bundle={authority}" if how == "option" else ""
    store = on(secured, options, keyed(ACCESS_KEY, SECRET_KEY))
    body = bytes(range(256)) * 10_000
    secured.answers(reply(200, ETag='"1"'), reply(200, body, ETag='"1"'))
    store.put("k", body)
    assert secured.asked[0].body == body
    assert read_bytes(store, "k")[0] == body
    assert secured.connections == 1
    secured.answers(reply(200, "<ListBucketResult></ListBucketResult>"))
    assert list(store.list("")) == []


# --------------------------------------------------------------------------------------- proxies


def test_plain_http_through_a_proxy(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is asked for the whole URL, on both ways, and told who we are."""
    monkeypatch.setenv("http_proxy", service.url.replace("http://", "http://me:pa%20ss@"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    url = "s3://models?endpoint=http://store.invalid:9000&insecure=true&dialect=aws"
    store = open_store(StoreURL.parse(url), session=keyed(ACCESS_KEY, SECRET_KEY))
    service.answers(reply(200, "<ListBucketResult></ListBucketResult>", ETag='"1"'))
    store.put("k", b"x")
    assert list(store.list("")) == []
    put, listed = service.asked
    assert put.target == "http://store.invalid:9000/models/k"
    assert put.headers["Host"] == "store.invalid:9000"
    assert listed.target.startswith("http://store.invalid:9000/models?")
    assert put.headers["Proxy-Authorization"] == "Basic bWU6cGEgc3M="


def test_https_through_a_tunnel(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", service.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    store = open_store(
        StoreURL.parse("s3://models?endpoint=https://store.invalid&dialect=aws"),
        session=keyed(ACCESS_KEY, SECRET_KEY),
    )
    service.answers(reply(403))
    with pytest.raises(StoreError, match="connection broke"):
        store.put("k", b"x")
    assert [(asked.method, asked.target) for asked in service.asked] == [
        ("CONNECT", "store.invalid:443")
    ]
