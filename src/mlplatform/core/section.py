"""What sections of `topology.yaml` are made of: a frozen shape, and the kinds of values in it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from mlplatform.core.errors import UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.store_url import StoreURL


def store_url(value: object) -> StoreURL:
    if isinstance(value, StoreURL):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("store_url", "must be a store URL, such as s3://bucket")
    try:
        url = StoreURL.parse(value)
    except UsageError as error:
        said = f"{error}; {error.hint}" if error.hint else str(error)
        raise PydanticCustomError("store_url", "{said}", {"said": said}) from error
    if url.scheme == "file" and (url.authority not in {"", "localhost"} or not url.path.strip("/")):
        raise PydanticCustomError(
            "store_url",
            "{url} is not an absolute path: every process must find the same folder, wherever it "
            "runs; write file:///srv/models",
            {"url": repr(value)},
        )
    return url


def _web_url(value: object) -> str:
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise PydanticCustomError("web_url", "must be an http:// or https:// URL")
    if parts.username or parts.password:
        raise PydanticCustomError("web_url", "carries credentials; these belong elsewhere")
    return str(value)


def _name(what: str) -> PlainValidator:
    def check(value: object) -> str:
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "must be text")
        try:
            ModelVersion(value, "v0")  # one rule for all names: they become parts of keys and flags
        except UsageError as error:
            raise PydanticCustomError(
                "name",
                "{name} cannot be the name of a {what}: {hint}",
                {"name": repr(value), "what": what, "hint": str(error.hint)},
            ) from error
        return value

    return PlainValidator(check)


def as_list(value: object) -> object:
    """One value where a list of them is meant."""
    return [value] if isinstance(value, str | StoreURL) else value


Store = Annotated[StoreURL, PlainValidator(store_url), PlainSerializer(lambda url: url.text)]
WebURL = Annotated[str, PlainValidator(_web_url)]
RegionName = Annotated[str, _name("region")]
ModelName = Annotated[str, _name("model")]
Version = Annotated[str, _name("version")]
OneOrMore = BeforeValidator(as_list)


class Section(BaseModel):
    """A frozen part of the file. A key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
