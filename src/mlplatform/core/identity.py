"""Part of the `rollout` section of `topology.yaml`: whose word counts for who approves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mlplatform.core.section import OneOrMore, RegionName, Section

GITHUB = "https://token.actions.githubusercontent.com"
"""Who issues the tokens of GitHub Actions (GitHub Docs, OpenID Connect reference)."""


def _https(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        raise PydanticCustomError(
            "issuer", "must be an https:// URL without a query, as the issuer's tokens have it"
        )
    if parts.username or parts.password:
        raise PydanticCustomError("issuer", "carries credentials; these belong elsewhere")
    return text


NotEmpty = Annotated[str, Field(min_length=1)]


class Issuer(Section):
    """Somebody whose tokens are believed (OpenID Connect)."""

    url: Annotated[str, AfterValidator(_https)]
    """To the letter what its tokens have as `iss`; a slash at the end counts."""
    audience: NotEmpty = "mlplatform"
    """For whom a token has to be made: one for somebody else proves nothing here."""
    variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """The environment variable that has the token: GitLab's `id_tokens`. None: GitHub Actions is
    asked for one, where it runs this."""
    claim: NotEmpty = "sub"
    """Which claim is the name that `approvers` lists."""
    claims: Mapping[str, NotEmpty] = Field(default_factory=dict)
    """Claims that a token must have, to the letter: `repository: org/name`."""

    @model_validator(mode="after")
    def _says_whose(self) -> Self:
        if self.claim != "sub" and not self.claims:
            raise PydanticCustomError(
                "claim",
                "{claim} alone does not say from where a token comes: anybody's pipeline at that "
                "issuer may have it; add claims, such as repository: org/name",
                {"claim": self.claim},
            )
        return self


class Believed(Section):
    """Whose word counts. Nobody's: a name that somebody types stays unverified."""

    clusters: Annotated[tuple[RegionName, ...], OneOrMore] | None = None
    """The regions whose API servers are asked who we are; by default all that name a cluster."""
    issuers: tuple[Issuer, ...] = (Issuer(url=GITHUB),)
    """Of tokens in a pipeline."""
