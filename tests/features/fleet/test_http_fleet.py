"""A region's servers at their endpoint: what they hold, when they are ready, and lame ducks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.admin_door import TOKEN, TOKEN_FILE, admin_token
from mlplatform.adapters.http_fleet import HttpFleet, open_fleet
from mlplatform.core.errors import (
    Denied,
    MlplatformError,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Served
from tests.responder import RESPONDER

RESNET = Served({"v1.2.0": "blake3:aa"}, 1)
BOTH = frozenset({"resnet50", "bert"})

Answer = tuple[int, Any]
Answers = Mapping[str, Answer | Callable[[Mapping[str, str], bytes], Answer]]
"""By method and path; what is not there is answered by 404."""


@contextmanager
def server(answers: Answers) -> Iterator[tuple[str, list[str]]]:
    """A server that answers so: its URL, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            question = f"{self.command} {self.path}"
            asked.append(question)
            said = answers.get(question, (404, {"error": "unknown"}))
            status, told = said(self.headers, body) if callable(said) else said  # type: ignore[arg-type]
            sent = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = answer  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", asked
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def entry(name: str, version: str, digest: str | None = None, **more: Any) -> dict[str, Any]:
    stated = {} if digest is None else {"digest": digest}
    return {"name": name, "version": version, "state": "READY", **stated, **more}


READY: Answers = {"GET /v2/health/ready": (200, b"")}


def served(
    answers: Answers, models: frozenset[str] = frozenset({"resnet50"})
) -> Mapping[str, Served | Unknown]:
    with server(answers) as (url, _):
        return open_fleet(url, environ={}).served(models)


# --- a real process ------------------------------------------------------------------------------


@pytest.fixture
def responder() -> Iterator[str]:
    """The demo's model server, as a process."""
    process = subprocess.Popen(
        [
            *(sys.executable, RESPONDER, "--port", "0"),
            *("--model", "resnet50=v1.2.0=blake3:aa", "--model", "bert=v3=blake3:bb"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


def test_what_a_server_holds_and_a_lame_duck(responder: str) -> None:
    fleet = open_fleet(responder, environ={})
    assert fleet.served(BOTH | {"absent"}) == {
        "resnet50": RESNET,
        "bert": Served({"v3": "blake3:bb"}, 1),
        "absent": Served(),
    }
    fleet.lame_duck(enter=True)
    assert fleet.served(BOTH) == {"resnet50": Served(), "bert": Served()}
    fleet.lame_duck(enter=False)
    assert fleet.served(BOTH)["resnet50"] == RESNET


def test_a_server_that_is_gone() -> None:
    fleet = open_fleet("http://127.0.0.1:1", environ={})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        fleet.served(BOTH)
    assert open_fleet("http://127.0.0.1:1", environ={}).served(frozenset()) == {}


# --- what servers say ----------------------------------------------------------------------------

INDEXES: dict[str, tuple[Any, Served | str]] = {
    "one version": ([entry("resnet50", "v1.2.0", "blake3:aa")], RESNET),
    "a list inside an object": ({"models": [entry("resnet50", "v1.2.0", "blake3:aa")]}, RESNET),
    "no state is stated": (
        [{"name": "resnet50", "version": "v1.2.0", "digest": "blake3:aa"}],
        RESNET,
    ),
    "nothing": ([], Served()),
    "another model": ([entry("bert", "v3", "blake3:bb")], Served()),
    "loading": ([entry("resnet50", "v1.2.0", "blake3:aa", state="LOADING")], Served()),
    "one is loading beside": (
        [
            entry("resnet50", "v1.2.0", "blake3:aa"),
            entry("resnet50", "v1.3.0", "blake3:cc", state="LOADING"),
        ],
        RESNET,
    ),
    "a canary": (
        [
            entry("resnet50", "v1.2.0", "blake3:aa"),
            entry("resnet50", "v1.3.0", "blake3:cc", canary=True),
        ],
        Served({"v1.2.0": "blake3:aa", "v1.3.0": "blake3:cc"}, 1, canary="v1.3.0"),
    ),
    "a canary alone is none": (
        [entry("resnet50", "v1.3.0", "blake3:cc", canary=True)],
        Served({"v1.3.0": "blake3:cc"}, 1),
    ),
    "a measured rate": (
        [entry("resnet50", "v1.2.0", "blake3:aa", requests_per_second=42)],
        Served({"v1.2.0": "blake3:aa"}, 1, 42.0),
    ),
    "a rate that is none": (
        [entry("resnet50", "v1.2.0", "blake3:aa", requests_per_second=-1)],
        RESNET,
    ),
}


@pytest.mark.parametrize("what", INDEXES)
def test_what_the_index_says(what: str) -> None:
    index, expected = INDEXES[what]
    answers = {**READY, "GET /v2/repository/index": (200, index)}
    assert served(answers) == {"resnet50": expected}


TWO = [entry("resnet50", "v1.1.0", "blake3:99"), entry("resnet50", "v1.2.0", "blake3:aa")]
METADATA: dict[str, tuple[Any, Any, Served | str]] = {
    "its digest tells which of two answers": (
        TWO,
        {"name": "resnet50", "versions": ["v1.1.0", "v1.2.0"], "digest": "blake3:aa"},
        RESNET,
    ),
    "its version does": (TWO, {"version": "v1.2.0"}, RESNET),
    "nothing does": (
        TWO,
        {"versions": ["v1.1.0", "v1.2.0"]},
        "which version answers is not stated; loaded: v1.1.0, v1.2.0",
    ),
    "the digest is there alone": (
        [entry("resnet50", "v1.2.0")],
        {"versions": ["v1.2.0"], "digest": "blake3:aa"},
        RESNET,
    ),
    "no digest anywhere": (
        [entry("resnet50", "v1.2.0")],
        {"versions": ["v1.2.0"]},
        Served({"v1.2.0": ""}, 1),
    ),
    "no version in the index": (
        [entry("resnet50", "")],
        {"versions": ["v1.2.0"], "version": "v1.2.0", "digest": "blake3:aa"},
        RESNET,
    ),
    "not an object": (TWO, ["v1.2.0"], "its metadata is not an object"),
}


@pytest.mark.parametrize("what", METADATA)
def test_where_the_index_says_too_little_the_metadata_is_asked(what: str) -> None:
    index, metadata, expected = METADATA[what]
    found = served(
        {
            **READY,
            "GET /v2/repository/index": (200, index),
            "GET /v2/models/resnet50": (200, metadata),
        }
    )["resnet50"]
    if isinstance(expected, str):
        assert isinstance(found, Unknown)
        assert expected in found.reason
    else:
        assert found == expected


@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_server_that_is_not_ready_holds_nothing(status: int) -> None:
    assert served({"GET /v2/health/ready": (status, b"")}, BOTH) == dict.fromkeys(BOTH, Served())


REFUSALS: dict[str, tuple[Answers, type[MlplatformError]]] = {
    "a gateway that reaches nobody": ({"GET /v2/health/ready": (502, b"")}, Unavailable),
    "a gateway that waits in vain": ({"GET /v2/health/ready": (504, b"")}, Unavailable),
    "no right": ({"GET /v2/health/ready": (403, b"")}, Denied),
    "a page": ({**READY, "GET /v2/repository/index": (200, b"<html>")}, Unavailable),
    "another service's JSON": ({**READY, "GET /v2/repository/index": (200, {"a": 1})}, Unavailable),
    "a list of words": ({**READY, "GET /v2/repository/index": (200, ["a"])}, Unavailable),
    "an index that fails": ({**READY, "GET /v2/repository/index": (500, b"")}, Unavailable),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_read_is_an_error_and_never_nothing(what: str) -> None:
    answers, kind = REFUSALS[what]
    with pytest.raises(kind):
        served(answers)


def test_an_index_that_wants_a_post() -> None:
    index = [entry("resnet50", "v1.2.0", "blake3:aa")]
    assert served(
        {
            **READY,
            "GET /v2/repository/index": (405, b""),
            "POST /v2/repository/index": (200, index),
        }
    ) == {"resnet50": RESNET}


def test_two_questions_tell_two_thousand_models() -> None:
    models = frozenset(f"m{number}" for number in range(2000))
    index = [entry(model, "v1", "blake3:aa") for model in models]
    with server({**READY, "GET /v2/repository/index": (200, index)}) as (url, asked):
        found = open_fleet(url, environ={}).served(models)
    assert found == dict.fromkeys(models, Served({"v1": "blake3:aa"}, 1))
    assert asked == ["GET /v2/health/ready", "GET /v2/repository/index"]


def test_without_an_index_models_are_asked_one_by_one_and_not_without_end() -> None:
    models = frozenset(f"m{number:04}" for number in range(100))
    answers: Answers = {
        **READY,
        **{f"GET /v2/models/{model}/ready": (200, b"") for model in models},
        **{
            f"GET /v2/models/{model}": (200, {"versions": ["v1"], "digest": "blake3:aa"})
            for model in models
        },
        "GET /v2/models/m0001/ready": (400, b""),
    }
    with server(answers) as (url, asked):
        found = open_fleet(url, environ={}).served(models)
    assert found["m0000"] == Served({"v1": "blake3:aa"}, 1)
    assert found["m0001"] == Served()
    assert isinstance(found["m0099"], Unknown)
    assert len(asked) < 140


# --- asking for something ------------------------------------------------------------------------


def test_nobody_scales_what_is_behind_an_endpoint() -> None:
    with pytest.raises(Unsupported, match="resnet50") as raised:
        open_fleet("http://127.0.0.1:1", environ={}).ask_capacity("resnet50", 4)
    assert raised.value.hint


def lame_duck(environ: Mapping[str, str], *, door: str = "secret") -> list[bytes]:
    """Ask a server whose door opens to that token."""
    heard: list[bytes] = []

    def admin(headers: Mapping[str, str], body: bytes) -> Answer:
        if headers["Authorization"] != f"Bearer {door}":
            return 401, {"error": "no"}
        heard.append(body)
        return 200, {}

    with server({"POST /admin": admin}) as (url, _):
        open_fleet(url, environ=environ).lame_duck(enter=True)
    return heard


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (file := tmp_path / "token").write_text("secret\n")
    assert lame_duck({TOKEN: "secret"}) == [b'{"lame_duck": true}']
    assert lame_duck({TOKEN: "old", TOKEN_FILE: str(file)}) == [b'{"lame_duck": true}']


def test_a_token_that_is_not_accepted_is_not_repeated() -> None:
    for environ in ({TOKEN: "mine"}, {}):
        with pytest.raises(Denied) as raised:
            lame_duck(environ)
        assert "mine" not in f"{raised.value} {raised.value.hint}"
        assert TOKEN_FILE in str(raised.value.hint)


@pytest.mark.parametrize("token", ["two\nlines", "schlüssel"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(UsageError) as raised:
        admin_token({TOKEN: token})
    assert token not in str(raised.value)


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=TOKEN_FILE):
        admin_token({TOKEN_FILE: str(tmp_path / "none")})


def test_the_token_never_travels_in_clear() -> None:
    fleet = HttpFleet("http://models.example", lambda: "secret")
    with pytest.raises(UsageError, match="in clear") as raised:
        fleet.lame_duck(enter=True)
    assert "secret" not in str(raised.value)


def test_servers_without_an_admin_door() -> None:
    with server({}) as (url, _), pytest.raises(Unsupported, match="lame duck"):
        open_fleet(url, environ={}).lame_duck(enter=True)
