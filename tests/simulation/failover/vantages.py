"""Vantages: each probes every region in rounds, and writes what it saw over its record of before.

They are no processes: a vantage goes round, or is away, blind, cut off, or lies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from random import Random
from typing import NamedTuple

from mlplatform.core.traffic import Probing
from mlplatform.failover.evidence.record import vantage_key
from mlplatform.failover.verdict.opinion import Opinion
from tests.simulation.failover.ground import MODEL, Ill, Region, Route
from tests.simulation.line import Network
from tests.simulation.schedule import EPOCH, Scheduler
from tests.simulation.stores import Site

SAMPLES = 4
"""Kept of each region: more than any `fall` in these worlds."""
DOORS = 2
GOLDEN = 3
_LONG_AGO = 100_000.0


class Probe(NamedTuple):
    """One probe, by the vantage's own clock."""

    at: float
    ok: bool
    seconds: float
    region: str | None = None
    lame: bool = False


@dataclass(slots=True)
class Track:
    """The newest probes along one path, and what the older ones amounted to."""

    probes: deque[Probe] = field(default_factory=deque)
    before: Opinion = field(default_factory=Opinion)

    def add(self, probe: Probe, probing: Probing) -> None:
        self.probes.append(probe)
        if len(self.probes) > SAMPLES:
            oldest = self.probes.popleft()
            if oldest.ok and self.before.up and self.before.run >= probing.rise:
                return  # as it was; that it has been so once more changes nothing
            self.before = self.before.after(
                oldest.ok, oldest.at, rise=probing.rise, fall=probing.fall
            )

    def is_down(self, probing: Probing) -> bool:
        """Whether it calls the region down, after all of them."""
        if self.before.up and all(probe.ok for probe in self.probes):
            return False
        told = ((probe.ok, probe.at) for probe in self.probes)
        return self.before.after_all(told, rise=probing.rise, fall=probing.fall).up is False


@dataclass(slots=True)
class Sight:
    """What a vantage met in a region, and since when without a break, in true time."""

    well_since: float | None = None
    """It answered, and rightly."""
    down_since: float | None = None
    """It did not answer."""
    wrong_since: float | None = None
    """It answered, and wrongly."""
    was_down: float = float("-inf")
    """When it was last down for so long that the vantage came to think so."""

    def add(self, now: float, long_seconds: float, *, ok: bool, right: bool) -> None:
        """One more probe."""
        if ok and right:
            self.down_since = self.wrong_since = None
            if self.well_since is None:
                self.well_since = now
        elif ok:
            self.down_since = self.well_since = None
            if self.wrong_since is None:
                self.wrong_since = now
        else:
            self.well_since = self.wrong_since = None
            if self.down_since is None:
                self.down_since = now
            if now - self.down_since >= long_seconds:
                self.was_down = now


class Vantage:
    """One vantage: what it sees, and how it is itself."""

    def __init__(
        self,
        name: str,
        region: str | None,
        domain: str,
        scheduler: Scheduler,
        random: Random,
        *,
        wall_offset: float,
    ) -> None:
        self.name = name
        self.region = region
        self.domain = domain
        self.scheduler = scheduler
        self.random = random
        self.names = (name, region or domain)
        self.away: list[tuple[float, float]] = []
        """When it does not go round."""
        self.blind: list[tuple[float, float]] = []
        self.lies_of: frozenset[str] = frozenset()
        """Regions of which it tells the contrary of what it sees."""
        self.lied = False
        self.number = 1_000
        self.wall_offset = wall_offset
        self.rate = random.uniform(0.97, 1.03)
        self.offset = random.uniform(0, 1e6)
        self.tracks: dict[str, Track] = {}
        self.doors: dict[str, deque[Probe]] = {}
        self.golden: dict[str, deque[tuple[float, bool, str, str, float]]] = {}
        self.sights: dict[str, Sight] = {}
        self.written: list[tuple[float, frozenset[str]]] = []
        """When it wrote to some store, and which regions it called down then."""

    @property
    def honest(self) -> bool:
        return not self.lies_of

    def monotonic(self) -> float:
        return self.offset + self.scheduler.now * self.rate

    def is_away(self, now: float) -> bool:
        return any(start <= now < end for start, end in self.away)

    def is_blind(self, now: float) -> bool:
        return any(start <= now < end for start, end in self.blind)


class Watchtower:
    """All vantages, going round."""

    def __init__(
        self,
        vantages: Sequence[Vantage],
        regions: Mapping[str, Region],
        routes: Mapping[str, Route],
        control: Sequence[Site],
        network: Network,
        probing: Probing,
        scheduler: Scheduler,
        random: Random,
    ) -> None:
        self.vantages = vantages
        self.regions = regions
        self.routes = routes
        self.control = control
        self.network = network
        self.probing = probing
        self.scheduler = scheduler
        self.random = random
        self.quiet_until = 0.0
        """Until then nothing happens that anybody would look at."""
        self.loss = 0.0
        """How likely a write to one store is lost."""
        for vantage in vantages:
            self._remember_the_past(vantage)
            scheduler.later(random.uniform(0, probing.interval_seconds), self._rounds(vantage))

    def _remember_the_past(self, vantage: Vantage) -> None:
        """All has been well for a long time."""
        now, interval = vantage.monotonic(), self.probing.interval_seconds
        for region in self.regions:
            long_ago = Opinion(up=True, run=self.probing.rise, since=now - _LONG_AGO)
            track = vantage.tracks[region] = Track(before=long_ago)
            for rounds in (2, 1):
                track.add(Probe(now - rounds * interval, ok=True, seconds=0.02), self.probing)
            vantage.golden[region] = deque(maxlen=GOLDEN)
            vantage.sights[region] = Sight(well_since=-_LONG_AGO)
        for route in self.routes:
            vantage.doors[route] = deque(maxlen=DOORS)

    def _rounds(self, vantage: Vantage) -> Callable[[], None]:
        def go() -> None:
            pause = self.random.uniform(0.98, 1.02) * self.probing.interval_seconds / vantage.rate
            self.scheduler.later(max(pause, self.quiet_until - self.scheduler.now), go)
            if not vantage.is_away(self.scheduler.now):
                self._round(vantage)

        return go

    def _round(self, vantage: Vantage) -> None:
        now, at = self.scheduler.now, vantage.monotonic()
        vantage.number += 1
        blind = vantage.is_blind(now)
        if not blind:
            for name, region in self.regions.items():
                self._probe(vantage, name, region, now, at)
            for number, (name, route) in enumerate(self.routes.items()):
                resolver = number % len(route.phases)
                answers = route.enters_by(resolver, self.random)
                ok = not self.regions[answers].down
                vantage.doors[name].append(Probe(at, ok, 0.03, region=answers if ok else None))
        self._write(vantage, now, at, blind=blind)

    def _probe(self, vantage: Vantage, name: str, region: Region, now: float, at: float) -> None:
        ills, probing = region.ills, self.probing
        answers = Ill.DOWN not in ills and (
            not self.network.cuts or self._reaches(vantage, region, now)
        )
        ok = answers and not region.lame
        right = answers and Ill.WRONG not in ills
        long_seconds = probing.fall * probing.interval_seconds
        vantage.sights[name].add(now, long_seconds, ok=ok, right=right)
        if name in vantage.lies_of:
            ok, right = not ok, not right
        seconds = 2.0 if Ill.SLOW in ills else 0.02
        vantage.tracks[name].add(Probe(at, ok, seconds, lame=answers and region.lame), probing)
        vantage.golden[name].append((at, right, *region.held, seconds))

    def _reaches(self, vantage: Vantage, region: Region, now: float) -> bool:
        """There, and back."""
        reaches = self.network.reaches
        return reaches(vantage.names, region.names, now) and reaches(
            region.names, vantage.names, now
        )

    def _write(self, vantage: Vantage, now: float, at: float, *, blind: bool) -> None:
        make = _maker(vantage, at, self.probing.interval_seconds, blind=blind)
        wrote = False
        for site in self.control:
            if site.lost or site.read_only or site.out(now):
                continue
            if self.network.cuts and not self.network.reaches(vantage.names, site.names, now):
                continue
            if not self.loss or self.random.random() >= self.loss:
                site.put_unread(vantage_key(vantage.name), make)
                wrote = True
        if wrote:
            downs = frozenset() if blind else frozenset(_downs(vantage, self.probing))
            vantage.written.append((now, downs))


def _downs(vantage: Vantage, probing: Probing) -> list[str]:
    """The regions that its record calls down, or that answer none of its questions right."""
    return [
        name
        for name, track in vantage.tracks.items()
        if track.is_down(probing)
        or sum(not each[1] for each in vantage.golden[name]) >= probing.fall
    ]


def _maker(
    vantage: Vantage, at: float, interval_seconds: float, *, blind: bool
) -> Callable[[], bytes]:
    """The record as it is now, put into bytes once, when it is read: spelt out by hand, for that is
    where the time goes. That it is a `VantageRecord`, everybody finds out who parses it."""
    tracks = [(name, track.before, tuple(track.probes)) for name, track in vantage.tracks.items()]
    doors = [(name, tuple(probes)) for name, probes in vantage.doors.items()]
    golden = [(name, tuple(answers)) for name, answers in vantage.golden.items()]
    number, wall = vantage.number, vantage.scheduler.now + vantage.wall_offset

    @lru_cache(1)
    def make() -> bytes:
        series = [
            f'{{"region":"{name}","path":"direct",{_before(before, at)},"samples":['
            f"{','.join(_sample(probe, at) for probe in probes)}]}}"
            for name, before, probes in tracks
        ]
        series += [
            f'{{"region":"","path":"front-door","route":"{name}","samples":['
            f"{','.join(_sample(probe, at) for probe in probes)}]}}"
            for name, probes in doors
        ]
        answers = [
            f'{{"region":"{name}","model":"{MODEL}","version":"{version}","digest":"{digest}",'
            f'"seconds_ago":{at - when:.3f},"ok":{_json(ok)},"seconds":{seconds}}}'
            for name, told in golden
            for when, ok, version, digest, seconds in told
        ]
        written_at = EPOCH + timedelta(seconds=wall)
        return (
            f'{{"vantage":"{vantage.name}","round":{number},"at":"{written_at.isoformat()}",'
            f'"interval_seconds":{interval_seconds},'
            f'"blind":"{"no reference could be reached" if blind else ""}",'
            f'"series":[{",".join(series)}],"golden":[{",".join(answers)}]}}'
        ).encode()

    return make


def _before(before: Opinion, at: float) -> str:
    ago = "null" if before.since is None else f"{at - before.since:.3f}"
    up = "null" if before.up is None else _json(before.up)
    return f'"up":{up},"up_seconds_ago":{ago},"run":{before.run}'


def _sample(probe: Probe, at: float) -> str:
    told = f'{{"seconds_ago":{at - probe.at:.3f},"ok":{_json(probe.ok)}'
    if not probe.ok:
        return told + (',"status":503,"error":"status"}' if probe.lame else ',"error":"timeout"}')
    if probe.region is None:
        return told + f',"seconds":{probe.seconds},"status":200}}'
    return told + f',"region":"{probe.region}"}}'


def _json(value: bool) -> str:
    return "true" if value else "false"
