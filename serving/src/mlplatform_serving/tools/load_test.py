"""`python -m mlplatform_serving.tools.load_test`: how a server bears a load.

`--rate` is an open loop: requests are due at seeded random times (Poisson), with bursts if asked
for, and each is timed from when it was due, whatever became of those before. `--concurrent` is a
closed loop, and labelled so. It asks golden requests where they are at hand, else requests that fit
what the model says of itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from mlplatform_serving.tools import errors
from mlplatform_serving.tools.errors import CheckFailed, Unreachable, Usage
from mlplatform_serving.tools.load.arrivals import Bursts, poisson, with_bursts
from mlplatform_serving.tools.load.drive import closed_loop, open_loop
from mlplatform_serving.tools.load.plot import svg
from mlplatform_serving.tools.load.report import Report, Sample
from mlplatform_serving.tools.questions import (
    Served,
    Server,
    default_folder,
    default_url,
    golden_for,
    made_for,
    read_token,
)
from mlplatform_serving.tools.versions import place

_BURSTS = re.compile(r"(\d+)@(\d+(?:\.\d+)?)s?")
_REQUESTS_MAX = 10_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """0 · 1 a model is not loaded · 2 usage · 3 less was good than --good-min · 5 the server cannot
    be asked · 130 interrupted."""
    return errors.run(_load_test, arguments)


def _load_test(arguments: Sequence[str] | None) -> int:
    asked = _parser().parse_args(arguments)
    bursts = None if asked.burst is None else _bursts(asked.burst)
    if asked.rate is None and asked.concurrent is None and bursts is None:
        raise Usage(
            "nothing is to be sent", hint="--rate 100 is an open loop, --concurrent 10 a closed one"
        )
    if asked.concurrent is not None and (asked.rate is not None or bursts is not None):
        raise Usage(
            "--concurrent waits for answers, and --rate and --burst do not: it is one or the other"
        )
    if (asked.rate or 0) * asked.duration > _REQUESTS_MAX:
        raise Usage(f"more than {_REQUESTS_MAX} requests")
    server = Server(asked.url or default_url(), read_token(asked.token_file))
    try:
        served = server.served(asked.model)
        requests = _requests(server, served, asked)
    finally:
        server.close()
    report = _run(server, requests, asked, bursts, tuple(map(str, served)))
    told = json.dumps(report.as_json())
    if asked.json is not None:
        place(asked.json, f"{told}\n".encode())
    if asked.plot is not None:
        place(asked.plot, svg(report).encode())
    text = told if asked.output == "json" else "\n".join(report.lines())
    sys.stdout.write(f"{text}\n")
    if (
        report.samples
        and not report.answered
        and all(isinstance(each.status, str) for each in report.samples)
    ):
        raise Unreachable(f"{asked.url or default_url()}: {report.samples[0].status}")
    if asked.good_min is not None and not (report.good_share or 0) >= asked.good_min:
        raise CheckFailed(
            f"{report.good_share or 0:.2%} were good, and {asked.good_min:.2%} are wanted"
        )
    return 0


def _bursts(text: str) -> Bursts:
    found = _BURSTS.fullmatch(text)
    if found is None or int(found[1]) < 1 or not float(found[2]) > 0:
        raise Usage(
            f"--burst {text}: no burst", hint="--burst 50@10 is 50 at once every 10 seconds"
        )
    return Bursts(int(found[1]), float(found[2]))


def _requests(server: Server, served: Sequence[Served], asked: argparse.Namespace) -> list[bytes]:
    """Every model's, by turns."""
    headers = {**server.headers, "Content-Type": "application/json"}
    if asked.deadline:
        headers["X-Mlplatform-Timeout-Ms"] = f"{asked.slo_ms:g}"
    by_model = []
    for each in served:
        golden = golden_for(each, asked.golden, asked.models or default_folder())
        bodies = [one.body for one in golden] or made_for(server, each, asked.seed)
        _try(server, each, bodies[0])
        by_model.append([server.target.post(each.path, body, headers) for body in bodies])
    length = math.lcm(*(len(each) for each in by_model)) if len(by_model) > 1 else 0
    turns = max(min(length, 1000), *(len(each) for each in by_model))
    return [each[turn % len(each)] for turn in range(turns) for each in by_model]


def _try(server: Server, served: Served, body: bytes) -> None:
    """One, before the many: a load of refusals measures nothing. A server that has no room just now
    is what the test is about."""
    status, told = server.ask("POST", served.path, body)
    if status not in (200, 503):
        said = told.get("error", "") if isinstance(told, dict) else ""
        raise Unreachable(
            f"{served} answers {status}: {said}",
            hint="--golden FILE has requests that it takes"
            if status == 400
            else "--token-file FILE"
            if status in (401, 403)
            else None,
        )


def _run(
    server: Server,
    requests: Sequence[bytes],
    asked: argparse.Namespace,
    bursts: Bursts | None,
    models: tuple[str, ...],
) -> Report:
    timeout_seconds, slo_seconds = asked.timeout, asked.slo_ms / 1000
    planned: int | None = None
    if asked.concurrent is not None:
        loop = f"closed loop, {asked.concurrent} who wait for answers (a slow server is asked less)"
        samples = _on_loop(
            closed_loop(
                server.target,
                requests,
                asked.concurrent,
                asked.duration,
                timeout_seconds=timeout_seconds,
            )
        )
    else:
        due = poisson(asked.rate, asked.duration, asked.seed) if asked.rate else []
        due = with_bursts(due, bursts, asked.duration)
        words = [f"Poisson, {asked.rate:g}/s"] if asked.rate else []
        words += [f"{bursts.size} at once every {bursts.every_seconds:g} s"] if bursts else []
        loop = f"open loop, {' and '.join(words)} for {asked.duration:g} s, seed {asked.seed}"
        planned = len(due)
        samples = _on_loop(
            open_loop(
                server.target,
                requests,
                due,
                connections_max=asked.connections,
                timeout_seconds=timeout_seconds,
            )
        )
    return Report(loop, models, asked.duration, slo_seconds, planned, tuple(samples))


def _on_loop(asking: Coroutine[Any, Any, list[Sample]]) -> list[Sample]:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(asking)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The quicker one, where there is one: what the client does not use, the server has."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving.tools.load_test",
        description="How a server bears a load: percentiles, and what came within the objective.",
    )
    parser.add_argument("--url", help="the server; else this machine's, on PORT, else 8000")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[@VERSION]",
        help="what is asked, several times for several; else all that is loaded, by turns",
    )
    loops = parser.add_argument_group("how it is asked")
    loops.add_argument(
        "--rate", type=_above_zero, metavar="N", help="open loop: so many a second, on average"
    )
    loops.add_argument(
        "--burst", metavar="N@SECONDS", help="open loop: so many at once, every so many seconds"
    )
    loops.add_argument(
        "--concurrent",
        type=_whole,
        metavar="N",
        help="closed loop: so many, who each wait for the answer",
    )
    loops.add_argument(
        "--duration",
        type=_above_zero,
        default=10.0,
        metavar="SECONDS",
        help="for so long (%(default)g)",
    )
    loops.add_argument("--seed", type=int, default=0, help="of the times (%(default)s)")
    loops.add_argument(
        "--connections",
        type=_whole,
        default=512,
        metavar="N",
        help="open at most; whoever waits for one is late (%(default)s)",
    )
    loops.add_argument(
        "--timeout",
        type=_above_zero,
        default=30.0,
        metavar="SECONDS",
        help="how long one waits for its answer (%(default)g)",
    )
    asking = parser.add_argument_group("what is asked")
    asking.add_argument(
        "--golden", type=Path, metavar="FILE", help="these requests; else those beside the model"
    )
    asking.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="where models lie with golden requests; else MODEL_CACHE_DIR",
    )
    asking.add_argument("--token-file", type=Path, metavar="FILE", help="who may infer")
    judging = parser.add_argument_group("what is good")
    judging.add_argument(
        "--slo-ms",
        type=_above_zero,
        default=100.0,
        metavar="MS",
        help="an answer within so much (%(default)g)",
    )
    judging.add_argument(
        "--deadline", action="store_true", help="tell the server so: it refuses what would be late"
    )
    judging.add_argument(
        "--good-min", type=_share, metavar="SHARE", help="exit 3 if fewer are good, as 0.99"
    )
    telling = parser.add_argument_group("what is told")
    telling.add_argument("--output", choices=("text", "json"), default="text")
    telling.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    telling.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it")
    return parser


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not 0 < number <= 65_536:
        raise ValueError
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
