"""Batching over HTTP: a model that sleeps 16 ms + 1 ms an item, in batches of 32 at most, asked at
and beyond its capacity by clients half of which give up after 80 ms, half after 400 ms.

A peer whose HTTP costs much would be measured by that. Each is therefore run slower, model and
deadlines alike, until its HTTP takes less than 15 % of a core at full load, and beside it is the
server at the same pace; the table says the pace and the share.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import ClientFailed, Result, Row
from benchmarks.open_loop import Tally, drive, poisson
from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.launch import ServerMissing
from tests.serving.rig import environment, publish

SEEDS = 1
FIXED_MS, EACH_MS, CAP = 16.0, 1.0, 32
DEADLINES_MS = (80.0, 400.0)
LOADS = (1.0, 1.3, 2.0)
HTTP_SHARE_MAX = 0.15
_COUNTED, _COUNTED_AT_FULL_PACE = 4.0, 25.0
_START_SECONDS = 90
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Pace:
    """How many times slower than told above."""

    slower: float

    @property
    def capacity(self) -> float:
        """Items a second in full batches."""
        return CAP * 1000 / ((FIXED_MS + EACH_MS * CAP) * self.slower)

    @property
    def deadlines(self) -> list[float]:
        """In seconds."""
        return [each * self.slower / 1000 for each in DEADLINES_MS]


@dataclass(frozen=True, slots=True)
class Side:
    """A server of the sleeping model, somehow set."""

    process: subprocess.Popen[bytes]
    port: int
    request: Callable[[float], bytes]

    def cpu_seconds(self) -> float:
        """Of it and all that it has started."""
        ticks, left = 0, [self.process.pid]
        while left:
            pid = left.pop()
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())
        return ticks / os.sysconf("SC_CLK_TCK")

    def run(self, pace: Pace, load: float, seed: int, counted: float) -> tuple[float, float, Tally]:
        """Goodput as a share of the capacity, its CPU as a share of a core, and the rest; of as
        long a time as `counted` of the longer deadlines."""
        seconds = (counted + 2) * max(pace.deadlines)
        arrivals = poisson(load * pace.capacity, seconds, pace.deadlines, seed)
        before, began = self.cpu_seconds(), time.monotonic()
        tally = drive(self.port, arrivals, self.request)
        share = (self.cpu_seconds() - before) / (time.monotonic() - began)
        return tally.in_time / tally.seconds / pace.capacity, share, tally


def _post(path: str, body: object, *headers: str) -> bytes:
    sent = json.dumps(body)
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [*headers, f"Content-Length: {len(sent)}", "", sent]
    return "\r\n".join(lines).encode()


@contextmanager
def _running(
    argv: list[str],
    env: Mapping[str, str],
    port: int,
    request: Callable[[float], bytes],
    folder: Path,
) -> Iterator[Side]:
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen(
            argv, env=dict(env), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            side = Side(process, port, request)
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(side):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ClientFailed((folder / "peer.log").read_text()[-2000:])
                time.sleep(0.2)
            yield side
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def _answers(side: Side) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", side.port), 30) as client:
        client.sendall(side.request(30.0))
        return client.recv(64).startswith(b"HTTP/1.1 200")
    return False


@contextmanager
def ours(pace: Pace, port: int, _: float) -> Iterator[Side]:
    """The server as it comes; clients tell it how long they wait."""
    configuration = {
        "backend": "identity",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
        "parameters": {
            "execute_delay_ms": FIXED_MS * pace.slower,
            "item_delay_ms": EACH_MS * pace.slower,
        },
    }
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [7]}]}

    def request(within: float) -> bytes:
        wait = f"X-Mlplatform-Timeout-Ms: {within * 1000:g}"
        return _post("/v2/models/sleeper/infer", body, wait)

    with tempfile.TemporaryDirectory() as folder:
        told = json.dumps(configuration).encode()
        publish(Path(folder), "sleeper", "v1", {"model-config.json": told})
        env = environment(HOST="127.0.0.1", PORT=port, MODEL_CACHE_DIR=folder, MAX_QUEUE_SIZE=4096)
        argv = [sys.executable, "-m", "mlplatform_serving"]
        with _running(argv, env, port, request, Path(folder)) as side:
            yield side


@contextmanager
def litserve(pace: Pace, port: int, window_ms: float) -> Iterator[Side]:
    """A window of so many milliseconds; its own time-out is the longer deadline."""
    argv = [str(_python("litserve")), str(HERE / "peer_litserve.py")]
    env = environment(
        PEER_PORT=port,
        PEER_FIXED_MS=FIXED_MS * pace.slower,
        PEER_EACH_MS=EACH_MS * pace.slower,
        PEER_WINDOW_SECONDS=window_ms * pace.slower / 1000,
        PEER_TIMEOUT_SECONDS=max(pace.deadlines),
    )
    sent = _post("/predict", {"x": 7.0})
    with (
        tempfile.TemporaryDirectory() as folder,
        _running(argv, env, port, lambda _: sent, Path(folder)) as side,
    ):
        yield side


@contextmanager
def bentoml(pace: Pace, port: int, latency_ms: float) -> Iterator[Side]:
    """It promises a latency, and cancels whoever it predicts to be later."""
    python = _python("bentoml")
    argv = [str(python), "-m", "bentoml", "serve", "peer_bentoml:Sleeper"]
    argv += ["--working-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)]
    sent = _post("/predict", {"x": [7.0]})
    with tempfile.TemporaryDirectory() as folder:
        env = environment(
            PEER_FIXED_MS=FIXED_MS * pace.slower,
            PEER_EACH_MS=EACH_MS * pace.slower,
            PEER_LATENCY_MS=latency_ms * pace.slower,
            BENTOML_HOME=folder,
            BENTOML_DO_NOT_TRACK=True,
        )
        with _running(argv, env, port, lambda _: sent, Path(folder)) as side:
            yield side


def _python(name: str) -> Path:
    path = BY_NAME[name].path
    if not path.exists():
        raise ServerMissing(BY_NAME[name])
    return path


PEERS = {
    # By how many times slower it is run, and what is tried of its one setting.
    "LitServe": (litserve, Pace(16), (0.0, 10.0)),
    "BentoML": (bentoml, Pace(20), (80.0, 400.0)),
}


def measure(seeds: int) -> Result:
    """The server at full pace, and beside each peer at that peer's."""
    result = Result(
        "batching_http",
        f"batching over HTTP, {FIXED_MS:g} ms + {EACH_MS:g} ms an item, deadlines of 80 and 400 "
        f"ms; goodput as a share of the capacity, seeds: {seeds}",
        peer="each at the better of two settings, at a pace where its HTTP is cheap",
    )
    table = [("", "times slower", "core", *(f"goodput at {load:g}" for load in LOADS))]
    _tell(table, "ours", Pace(1), _figures(ours, Pace(1), 0.0, range(seeds), _COUNTED_AT_FULL_PACE))
    for name, (start, pace, settings) in PEERS.items():
        beside = _figures(ours, pace, 0.0, range(seeds), _COUNTED)
        _tell(table, f"ours beside {name}", pace, beside)
        tried = {each: _figures(start, pace, each, range(seeds), _COUNTED) for each in settings}
        for setting, found in tried.items():
            _tell(table, f"{name}, {setting:g} ms", pace, found)
        for load in LOADS:
            best = max((found[load] for found in tried.values()), key=lambda it: median(it[0]))
            result.rows.append(
                Row(f"goodput at {load:g}, {name}", "", beside[load][0], best[0], least=1.0)
            )
        share = max(max(found[1.0][1]) for found in tried.values())
        result.rows.append(
            Row(f"share of a core, {name}'s HTTP", "", [share], limit=HTTP_SHARE_MAX)
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    result.notes += [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return result


Start = Callable[[Pace, int, float], AbstractContextManager[Side]]
Figures = dict[float, tuple[list[float], list[float]]]


def _figures(
    start: Start,
    pace: Pace,
    setting: float,
    seeds: range,
    counted: float,
) -> Figures:
    """By load: the goodput, and the share of a core, of each seed."""
    found: Figures = {load: ([], []) for load in LOADS}
    with start(pace, _free_port(), setting) as side:
        for seed in seeds:
            for load in LOADS:
                goodput, share, _ = side.run(pace, load, seed + 1, counted)
                found[load][0].append(goodput)
                found[load][1].append(share)
                print(
                    f"    {pace.slower:g} × slower, {setting:g}, {load}: {goodput:.3f} {share:.2f}",
                    file=sys.stderr,
                    flush=True,
                )
    return found


def _tell(table: list[tuple[str, ...]], name: str, pace: Pace, found: Figures) -> None:
    goodputs = (f"{median(found[load][0]):.2f}" for load in LOADS)
    share = median(found[1.0][1])
    table.append((name, f"{pace.slower:g}", f"{share:.0%}", *goodputs))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
