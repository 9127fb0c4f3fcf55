"""Who an issuer of OpenID Connect tokens says that we are: the pipelines of GitHub and GitLab.

The issuer is the topology's, never the token's own; its keys come from it over verified TLS
(OpenID Connect Discovery 1.0). Only algorithms with a public key are accepted, whatever a token
says of itself (RFC 8725, sections 3.1 and 3.2). The token is in no error.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import jwt

from mlplatform.adapters.json_http import JSONService
from mlplatform.core.errors import Denied, MlplatformError, Unavailable, UsageError
from mlplatform.core.identity import Issuer
from mlplatform.ports.identity import Identity

_ALGORITHMS = [
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
]
_NEEDED = ["iss", "sub", "aud", "exp", "iat"]
"""An ID token has them (OpenID Connect Core 1.0, section 2)."""
_LEEWAY_SECONDS = 30.0
"""By which clocks may differ."""
_TOKEN_CHARACTERS_MOST = 64 * 1024
_NAME_CHARACTERS_MOST = 512
_TIMEOUT_SECONDS = 10.0
_REQUEST_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
_REQUEST_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105 - a variable's name

_SAID: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidIssuedAtError, "when it was issued is no time"),
    (jwt.InvalidAudienceError, "it was made for somebody else, not for {audience}"),
    (jwt.InvalidIssuerError, "another issued it"),
    (jwt.InvalidSignatureError, "it is not signed by a key of the issuer"),
    (jwt.InvalidAlgorithmError, "it is signed by a method that is not accepted"),
    (jwt.MissingRequiredClaimError, "a claim is missing that every ID token has"),
)
"""The first that fits; of any other error: it is no token."""


def open_voucher(issuer: Issuer, environ: Mapping[str, str]) -> OidcVoucher:
    """An issuer, and the token that the environment has for it or the way to one. Nothing is asked
    of anybody yet."""
    return OidcVoucher(issuer, token_of(issuer, environ))


class OidcVoucher:
    """A `Voucher`: one issuer. `token` gets what is shown, None where there is nothing."""

    def __init__(
        self,
        issuer: Issuer,
        token: Callable[[], str | None],
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._issuer = issuer
        self._token = token
        self._context = context

    @property
    def name(self) -> str:
        return self._issuer.url

    def vouch(self) -> Identity | None:
        """The name in the claim that the topology chose, of a token that is verified."""
        token = self._token()
        if token is None:
            return None
        claims = self._verified(token)
        for claim, wanted in self._issuer.claims.items():
            if claims.get(claim) != wanted:
                raise self._refused(f"its claim {claim} is not {wanted}")
        name = claims.get(self._issuer.claim)
        if not isinstance(name, str) or not 0 < len(name) <= _NAME_CHARACTERS_MOST:
            raise self._refused(f"its claim {self._issuer.claim} is no name")
        return Identity(name, self.name)

    def _verified(self, token: str) -> Mapping[str, Any]:
        """The claims of a token that the issuer has signed, for us, and that is valid now."""
        if len(token) > _TOKEN_CHARACTERS_MOST:
            raise self._refused("it is no token")
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            raise self._refused("it is no token") from None
        key = self._key(key_id)
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._issuer.audience,
                issuer=self._issuer.url,
                leeway=_LEEWAY_SECONDS,
                options={"require": _NEEDED},
            )
        except jwt.PyJWTError as error:
            raise self._refused(self._said(error)) from None
        return claims

    def _key(self, key_id: object) -> jwt.PyJWK:
        """The issuer's key of that name; without a name its only one."""
        found = self._get(f"{self.name.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.name:
            raise Unavailable("what answers is not that issuer", store=self.name)
        keys = self._get(str(found.get("jwks_uri", ""))).get("keys")
        usable = []
        for each in keys if isinstance(keys, list) else ():
            if not isinstance(each, dict) or each.get("use", "sig") != "sig":
                continue
            try:
                usable.append(jwt.PyJWK(each))
            except jwt.PyJWTError:
                continue  # of a kind that we do not know; another may be the one
        named = [key for key in usable if key.key_id == key_id] if key_id is not None else usable
        if len(named) != 1 or named[0].algorithm_name not in _ALGORITHMS:
            raise self._refused("it is not signed by a key of the issuer")
        return named[0]

    def _get(self, url: str) -> Mapping[str, Any]:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise Unavailable("its keys are not to be had over https", store=self.name)
        service = JSONService(
            f"https://{parts.netloc}", timeout_seconds=_TIMEOUT_SECONDS, context=self._context
        )
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        found = service.json("GET", path, what="its keys")
        if not isinstance(found, dict):
            raise Unavailable("what answers is not that issuer", store=self.name)
        return found

    def _said(self, error: jwt.PyJWTError) -> str:
        for kind, said in _SAID:
            if isinstance(error, kind):
                return said.format(audience=self._issuer.audience)
        return "it is no token"

    def _refused(self, said: str) -> Denied:
        return Denied(
            f"the token is not accepted: {said}",
            store=self.name,
            hint="rollout.waves.identity.issuers in the topology says what a token has to be like",
        )


def token_of(
    issuer: Issuer, environ: Mapping[str, str], *, context: ssl.SSLContext | None = None
) -> Callable[[], str | None]:
    """Where the token is, or the one who gives it: for GitHub Actions the runner.
    https://docs.github.com/actions/reference/security/oidc"""

    def in_variable() -> str | None:
        return environ.get(issuer.variable or "", "").strip() or None

    def of_runner() -> str | None:
        url, bearer = environ.get(_REQUEST_URL), environ.get(_REQUEST_TOKEN)
        if not url or not bearer:
            if environ.get("GITHUB_ACTIONS") == "true":
                raise UsageError(
                    "the job may not ask for a token",
                    hint="give it `permissions: {id-token: write}`",
                )
            return None
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise Denied(f"{_REQUEST_URL} is no https:// URL", store=issuer.url)
        service = JSONService(
            f"https://{parts.netloc}",
            timeout_seconds=_TIMEOUT_SECONDS,
            headers={"Authorization": f"Bearer {bearer}"},
            context=context,
        )
        query = f"{parts.query}&" if parts.query else ""
        path = f"{parts.path}?{query}audience={quote(issuer.audience, safe='')}"
        told = service.json("GET", path, what="a token")
        token = told.get("value") if isinstance(told, dict) else None
        if not isinstance(token, str) or not token:
            raise MlplatformError("the runner gave no token")
        return token

    return in_variable if issuer.variable is not None else of_runner
