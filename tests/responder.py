r"""A small server of the Open Inference Protocol, which can be told what ails it. It needs the
standard library alone, and starts in a moment.

    python tests/responder.py --port 8101 --region us-east-1 \
        --model resnet50=v1.2.0=blake3:… --store /srv/mlplatform/us-east-1

It answers `/health`, `/v2/health/live`, `/v2/health/ready`, `/v2/models/{m}` (with `digest`),
`POST /v2/repository/index`, `/v2/models/{m}/infer` and `/metrics`. An inference is answered from
the golden requests in `<store>/models/<model>/<version>/golden.ndjson`, and where it is none of
these, with the sum of what was given.

What ails it is told by `POST /admin`, in JSON; what is left out stays:

    {"delay_seconds": 0.6}                 answers late
    {"status": 503}                        answers so to all but /admin and /metrics; 0 ends it
    {"models": {"resnet50": "wrong"}}      that model's outputs are others; "error"; "ok" ends it
    {"lame_duck": true}                    not ready, and every answer ends its connection
    {"versions": {"resnet50": ["v1.3.0", "blake3:…"]}}     serves that one now
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

JSON = dict[str, Any]
RESPONDER = __file__
"""As a program, for any interpreter."""


@dataclass(slots=True)
class Ailment:
    """What is wrong with the server just now."""

    delay_seconds: float = 0.0
    status: int = 0
    lame_duck: bool = False
    models: dict[str, str] = field(default_factory=dict)


class Responder:
    """What it serves, and how it is."""

    def __init__(
        self, models: dict[str, tuple[str, str]], *, region: str = "", store: Path | None = None
    ) -> None:
        """`models`: version and digest by name."""
        self.models = dict(models)
        self.region = region
        self.store = store
        self.ailment = Ailment()
        self.requests: Counter[tuple[str, str]] = Counter()
        """Inferences by model and version."""
        self.lock = threading.Lock()
        self._golden: dict[tuple[str, str], dict[str, list[JSON]]] = {}

    def admin(self, told: JSON) -> JSON:
        """Change how it is; how it is then. `ValueError` for what it does not know."""
        known = {"delay_seconds", "status", "lame_duck", "models", "versions"}
        if unknown := told.keys() - known:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        with self.lock:
            ailment = self.ailment
            ailment.delay_seconds = float(told.get("delay_seconds", ailment.delay_seconds))
            ailment.status = int(told.get("status", ailment.status))
            ailment.lame_duck = bool(told.get("lame_duck", ailment.lame_duck))
            ailment.models |= told.get("models", {})
            for model, (version, digest) in told.get("versions", {}).items():
                self.models[model] = (str(version), str(digest))
            return {
                "delay_seconds": ailment.delay_seconds,
                "status": ailment.status,
                "lame_duck": ailment.lame_duck,
                "models": dict(ailment.models),
                "versions": {name: list(told) for name, told in self.models.items()},
            }

    def infer(self, model: str, request: JSON) -> tuple[int, JSON]:
        """The answer to an inference."""
        version, _ = self.models[model]
        ail = self.ailment.models.get(model, "ok")
        with self.lock:
            self.requests[model, version] += 1
        if ail == "error":
            return 500, {"error": f"{model} is told to fail"}
        outputs = self._known(model, version).get(_key(request)) or [_total(request)]
        if ail == "wrong":
            outputs = [{**each, "data": [0.0 for _ in each["data"]]} for each in outputs]
        return 200, {"model_name": model, "model_version": version, "outputs": outputs}

    def _known(self, model: str, version: str) -> dict[str, list[JSON]]:
        """The outputs of golden requests, by input."""
        if self.store is None:
            return {}
        if (model, version) not in self._golden:
            path = self.store / "models" / model / version / "golden.ndjson"
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            golden = [json.loads(line) for line in lines if line.strip()]
            if not golden:
                return {}  # they may yet come
            self._golden[model, version] = {
                _key(each["request"]): each["expect"]["outputs"] for each in golden
            }
        return self._golden[model, version]


def _key(request: JSON) -> str:
    return json.dumps(request.get("inputs"), sort_keys=True)


def _total(request: JSON) -> JSON:
    """Any function will do, as long as it gives the same for the same."""
    total = 0.0
    for each in request.get("inputs") or []:
        data = each.get("data") if isinstance(each, dict) else None
        total += sum(value for value in data or [] if isinstance(value, int | float))
    return {"name": "sum", "datatype": "FP64", "shape": [1], "data": [total]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    wbufsize = 65536  # head and body in one packet, else Nagle holds the second back for 40 ms
    responder: Responder

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = self.path.partition("?")[0]
        try:
            told = json.loads(body) if body else {}
        except ValueError:
            self._answer(400, {"error": "not JSON"})
            return
        if path == "/admin" and self.command == "POST":
            self._admin(told)
        elif path == "/metrics":
            self._send(200, self._metrics().encode(), "text/plain; version=0.0.4")
        else:
            ailment = self.responder.ailment
            if ailment.delay_seconds:
                time.sleep(ailment.delay_seconds)
            if ailment.status:
                self._answer(ailment.status, {"error": "told to answer so"})
            else:
                self._answer(*self._route(path, told))

    def _route(self, path: str, told: JSON) -> tuple[int, JSON]:
        responder = self.responder
        if path in {"/health", "/v2/health/live"}:
            return 200, {"status": "ok"}
        if path == "/v2/health/ready":
            return (
                (503, {"ready": False}) if responder.ailment.lame_duck else (200, {"ready": True})
            )
        if path == "/v2/repository/index":
            return 200, {"models": self._index()}
        parts = path.strip("/").split("/")
        if parts[:2] == ["v2", "models"] and len(parts) in {3, 4}:
            model = parts[2]
            if model not in responder.models:
                return 404, {"error": f"no model {model}"}
            if parts[3:] == ["infer"] and self.command == "POST":
                return responder.infer(model, told)
            if len(parts) == 3:
                version, digest = responder.models[model]
                return 200, {"name": model, "versions": [version], "digest": digest}
        return 404, {"error": f"no {path}"}

    def _index(self) -> list[JSON]:
        ready = not self.responder.ailment.lame_duck
        return [
            {
                "name": name,
                "version": version,
                "digest": digest,
                "state": "READY" if ready else "UNAVAILABLE",
            }
            for name, (version, digest) in self.responder.models.items()
        ]

    def _metrics(self) -> str:
        lines = ["# TYPE model_serving_requests_total counter"]
        with self.responder.lock:
            counted = sorted(self.responder.requests.items())
        for (model, version), count in counted:
            labels = f'region="{self.responder.region}",model="{model}",version="{version}"'
            lines.append(f"model_serving_requests_total{{{labels}}} {count}")
        return "\n".join(lines) + "\n"

    def _admin(self, told: JSON) -> None:
        try:
            self._answer(200, self.responder.admin(told))
        except (ValueError, TypeError) as error:
            self._answer(400, {"error": str(error)})

    def _answer(self, status: int, told: JSON | list[JSON]) -> None:
        self._send(status, json.dumps(told).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.responder.region:
            self.send_header("X-Mlplatform-Region", self.responder.region)
        if self.responder.ailment.lame_duck:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of our business."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def open_server(responder: Responder, *, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback, not serving yet; port 0 is any that is free."""
    handler = type("_Bound", (_Handler,), {"responder": responder})
    return _Server(("127.0.0.1", port), handler)


def _model(text: str) -> tuple[str, tuple[str, str]]:
    name, version, digest = (*text.split("=", 2), "", "")[:3]
    if not name or not version:
        raise argparse.ArgumentTypeError(f"{text}: not NAME=VERSION=DIGEST")
    return name, (version, digest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python tests/responder.py")
    parser.add_argument("--port", type=int, required=True, help="on loopback; 0 is any free one")
    parser.add_argument(
        "--model",
        type=_model,
        action="append",
        default=[],
        metavar="NAME=VERSION=DIGEST",
        help="what it serves; repeat it",
    )
    parser.add_argument("--region", default="", help="what it says of itself")
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="a region's store, for golden requests"
    )
    given = parser.parse_args(arguments)
    responder = Responder(dict(given.model), region=given.region, store=given.store)
    server = open_server(responder, port=given.port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"ready http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 - a program
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
