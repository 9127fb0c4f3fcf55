"""The protocol's JSON, as types. What is not named here is skipped, as Triton does; nothing here
nests deeper than it says, but for `data`, which stays text until its shape is known."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Parameters = dict[str, str | int | float | bool | None]
Dimension = Annotated[int, msgspec.Meta(ge=0)]


class InputTensor(msgspec.Struct):
    """One input of a request."""

    name: str
    shape: list[Dimension]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.Raw()
    """As it came; empty where there is none."""


class RequestedOutput(msgspec.Struct):
    """An output that the client asks for."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """The body of `POST …/infer`."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """One output of an answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    """The answer to an inference."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""


class LoadRequest(msgspec.Struct):
    """The body of `…/load` and `…/unload`; `version` is ours."""

    parameters: dict[str, Any] | None = None


class IndexRequest(msgspec.Struct):
    """The body of `POST /v2/repository/index`."""

    ready: bool = False
