"""What the model server is measured against: the same answer to the same request, by Starlette
with msgspec, and by FastAPI with pydantic models; neither has a model or a queue behind it."""

from __future__ import annotations

from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATH = "/v2/models/{model}/infer"
_JSON = "application/json"


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _InferRequest(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""


_decoder = msgspec.json.Decoder(_InferRequest)
_encoder = msgspec.json.Encoder()


async def _echo(request: Request) -> Response:
    told = _decoder.decode(await request.body())
    (given,) = told.inputs
    answer = {
        "model_name": request.path_params["model"],
        "model_version": "v1",
        "outputs": [
            {"name": "y", "datatype": given.datatype, "shape": given.shape, "data": given.data}
        ],
        "id": told.id,
    }
    return Response(_encoder.encode(answer), media_type=_JSON)


def starlette() -> Starlette:
    """Bare: one route, the JSON as msgspec has it."""
    return Starlette(routes=[Route(PATH, _echo, methods=["POST"])])


class Tensor(BaseModel):
    """An input or an output."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferRequest(BaseModel):
    """What FastAPI parses."""

    inputs: list[Tensor]
    id: str = ""


class InferResponse(BaseModel):
    """What FastAPI writes."""

    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str = ""


def fastapi() -> FastAPI:
    """As its guide has it: models for the request and for the answer."""
    app = FastAPI()

    @app.post(PATH)
    async def infer(model: str, request: InferRequest) -> InferResponse:
        (given,) = request.inputs
        output = Tensor(name="y", shape=given.shape, datatype=given.datatype, data=given.data)
        return InferResponse(model_name=model, model_version="v1", outputs=[output], id=request.id)

    return app


APPS: dict[str, Any] = {"starlette": starlette, "fastapi": fastapi}


def main(name: str, port: int) -> None:
    """Serve one of them on loopback, as the model server is served."""
    uvicorn.run(
        APPS[name](),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
