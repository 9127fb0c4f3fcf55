"""`python -m mlplatform_serving.tools.warmup`: ask a running server the golden requests of its
models until the answers are right and come within the time that is wanted.

Without flags it warms the server of its own pod, as a postStart hook: the server on PORT, the
models of MODEL_CACHE_DIR, and to WARMUP_TARGET_MS. It waits until the server has loaded its models.
A server that is not to be ready before it is warm does the same by itself: WARMUP=true.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlplatform_serving.models.golden import GoldenRequest
from mlplatform_serving.tools import errors
from mlplatform_serving.tools.errors import TooLate, ToolError, Unreachable, Usage
from mlplatform_serving.tools.questions import (
    Served,
    Server,
    default_folder,
    default_url,
    golden_for,
    read_token,
    said_by,
)

_AGAIN_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Warmed:
    """What came of one version."""

    served: Served
    result: str
    """warm, wrong, slow, or without golden requests"""
    rounds: int = 0
    first_ms: float = 0.0
    slowest_ms: float = 0.0
    detail: str = ""

    def as_json(self) -> dict[str, object]:
        """One line of `--output json`."""
        return {
            "model": self.served.model,
            "version": self.served.version,
            "result": self.result,
            "rounds": self.rounds,
            "first_ms": round(self.first_ms, 3),
            "slowest_ms": round(self.slowest_ms, 3),
            "detail": self.detail,
        }

    def __str__(self) -> str:
        if not self.rounds:
            return f"{self.served}: {self.result}{': ' if self.detail else ''}{self.detail}"
        return (
            f"{self.served}: {self.result}: the slowest golden request took {self.first_ms:.3g} ms "
            f"at first, {self.slowest_ms:.3g} ms in round {self.rounds}"
            + (f", and {self.detail}" if self.detail else "")
        )


WARM, WRONG, SLOW, WITHOUT = "warm", "wrong", "slow", "without golden requests"
_CODES = {WARM: 0, WITHOUT: 0, WRONG: 3, SLOW: 6}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 warm · 1 a model is not loaded · 2 usage · 3 a wrong answer · 5 the server cannot be
    asked · 6 not warm in time · 130 interrupted."""
    return errors.run(_warm_up, arguments)


def _warm_up(arguments: Sequence[str] | None) -> int:
    asked = _parser(os.environ).parse_args(arguments)
    until = time.monotonic() + asked.timeout
    server = Server(asked.url or default_url(), read_token(asked.token_file))
    try:
        served = _when_started(server, asked.model, until)
        outcomes = [_warmed(server, each, asked, until) for each in served]
    finally:
        server.close()
    for each in outcomes:
        told = json.dumps(each.as_json()) if asked.output == "json" else str(each)
        sys.stdout.write(f"{told}\n")
    codes = {_CODES[each.result] for each in outcomes}
    return min(codes - {0}, default=0)


def _when_started(server: Server, wanted: Sequence[str], until: float) -> list[Served]:
    """What is loaded, once the server's start is over."""
    while True:
        try:
            status, told = server.ask("GET", "/health/startup")
            if status == 200:
                return server.served(wanted)
            why: ToolError = Unreachable(f"it has not started: {said_by(told, status)}")
            if status == 404:
                raise Unreachable("that is no model server: it has no /health/startup")
        except Unreachable as error:
            if "no /health/startup" in error.message:
                raise
            why = error
        if time.monotonic() >= until:
            raise TooLate(f"{why.message}, and the time is over (--timeout)")
        time.sleep(min(_AGAIN_SECONDS, max(0.0, until - time.monotonic())))


def _warmed(server: Server, served: Served, asked: argparse.Namespace, until: float) -> Warmed:
    golden = golden_for(served, asked.golden, asked.models or default_folder())
    if not golden:
        return Warmed(served, WITHOUT, detail="nothing was asked of it")
    return warm(lambda each: _ask(server, served, each), served, golden, asked.target_ms, until)


def _ask(server: Server, served: Served, golden: GoldenRequest) -> str:
    """What is wrong with the answer; empty if nothing is."""
    status, told = server.ask("POST", served.path, golden.body)
    if status in (401, 403):
        raise Usage(f"{served}: {said_by(told, status)}", hint="--token-file FILE")
    return golden.difference(told) if status == 200 else said_by(told, status)


def warm(
    ask: Callable[[GoldenRequest], str],
    served: Served,
    golden: Sequence[GoldenRequest],
    target_ms: float | None,
    until: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Warmed:
    """Round after round, until all answers of one are right and in time, or one is wrong, or the
    time is over."""
    rounds, first_ms = 0, 0.0
    while True:
        slowest_ms = 0.0
        for number, each in enumerate(golden, start=1):
            began = clock()
            wrong = ask(each)
            slowest_ms = max(slowest_ms, (clock() - began) * 1000)
            if wrong:
                return Warmed(served, WRONG, detail=f"golden request {number}: {wrong}")
        rounds += 1
        first_ms = first_ms or slowest_ms
        if target_ms is None or slowest_ms <= target_ms:
            return Warmed(served, WARM, rounds, first_ms, slowest_ms)
        if clock() >= until:
            return Warmed(
                served, SLOW, rounds, first_ms, slowest_ms, f"{target_ms:g} ms are wanted"
            )


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving.tools.warmup",
        description="Ask a running server its models' golden requests until it is warm.",
    )
    parser.add_argument("--url", help="the server; else this machine's, on PORT, else 8000")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[@VERSION]",
        help="which, several times for several; else all that is loaded",
    )
    parser.add_argument(
        "--golden", type=Path, metavar="FILE", help="these requests; else those beside the model"
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="where models lie with golden requests; else MODEL_CACHE_DIR",
    )
    parser.add_argument(
        "--target-ms",
        type=float,
        default=_target(environ),
        metavar="MS",
        help="each within so much, there and back; else WARMUP_TARGET_MS, else right answers are "
        "enough",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="for the start and for warming (%(default)g)",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="who may infer")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    return parser


def _target(environ: Mapping[str, str]) -> float | None:
    """`Usage` for a WARMUP_TARGET_MS that is none: the server refuses it too."""
    stated = environ.get("WARMUP_TARGET_MS")
    try:
        return float(stated) if stated else None
    except ValueError:
        raise Usage(f"WARMUP_TARGET_MS={stated}: no number of milliseconds") from None


if __name__ == "__main__":
    sys.exit(main())
