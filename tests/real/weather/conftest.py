"""A model, a region on this disk, and regions behind bad weather."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlplatform import wiring
from mlplatform.control.reconcile import Report
from mlplatform.control.retry import Retry
from mlplatform.core.manifest import Manifest
from mlplatform.core.placement import ModelVersion
from mlplatform.core.store_url import StoreURL
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.store import ObjectStore, exists, read_bytes
from mlplatform.replication import operations
from mlplatform.replication.artefact import read_artefact
from mlplatform.replication.decide import Request
from mlplatform.replication.effects import Publisher, Replicas
from mlplatform.replication.transfer import Settings
from mlplatform.replication.verify import Depth, Verification
from tests.real.servers.launch import Endpoint
from tests.real.servers.toxics import Line, between

from .meddler import Meddler, meddling
from .sites import Site, credentials, fresh, topology_text

MIB = 1024 * 1024
SUBJECT = ModelVersion("m", "v1")
SIZE_BYTES = 12 * MIB + 12_345
"""Three parts on S3, whose smallest is 5 MiB, and thirteen elsewhere."""


@dataclass
class Told:
    """Progress, kept: when each region was done, and what was said of it."""

    done_at: dict[str, float] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    on_done: Callable[[str], None] = lambda region: None
    on_sent: Callable[[str, int], None] = lambda region, sent_bytes: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def total(self, region: str, size_bytes: int) -> None:
        """Not kept."""

    def add(self, region: str, size_bytes: int) -> None:
        with self.lock:
            self.sent[region] = sent = self.sent.get(region, 0) + size_bytes
        self.on_sent(region, sent)

    def note(self, region: str, text: str) -> None:
        self.notes.append((region, text))

    def done(self, region: str, text: str) -> None:
        if not text.startswith("failed"):
            self.on_done(region)
            self.done_at[region] = time.monotonic()


@dataclass
class World:
    """Regions, and one model that is published in `home`, on this disk."""

    folder: Path
    regions: dict[str, str] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    settings: Settings = field(default_factory=lambda: Settings(budget_bytes=32 * MIB))
    bodies: dict[str, bytes] = field(default_factory=dict)
    truth: dict[str, str] = field(default_factory=dict)
    """Where to look at a region past what stands before it."""

    def __post_init__(self) -> None:
        weights = random.Random(7).randbytes(SIZE_BYTES)
        self.bodies = {"config.json": b'{"layers": 3}', "weights.bin": weights}
        for path, body in self.bodies.items():
            (self.folder / "model").mkdir(exist_ok=True)
            (self.folder / "model" / path).write_bytes(body)
        self.regions = {"home": f"file://{self.folder}/home", **self.regions}

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.bodies.values()))

    def replicas(self, *, attempts: int = 8, deadline_seconds: float = 20.0) -> Replicas:
        """As a process opens it, with less patience."""
        text = topology_text(self.folder / "control", self.regions, home="home")
        topology = Topology.parse(text)
        clock, chance = SystemClock(), random.Random()
        return Replicas(
            topology=topology,
            open_store=wiring.region_stores(topology),
            control=wiring.open_control(topology, clock, chance),
            retry=Retry(
                clock,
                chance,
                attempts=attempts,
                base_seconds=0.05,
                cap_seconds=0.5,
                deadline_seconds=deadline_seconds,
            ),
            clock=clock,
            random=chance,
            writer="weather@test:1",
            progress=self.told,
            settings=self.settings,
            region_timeout_seconds=15.0,
        )

    def publish(self, region: str = "home", *, replicas: Replicas | None = None) -> Report:
        """The model, in blocks of 1 MiB, so that small files have parts."""
        replicas = replicas or self.replicas()
        manifest, source = read_artefact(self.folder / "model", SUBJECT, block_bytes=MIB)
        request = Request(SUBJECT, (region,), region, folder=str(self.folder / "model"))
        return operations.publish(
            replicas, Publisher(replicas, request, manifest, source, lambda: None)
        )

    def replicate(
        self, *targets: str, source: str | None = None, replicas: Replicas | None = None
    ) -> Report:
        replicas = replicas or self.replicas()
        request = operations.request_for(replicas, SUBJECT, source=source, targets=targets)
        return operations.replicate(replicas, request)

    def check(
        self, *regions: str, depth: Depth = Depth.DEEP, replicas: Replicas | None = None
    ) -> Mapping[str, Verification]:
        return operations.check(replicas or self.replicas(), SUBJECT, regions, depth)

    def store(self, region: str) -> ObjectStore:
        """The region's store as it is, without any patience."""
        return wiring.open_store(StoreURL.parse(self.truth.get(region) or self.regions[region]))

    def is_visible(self, region: str) -> bool:
        return exists(self.store(region), SUBJECT.manifest_key)

    def require_whole(self, region: str) -> None:
        """Everything is there, byte for byte, and nothing is left over."""
        self.require_good(region)
        assert not list(self.store(region).uploads("models/")), "an upload was left behind"

    def require_good(self, region: str) -> None:
        """Everything is there, byte for byte."""
        store = self.store(region)
        body, _ = read_bytes(store, SUBJECT.manifest_key)
        manifest = Manifest.parse(body, where=region, subject=SUBJECT)
        for entry in manifest.files:
            assert read_bytes(store, manifest.key_of(entry))[0] == self.bodies[entry.path]


SERVERS = [
    pytest.param(name, marks=[pytest.mark.real(name), pytest.mark.xdist_group(name)])
    for name in ("minio", "fake-gcs-server", "azurite")
]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Endpoint:
    """One dialect of each kind of store."""
    endpoint: Endpoint = request.getfixturevalue(request.param.replace("-", "_"))
    return endpoint


@pytest.fixture
def site(server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An empty container there; the environment lets us in."""
    for name, value in credentials(tmp_path, [server]).items():
        monkeypatch.setenv(name, value)
    return fresh(server, "weather")


@pytest.fixture
def world(tmp_path: Path, site: Site) -> World:
    """Home alone; the far region is going to be the site, whatever stands before it."""
    return World(tmp_path, truth={"far": site.url()})


@pytest.fixture
def line(toxiproxy: Endpoint, server: Endpoint) -> Iterator[Line]:
    """A line to the server."""
    with between(toxiproxy, server) as found:
        yield found


@pytest.fixture
def proxy(server: Endpoint) -> Iterator[Meddler]:
    """A proxy before the server that reads what goes through."""
    with meddling(server) as found:
        yield found
