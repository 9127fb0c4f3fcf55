"""A platform of real processes to fail over on: servers of the Open Inference Protocol in three
regions, a Caddy before them, three control stores and three vantages in a folder."""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mlplatform.adapters.caddy import EPOCH_HEADER, caddy_route
from mlplatform.core.errors import Unavailable
from mlplatform.ports.traffic import RouteState
from tests.cli.conftest import CLEAN
from tests.cli.estate import PUBLISH, Estate, Ran
from tests.conformance.traffic import caddy_site
from tests.real.servers.launch import free_port
from tests.real.servers.regions import Regions
from tests.responder import RESPONDER
from tests.waiting import wait_until

NAMES = ("us", "eu", "ap")
VANTAGES = ("fra", "nyc", "sin")
WEIGHTS = {"us": 50, "eu": 50, "ap": 0}
GOLDEN = {
    "request": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2]}]},
    "expect": {"outputs": [{"name": "y", "datatype": "FP64", "shape": [1], "data": [0.5]}]},
}
DECLARED = {"measured_on": "2026-01-01", "expires_on": "2999-01-01"}
BUSY = {"timeout_seconds": 5, "slow_seconds": 3}
"""The machine may have other things to do: a server that is well answers within that. One that is
gone refuses at once."""
ASKED_BY_HAND = {"interval_seconds": 60, **BUSY, "rise": 1, "fall": 1}
"""For vantages that are started by the test, each for one round: what they saw stays fresh."""
ALL_THE_TIME = {"interval_seconds": 0.5, **BUSY, "rise": 2, "fall": 2}
"""For vantages that go on."""


@cache
def _published() -> tuple[Path, str]:
    """A folder with a region's store each, in which `m@v1` is published and verified, and the
    digest. Made once for each worker: nothing here writes to regions' stores."""
    folder = Path(_KEPT.enter_context(tempfile.TemporaryDirectory(prefix="mlplatform-failover-")))
    estate = Estate(folder)
    (estate.model / "golden.ndjson").write_text(json.dumps(GOLDEN) + "\n")
    estate.good(*PUBLISH)
    estate.good("replicate", "m")
    told = estate.good("status", "--output", "json").json()["placements"]
    return folder, told[0]["digest"]


_KEPT = ExitStack()


class Server:
    """A region's server, as a process. It comes back where it was."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        folder, digest = _published()
        self.process = subprocess.Popen(
            [
                *(sys.executable, RESPONDER, "--port", str(self.port)),
                *("--region", self.region, "--model", f"m=v1={digest}"),
                *("--store", str(folder / self.region)),
            ],
            env=CLEAN,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"ready {self.url}\n"

    def kill(self) -> None:
        """It is gone, without warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def ail(self, **told: Any) -> None:
        """Tell it what ails it; see `tests.responder`."""
        request = urllib.request.Request(
            f"{self.url}/admin", data=json.dumps(told).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10):
            pass


@dataclass
class Platform(Estate):
    """`m@v1` served by us, eu and ap, over the route `api` of a Caddy."""

    stack: ExitStack = field(default_factory=ExitStack)
    route: dict[str, Any] = field(default_factory=dict)
    """Of the route, beside what follows from the rest."""
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other routes, whole."""
    traffic: dict[str, Any] = field(default_factory=dict)
    """Of `traffic`, beside the routes."""
    rest: dict[str, Any] = field(default_factory=dict)
    """Of the topology, beside `traffic`."""
    servers: dict[str, Server] = field(default_factory=dict)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        published, self.digest = _published()
        self.regions = {name: f"file://{published}/{name}" for name in NAMES}
        for number, control in enumerate(self.controls, 1):
            (self.folder / f"disk-{number}").mkdir()
            control.symlink_to(f"disk-{number}")
        self.stack.callback(self._end)
        for name in NAMES:
            self.servers[name] = Server(name)
        targets: dict[str, tuple[str, ...]] = {
            name: (f"127.0.0.1:{each.port}",) for name, each in self.servers.items()
        }
        self.world = caddy_site.World(
            self.stack, Regions(targets), caddy_route("api", targets, WEIGHTS)
        )
        self.traffic = {
            "vantages": {name: {} for name in VANTAGES},
            "probe": ASKED_BY_HAND,
            "safety": {"together_seconds": 0.001, "step_seconds": 0, "golden_seconds": 5},
            "capacity": {name: {"m": {"requests_per_second": 1000, **DECLARED}} for name in NAMES},
        } | self.traffic
        self.write()

    @property
    def controls(self) -> list[Path]:
        """Each is mounted, so to say: in one step it is there, or gone."""
        return [self.folder / f"control-{number}" for number in (1, 2, 3)]

    @property
    def actuator(self) -> str:
        """The route's, by way of the detour."""
        here = f"{self.world.endpoint.host}:{self.world.endpoint.port}"
        return f"caddy://{self.world.way.url.removeprefix('http://')}/api?host={here}"

    def write(self, **regions: str) -> None:
        """Write the topology as it is to be now."""
        self.regions |= regions
        api = {
            "actuator": self.actuator,
            "models": ["m"],
            "weights": WEIGHTS,
            "peak": {"requests_per_second": 300, **DECLARED},
            **self.route,
        }
        document = {
            "control": [control.as_uri() for control in self.controls],
            "regions": {
                name: {"store": self.regions[name], "endpoint": self.servers[name].url}
                for name in NAMES
            },
            "models": {"m": {"version": "v1", "home": "us", "replicate_to": ["eu", "ap"]}},
            "traffic": {"routes": {"api": api, **self.routes}, **self.traffic},
            **self.rest,
        }
        (self.folder / "topology.yaml").write_text(json.dumps(document))  # JSON is YAML

    # The world as it is.

    @property
    def weights(self) -> dict[str, int]:
        """As the router has them."""
        return dict(self._read().weights)

    @property
    def front_door(self) -> str:
        """Where clients enter."""
        return f"http://127.0.0.1:{self.world.client().port}"

    @property
    def epoch(self) -> int:
        return self._read().epoch

    @property
    def writer(self) -> str:
        """Who claimed the route last."""
        return self._read().writer

    def _read(self) -> RouteState:
        """A Caddy that is being changed may end a connection before it has answered."""
        with suppress(Unavailable):
            return self.world.open().read()
        return self.world.open().read()

    def change_by_hand(self, **weights: int) -> None:
        """As an operator does who knows nothing of us."""
        path = "/id/api/handle/1/load_balancing/selection_policy/weights"
        self.world.ask("PATCH", path, [weights[name] for name in NAMES])

    def requests(self, count: int) -> Counter[str]:
        """That many requests of clients, by the region that answered; "" where none did."""
        return Counter(self._request() for _ in range(count))

    def _request(self) -> str:
        """Asked again, as clients do, where the connection ends without an answer: a Caddy that is
        being changed hangs up on some."""
        for _ in range(3):
            client = self.world.client(timeout_seconds=60)
            try:
                client.request("GET", "/health")
                answer = client.getresponse()
                answer.read()
                return answer.getheader("X-Mlplatform-Region", "") if answer.status == 200 else ""
            except ConnectionError:
                continue
            finally:
                client.close()
        return ""

    def epoch_of_clients(self) -> str | None:
        """As any client can see it."""
        return self.world.get("/health")[2].get(EPOCH_HEADER)

    # Who looks, and who acts.

    def look(self, *vantages: str) -> None:
        """Each vantage has one round, as from cron: three processes at once."""
        started = [
            self.start("probe", "--vantage", name, "--once", stdout=subprocess.DEVNULL)
            for name in vantages or VANTAGES
        ]
        for process in started:
            _, said = process.communicate(timeout=60)
            assert process.returncode in (0, 3), said

    def keep_looking(self) -> None:
        """The vantages go on for as long as the platform lives."""
        for name in VANTAGES:
            self.beside("probe", "--vantage", name)
        wait_until(lambda: all(self.record(name) for name in VANTAGES))

    def let_it_act(self, probe: Mapping[str, float] = ALL_THE_TIME) -> None:
        """From now on all vantages go on, and the route acts by itself: it has passed a drill."""
        self.route |= {"mode": "auto", "front_door": self.front_door}
        self.traffic["probe"] = probe
        self.traffic["safety"] |= {
            "cooldown_seconds": 0,
            "hold_off_seconds": 1,
            "hold_off_seconds_max": 1,
        }
        self.write()
        self.keep_looking()
        wait_until(self._is_ready)
        self.good("failover", "drill", "--to", "ap", "--confirm", "ap")

    def _is_ready(self) -> bool:
        """Whether every region could take every other's traffic."""
        ran = self.run("failover", "ready", "--output", "json")
        return ran.code == 0 and all(each["ready"] for each in ran.json()["ready"])

    def record(self, vantage: str) -> Any:
        """What the first control store holds of a vantage."""
        path = self.controls[0] / "observations/vantages" / f"{vantage}.json"
        with suppress(OSError, ValueError):
            return json.loads(path.read_text())
        return None

    def beside(self, *arguments: str, **named: Any) -> Beside:
        """Start a command, which goes on beside the test until it is ended."""
        log = self.folder / f"log-{len(self.running)}"
        with log.open("w") as sink:
            process = self.start(
                *arguments, **{"stdout": subprocess.DEVNULL, "stderr": sink, **named}
            )
        self.running.append(process)
        return Beside(process, log)

    def lose_control(self, *numbers: int) -> None:
        """Control stores of those numbers, by default all, are gone."""
        for number in numbers or (1, 2, 3):
            gone = self.folder / f"gone-{number}"
            gone.write_text("no folder")
            gone.replace(self.folder / f"control-{number}")

    def find_control(self, *numbers: int) -> None:
        """They are back, as they were."""
        for number in numbers or (1, 2, 3):
            back = self.folder / f"back-{number}"
            back.symlink_to(f"disk-{number}")
            back.replace(self.folder / f"control-{number}")

    def operations(self) -> list[dict[str, Any]]:
        """The plan of every operation, as `history` tells it, oldest first."""
        told = self.good("history", "--output", "json").json()["entries"]
        return [each["payload"]["plan"] for each in told if each["kind"] == "plan"]

    def _end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
        for server in self.servers.values():
            server.kill()


@dataclass
class Beside:
    """A command that runs beside the test; what it says is in a file."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def until(self, text: str, *, seconds: float = 60.0) -> str:
        """Wait until it has said that; all that it said."""
        wait_until(
            lambda: text in self.said or self.process.poll() is not None,
            lambda: self.said,
            seconds=seconds,
        )
        assert text in self.said, self.said
        return self.said

    def interrupt(self) -> int:
        """Ctrl-C; how it ends. One that does not end says where each of its threads is."""
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=60)
        self.process.send_signal(signal.SIGABRT)
        self.process.wait()
        raise AssertionError(f"it goes on after Ctrl-C:\n{self.said}")

    def kill(self) -> None:
        """Without warning."""
        self.process.kill()
        self.process.wait()

    def end(self, *, seconds: float = 120.0) -> Ran:
        """Wait for its end."""
        self.process.wait(timeout=seconds)
        return Ran(self.process.returncode, "", self.said)


@contextmanager
def platform(folder: Path, **settings: Any) -> Iterator[Platform]:
    """A platform of its own, for as long as the block lasts."""
    with ExitStack() as stack:
        yield Platform(folder, stack=stack, **settings)


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Somebody to be told, over HTTP: the URL, and what was received."""
    received: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
            """Tests say what went wrong."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook/SECRET-PATH", received
        finally:
            server.shutdown()
            thread.join()


def metrics(port: int) -> str:
    """What /metrics says there; nothing while nobody listens."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        client.request("GET", "/metrics")
        return client.getresponse().read().decode()
    except OSError:
        return ""
    finally:
        client.close()


def shown(rows: list[Mapping[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """Those fields of each row."""
    return [tuple(row[name] for name in names) for row in rows]
