"""A region is killed: how soon that is decided and done, and what it costs clients.

**Ours** is what operators run: three vantages (`mlplatform probe`, every 500 ms, three failures in
a row make a region down), one `mlplatform failover watch`, three control stores on `file://`, and a
Caddy whose weights it writes. Servers are processes of the Open Inference Protocol; one region's is
killed (SIGKILL), and comes back when the round is over.

**The peer** is a second Caddy before the same servers, a plain reverse proxy with its own active
health checks as they come: `/health` every 30 s, 5 s to answer, one failure is enough
(https://caddyserver.com/docs/json/apps/http/servers/routes/handle/reverse_proxy/health_checks/active/).
A third has them every 500 ms, as often as our vantages probe: told, for a fair view of what a
router that trusts its own eyes can do.

Every client sends a request each 20 ms, all through the same kill. A request is lost that is
answered by anything but 200.

Then a day of flapping, in virtual time: the watch itself, over vantages' own records, while a
region goes down and comes back in patterns of seconds to hours.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Result, Row
from mlplatform.core.plan import Outcome
from mlplatform.failover.decision.seen import Mode, Request
from mlplatform.failover.evidence.record import Evidence, Sample, Sighting, VantageRecord
from mlplatform.failover.operations import Said
from mlplatform.failover.vantage.rounds import Heading, Met, Target, next_record, targets_of
from mlplatform.failover.watch import Watch
from tests.conformance.traffic import caddy_site
from tests.features.failover import test_operations as moving
from tests.features.failover.estate import VANTAGES, Time, World
from tests.real.failover.platform import WEIGHTS, Platform
from tests.real.servers.regions import Regions
from tests.waiting import wait_until

KILLS = 5
DECIDED_SECONDS = 2.0
COMMITTED_MILLISECONDS = 100.0
_PEER_SECONDS = 30.0
"""Caddy's default interval between active health checks."""
_WATCHED_SECONDS = _PEER_SECONDS + 5
_PAUSE_SECONDS = 0.02
DAY_SECONDS = 86_400.0
WATCH_SECONDS = 5.0
"""Between two rounds of the watch, by default."""


def measure(kills: int) -> Result:
    """Kill a region so many times; then a day of flapping."""
    found = list(_kills(kills))
    result = Result(
        "failover",
        f"a region is killed; medians of {kills} kills, each met by all three",
        peer="Caddy as a reverse proxy with its active health checks, by default every 30 s",
    )
    ours, peer, eager = ([kill.lost[name] for kill in found] for name in _CLIENTS)
    result.rows = [
        Row("killed → decided", "s", [kill.decided for kill in found], limit=DECIDED_SECONDS),
        Row(
            "decided → committed",
            "ms",
            [1000 * kill.committed for kill in found],
            limit=COMMITTED_MILLISECONDS,
        ),
        Row("decided → authoritative", "ms", [1000 * kill.authoritative for kill in found]),
        Row("decided → observed", "s", [kill.observed for kill in found]),
        Row("requests lost a kill", "", ours, [max(each, 1) for each in peer], limit=1.0),
        Row("the same, its checks every 500 ms", "", ours, [max(each, 1) for each in eager]),
    ]
    sent = median(kill.sent for kill in found)
    result.notes = [
        f"of {sent:.0f} requests of each client in the {_WATCHED_SECONDS:g} s from a kill on",
        "kills are spread evenly over the time between two checks of the peer",
    ]
    for pattern, flapped in ((name, flap(*told)) for name, told in PATTERNS.items()):
        result.rows += [
            Row(f"switches in a day, {pattern}", "", [flapped.switches], limit=flapped.cap),
            Row("  of them useless", "", [flapped.useless], limit=0),
        ]
    return result


# ------------------------------------------------------------------------------------- real kills


@dataclass(frozen=True, slots=True)
class Kill:
    """What one kill came to."""

    decided: float
    """Seconds from the kill until the plan was in the journal."""
    committed: float
    authoritative: float
    observed: float
    lost: Mapping[str, int]
    sent: float


_CLIENTS = ("ours", "peer", "eager")


class Client:
    """Sends requests through one front door, one after the other, and counts what it gets."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._counting = threading.Event()
        self._stop = threading.Event()
        self.sent = 0
        self.lost = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Count from now on."""
        self.sent = self.lost = 0
        self._counting.set()

    def end(self) -> None:
        self._counting.clear()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            good = self._ask()
            if self._counting.is_set():
                self.sent += 1
                self.lost += not good
            due = max(due + _PAUSE_SECONDS, time.monotonic() - _PAUSE_SECONDS)
            time.sleep(max(0.0, due - time.monotonic()))

    def _ask(self) -> bool:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            client.connect()
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.request("GET", "/health")
            answer = client.getresponse()
            answer.read()
            return answer.status == 200
        except OSError:
            return False
        finally:
            client.close()


def _kills(count: int) -> Iterator[Kill]:
    phases = [(number + 0.5) / count * _PEER_SECONDS for number in range(count)]
    random.Random(count).shuffle(phases)
    with ExitStack() as stack:
        world = stack.enter_context(_platform())
        targets = {name: (f"127.0.0.1:{world.servers[name].port}",) for name in ("us", "eu")}
        peers = [
            caddy_site.World(stack, Regions(dict(targets)), checked(targets, every))
            for every in (None, "500ms")
        ]
        ports = [world.world.client().port, *(peer.client().port for peer in peers)]
        clients = dict(zip(_CLIENTS, map(Client, ports), strict=True))
        for client in clients.values():
            stack.callback(client.stop)
        for number, phase in enumerate(phases, start=1):
            wait_until(lambda: world.weights == WEIGHTS, seconds=120)
            wait_until(lambda: all(_reaches(port, "us") for port in ports), seconds=60)
            time.sleep(phase)  # since the peer's last check
            kill = _kill(world, clients)
            told = ", ".join(f"{name} {lost}" for name, lost in kill.lost.items())
            print(f"    kill {number}/{count}  lost: {told}", file=sys.stderr, flush=True)
            yield kill


def _kill(world: Platform, clients: Mapping[str, Client]) -> Kill:
    """Kill us, wait for what becomes of it, and bring it back."""
    before = _operations(world)
    for client in clients.values():
        client.begin()
    killed = time.time()
    world.servers["us"].kill()
    wait_until(lambda: _ended(world, before), seconds=60)
    time.sleep(max(0.0, killed + _WATCHED_SECONDS - time.time()))
    for client in clients.values():
        client.end()
    kill = _measured(_ended(world, before) or [], killed, clients)
    world.servers["us"].start()
    return kill


@contextmanager
def _platform() -> Iterator[Platform]:
    """A route that may act by itself, drilled, with everybody at work."""
    with tempfile.TemporaryDirectory(prefix="mlplatform-bench-") as folder, ExitStack() as stack:
        world = Platform(Path(folder), stack=stack)
        world.let_it_act({"interval_seconds": 0.5, "timeout_seconds": 1, "rise": 2})
        world.beside("failover", "watch", "--interval", "0.25", "--metrics", "127.0.0.1:0")
        yield world


def checked(targets: Mapping[str, tuple[str, ...]], interval: str | None) -> dict[str, Any]:
    """A plain reverse proxy that checks its upstreams' health."""
    active = {"uri": "/health", **({"interval": interval} if interval else {})}
    upstreams = [{"dial": dial} for dials in targets.values() for dial in dials]
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "health_checks": {"active": active},
    }
    return {"@id": caddy_site.ROUTE, "handle": [proxy]}


def _reaches(port: int, region: str) -> bool:
    for _ in range(20):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            client.request("GET", "/health")
            answer = client.getresponse()
            answer.read()
            if answer.getheader("X-Mlplatform-Region") == region:
                return True
        finally:
            client.close()
    return False


def _operations(world: Platform) -> frozenset[str]:
    return frozenset(path.name for path in (world.controls[0] / "journal").glob("*-failover-*"))


def _ended(world: Platform, before: frozenset[str]) -> list[dict[str, Any]] | None:
    """The entries of the operation that left the region, once it is over."""
    for name in sorted(_operations(world) - before):
        paths = sorted((world.controls[0] / "journal" / name).glob("*.json"))
        entries = [json.loads(path.read_text()) for path in paths]
        entries.sort(key=lambda entry: entry["number"])
        if not entries or entries[-1]["kind"] != "closed":
            return None
        first = entries[0]["payload"]["plan"]["actions"][0]
        if first["parameters"]["mode"] == Mode.UNPLANNED.value:
            return entries
    return None


def _measured(entries: list[dict[str, Any]], killed: float, clients: Mapping[str, Client]) -> Kill:
    figures: dict[str, float] = {}
    for entry in entries:
        if entry["kind"] == "outcome":
            told = entry["payload"]["measured"]
            for name in ("committed", "authoritative", "observed"):
                if told.get(f"{name}_seconds") is not None:
                    figures.setdefault(name, told[f"{name}_seconds"])
    return Kill(
        decided=datetime.fromisoformat(entries[0]["at"]).timestamp() - killed,
        lost={name: client.lost for name, client in clients.items()},
        sent=median(client.sent for client in clients.values()),
        **figures,
    )


# -------------------------------------------------------------------------- a day in virtual time


@dataclass(frozen=True, slots=True)
class Flapped:
    """What a day of flapping came to."""

    switches: int
    """How often traffic left the region or began to come back to it."""
    useless: int
    """Those that left the region while it was up, or began to go back while it was down, and had
    been for longer than a round of probes: nobody can know sooner."""
    cap: int


PATTERNS: dict[str, tuple[float, float]] = {
    "20 s down, 40 s up": (20, 40),
    "2 min down, 3 min up": (120, 180),
    "10 min down, 20 min up": (600, 1200),
    "30 min down, 2 h up": (1800, 7200),
}
"""Mean seconds down and up; each time is drawn between half of it and one and a half."""


class Night(Time):
    """Time in which something goes on while others sleep."""

    goes_on: Callable[[], None] = staticmethod(lambda: None)

    def sleep(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, 1.0)
            super().sleep(step)
            seconds -= step
            self.goes_on()


@dataclass
class Flapping(World):
    """us goes down and comes back; vantages probe all the while, and keep their records as they
    always do."""

    down_seconds: float = 0.0
    up_seconds: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    record: VantageRecord | None = None
    looked_at: float = 0.0
    changes_at: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.interval_seconds = self.topology.traffic.probe.interval_seconds
        self.places = targets_of(self.topology)
        self.changes_at = self.time.monotonic() + self._lasts(self.up_seconds)
        self.probe()

    def goes_on(self) -> None:
        """What is due by now."""
        now = self.time.monotonic()
        if now >= self.changes_at:
            up = "us" in self.down
            (self.revive if up else self.kill)("us")
            self.changes_at = now + self._lasts(self.up_seconds if up else self.down_seconds)
        if now >= self.looked_at + self.interval_seconds:
            self.probe()

    def _lasts(self, seconds: float) -> float:
        return seconds * self.chance.uniform(0.5, 1.5)

    def probe(self) -> None:
        """A round of every vantage: they see the same."""
        now = self.time.monotonic()
        front = max(self.serving, key=lambda region: self.serving[region])

        def sample(target: Target) -> Sample:
            region = target.region or front
            return Sample(seconds_ago=0.0, ok=region not in self.down, seconds=0.02, region=region)

        met = Met(samples=tuple((place, sample(place), None) for place in self.places))
        number = self.record.round + 1 if self.record else 1
        heading = Heading("", number, self.time.now(), self.interval_seconds, "")
        elapsed = now - self.looked_at
        probing = self.topology.traffic.probe
        self.record = next_record(self.record, elapsed, heading, met, self.places, probing)
        self.looked_at = now

    def look(self) -> Evidence:
        assert self.record is not None
        age_seconds = self.time.monotonic() - self.looked_at
        record = self.record
        return Evidence(
            {
                name: Sighting(record.model_copy(update={"vantage": name}), age_seconds)
                for name in VANTAGES
            }
        )


def flap(down_seconds: float, up_seconds: float) -> Flapped:
    """A day of it, by the topology's defaults."""
    night = Night()
    world = Flapping(
        route={"mode": "auto"}, time=night, down_seconds=down_seconds, up_seconds=up_seconds
    )
    world.changes_at = float("inf")  # the drill comes first
    night.goes_on = world.goes_on
    night.sleep(12 * world.interval_seconds)
    moving.go(world.estate("drill@host:1"), Request(Mode.DRILL, targets=("eu",)))
    world.changes_at = night.monotonic() + up_seconds
    before, towards, switches, useless = world.state.weights["us"], 0, 0, 0

    def shifted(_: str, __: Outcome) -> None:
        nonlocal before, towards, switches, useless
        after = world.state.weights["us"]
        sign = (after > before) - (after < before)
        before = after
        if sign and sign != towards:
            towards = sign
            switches += 1
            known = night.monotonic() - world.changed.get("us", 0.0) > world.interval_seconds
            useless += known and ("us" in world.down) is (sign > 0)

    watch = Watch(world.estate("watch@host:1"), said=Said(outcome=shifted), in_background=False)
    end = night.monotonic() + DAY_SECONDS
    while night.monotonic() < end:
        watch.one_round()
        night.sleep(WATCH_SECONDS)
    return Flapped(switches, useless, _cap(world))


def _cap(world: World) -> int:
    """What the rules let pass in a day: hold-off doubles after each relapse up to its longest, and
    before each failback lies one. Each failback is followed by one failover at most, and one came
    before them all."""
    safety = world.topology.traffic.safety
    failbacks, at, hold_off = 0, 0.0, safety.hold_off_seconds
    while at + hold_off <= DAY_SECONDS:
        at += hold_off
        failbacks += 1
        hold_off = min(2 * hold_off, max(safety.hold_off_seconds, safety.hold_off_seconds_max))
    return 1 + 2 * failbacks
