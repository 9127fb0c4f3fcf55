"""Tokens of pipelines: one that is right names somebody; every other way is refused, and no error
holds the token."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from mlplatform.adapters.oidc import OidcVoucher, token_of
from mlplatform.core.errors import Denied, MlplatformError, Unavailable, UsageError
from mlplatform.core.identity import GITHUB, Issuer
from mlplatform.ports.identity import Identity

from .issuer import BEARER, DISCOVERY, SUBJECT, LocalIssuer, ec_key, issuing, rsa_key

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalIssuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as issuer:
        yield issuer


@pytest.fixture
def issuer(served: LocalIssuer) -> LocalIssuer:
    served.begin(served.url)
    served.asked.clear()
    return served


def vouch(issuer: LocalIssuer, token: str | None, **section: Any) -> Identity | None:
    """What the issuer's word is, of a token."""
    told = Issuer(url=issuer.url, **section)
    return OidcVoucher(told, lambda: token, context=issuer.authority.client()).vouch()


def test_a_token_that_is_right_names_its_subject(issuer: LocalIssuer) -> None:
    assert vouch(issuer, issuer.signed()) == Identity(SUBJECT, issuer.url)
    assert issuer.asked == [DISCOVERY, "/keys"]


def test_where_there_is_no_token_nobody_is_asked(issuer: LocalIssuer) -> None:
    assert vouch(issuer, None) is None
    assert not issuer.asked


def test_another_claim_may_be_the_name_of_tokens_that_are_pinned_to_a_place(
    issuer: LocalIssuer,
) -> None:
    section = {"claim": "actor", "claims": {"repository": "acme/platform"}}
    assert vouch(issuer, issuer.signed(), **section) == Identity("alice", issuer.url)
    with pytest.raises(Denied, match="its claim repository is not acme/platform"):
        vouch(issuer, issuer.signed(repository="mallory/platform"), **section)
    with pytest.raises(Denied, match="its claim actor is no name"):
        vouch(issuer, issuer.signed(actor=["alice"]), **section)


def test_a_key_of_another_kind_and_one_without_a_name(issuer: LocalIssuer) -> None:
    assert vouch(issuer, issuer.signed(ec_key(), "ES256", "curve")) is not None
    keys = issuer.documents["/keys"]["keys"]
    issuer.documents["/keys"] = {"keys": [keys[1]]}
    assert vouch(issuer, issuer.signed(kid=None)) is not None


def unsigned(issuer: LocalIssuer) -> str:
    return jwt.encode(issuer.claims(), "", "none", headers={"kid": "one"})


def by_the_public_key(issuer: LocalIssuer) -> str:
    """The public key taken for a shared secret (RFC 8725, section 2.1)."""
    import hashlib
    import hmac

    public = rsa_key("ours").public_key()
    secret = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = issuer.claims()
    for name in ("iat", "nbf", "exp"):
        claims[name] = int(claims[name].timestamp())
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "one"}, claims]
    text = b".".join(_coded(json.dumps(part).encode()) for part in parts)
    return (text + b"." + _coded(hmac.digest(secret, text, hashlib.sha256))).decode()


def changed(issuer: LocalIssuer) -> str:
    """Signed, and then edited."""
    head, body, signature = issuer.signed().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["sub"] = "repo:mallory/platform"
    return f"{head}.{_coded(json.dumps(claims).encode()).decode()}.{signature}"


def _coded(body: bytes) -> bytes:
    return base64.urlsafe_b64encode(body).rstrip(b"=")


NOT_OURS = "not signed by a key of the issuer"
NO_TOKEN = "it is no token"
REFUSED: dict[str, tuple[Callable[[LocalIssuer], str], str]] = {
    "the wrong key": (lambda i: i.signed(rsa_key("another")), NOT_OURS),
    "a key that nobody knows": (lambda i: i.signed(kid="two"), NOT_OURS),
    "several keys and no name": (lambda i: i.signed(kid=None), NOT_OURS),
    "a key that is for something else": (lambda i: i.signed(kid="to-encrypt-with"), NOT_OURS),
    "a shared secret among the keys": (
        lambda i: i.signed(b"secret-secret-secret-secret-secret", "HS256", "shared"),
        NOT_OURS,
    ),
    "the public key as a secret": (by_the_public_key, "method that is not accepted"),
    "no signature": (unsigned, "method that is not accepted"),
    "another method than the key's": (lambda i: i.signed(algorithm="RS512"), "method that is not"),
    "edited": (changed, NOT_OURS),
    "the wrong audience": (lambda i: i.signed(aud="sts.example"), "not for mlplatform"),
    "no audience": (lambda i: i.signed(aud=None), "a claim is missing"),
    "expired": (lambda i: i.signed(exp=datetime.now(UTC) - MINUTE), "it has expired"),
    "for ever": (lambda i: i.signed(exp=None), "a claim is missing"),
    "not yet valid": (lambda i: i.signed(nbf=datetime.now(UTC) + MINUTE), "not valid yet"),
    "issued tomorrow": (lambda i: i.signed(iat=datetime.now(UTC) + MINUTE), "not valid yet"),
    "another issuer": (lambda i: i.signed(iss="https://issuer.test"), "another issued it"),
    "no subject": (lambda i: i.signed(sub=None), "a claim is missing"),
    "an empty subject": (lambda i: i.signed(sub=""), "its claim sub is no name"),
    "a novel for a subject": (lambda i: i.signed(sub="x" * 600), "its claim sub is no name"),
    "no token": (lambda i: "hunter2-hunter2", NO_TOKEN),
    "parts of one": (lambda i: i.signed().rpartition(".")[0], NO_TOKEN),
    "far too long": (lambda i: f"{i.signed()}{'x' * 70_000}", NO_TOKEN),
}


@pytest.mark.parametrize(("made", "said"), REFUSED.values(), ids=REFUSED)
def test_every_other_token_is_refused(
    issuer: LocalIssuer, made: Callable[[LocalIssuer], str], said: str
) -> None:
    token = made(issuer)
    with pytest.raises(Denied, match=said) as raised:
        vouch(issuer, token)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    shown = f"{raised.value} {raised.value.hint}"
    assert not any(part in shown for part in token.split(".") if part)


def test_who_issues_is_the_topology_s_to_say(issuer: LocalIssuer) -> None:
    """One that answers for another, keys without TLS, a certificate that nobody signed."""
    issuer.documents[DISCOVERY] = {"issuer": "https://issuer.test", "jwks_uri": "x"}
    with pytest.raises(Unavailable, match="not that issuer"):
        vouch(issuer, issuer.signed())
    plain = {"issuer": issuer.url, "jwks_uri": "http://127.0.0.1:1/keys"}
    issuer.documents[DISCOVERY] = plain
    with pytest.raises(Unavailable, match="not to be had over https"):
        vouch(issuer, issuer.signed())
    del issuer.documents[DISCOVERY]
    with pytest.raises(MlplatformError):
        vouch(issuer, issuer.signed())
    issuer.begin(issuer.url)
    strict = OidcVoucher(
        Issuer(url=issuer.url), issuer.signed, context=ssl.create_default_context()
    )
    with pytest.raises(Unavailable, match="certificate"):
        strict.vouch()


# --- where tokens come from ---------------------------------------------------------------------


def test_gitlab_s_are_in_a_variable_that_the_topology_names() -> None:
    section = Issuer(url="https://gitlab.test", variable="ROLLOUT_ID_TOKEN")
    assert token_of(section, {"ROLLOUT_ID_TOKEN": " a.b.c\n"})() == "a.b.c"
    assert token_of(section, {"ROLLOUT_ID_TOKEN": ""})() is None
    assert token_of(section, {})() is None


def test_github_s_are_asked_for_where_it_runs_this(issuer: LocalIssuer) -> None:
    issuer.token = issuer.signed()
    environ = {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/runner/token?api-version=2",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
    }
    section = Issuer(url=issuer.url, audience="ml platform&x=1")
    context = issuer.authority.client()
    assert token_of(section, environ, context=context)() == issuer.token
    assert issuer.asked == ["/runner/token?api-version=2&audience=ml%20platform%26x%3D1"]
    wrong = {**environ, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another-secret"}
    with pytest.raises(Denied) as refused:
        token_of(section, wrong, context=context)()
    assert "another-secret" not in str(refused.value)
    plain = {**environ, "ACTIONS_ID_TOKEN_REQUEST_URL": "http://127.0.0.1:1/token"}
    with pytest.raises(Denied, match=r"is no https:// URL"):
        token_of(section, plain, context=context)()


def test_a_job_that_may_not_ask_is_told_what_it_lacks() -> None:
    section = Issuer(url=GITHUB)
    assert token_of(section, {})() is None
    with pytest.raises(UsageError, match="may not ask for a token") as raised:
        token_of(section, {"GITHUB_ACTIONS": "true"})()
    assert raised.value.hint == "give it `permissions: {id-token: write}`"
