"""Regions with real placements in memory: published, verified, spoilt and withdrawn as replication
does it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.catalogue import Catalogue
from mlplatform.control.executors import DaemonThreads, InlineExecutor
from mlplatform.control.retry import Retry
from mlplatform.core.placement import ModelVersion
from mlplatform.core.topology import Topology
from mlplatform.ports.store import ObjectStore
from mlplatform.replication.effects import Replicas
from mlplatform.replication.records import make_visible
from mlplatform.replication.verify import Depth
from tests.features.control.members import Members
from tests.features.control.weather import VirtualClock
from tests.features.replication.world import INLINE, Model, Watched, bring, noise

TOPOLOGY = """\
control: [memory://c1, memory://c2, memory://c3]
regions:
  us: {store: "memory://us"}
  eu: {store: "memory://eu"}
  ap: {store: "memory://ap"}
models:
  resnet50: {version: v2, home: us, replicate_to: [eu]}
  bert: {version: v1, home: us, replicate_to: [eu, ap]}
traffic:
  routes:
    api: {actuator: "caddy://127.0.0.1:1/api", models: [resnet50], weights: {us: 100, eu: 0}}
    search: {actuator: "caddy://127.0.0.1:1/b", models: [bert], weights: {us: 50, eu: 50, ap: 0}}
"""


class Warehouse:
    """Three regions and three control stores, with one clock."""

    def __init__(
        self,
        topology: Topology | None = None,
        *,
        open_store: Callable[[str], ObjectStore] = MemoryStore,
        threads: bool = False,
        timeout_seconds: float | None = None,
    ) -> None:
        self.topology = topology or Topology.parse(TOPOLOGY)
        self.clock = VirtualClock()
        self.members = Members(3)
        self.stores = {region: Watched(open_store(region)) for region in self.topology.regions}
        control = self.members.control(self.clock)
        retry = Retry(self.clock, Random(0), attempts=2, base_seconds=0.0)
        executor = DaemonThreads() if threads else InlineExecutor()
        self.catalogue = Catalogue(
            self.topology, self.stores.__getitem__, control, retry, executor, timeout_seconds
        )
        self.replicas = Replicas(
            topology=self.topology,
            open_store=self.stores.__getitem__,
            control=control,
            retry=retry,
            clock=self.clock,
            random=Random(1),
            writer="ops@host:1",
            settings=INLINE,
            executor=InlineExecutor(),
            region_timeout_seconds=None,
        )

    def publish(
        self, region: str, version: str, *, model: str = "resnet50", body: bytes = b""
    ) -> str:
        """Bring a version there, a minute after whatever came before it; its digest."""
        subject = ModelVersion(model, version)
        bodies = {"model.bin": body or noise(100, len(version))}
        found = Model(bodies, subject=subject)
        self.clock.seconds += 60
        self.replicas.bind(found.manifest)
        report = bring(found, (region, self.stores[region])).targets[region]
        make_visible(
            self.stores[region],
            region,
            found.manifest,
            report.objects,
            replaces_tag=None,
            now=self.clock.now(),
            writer="ops@host:1",
            nonce=f"{region}-{version}",
        )
        return found.manifest.digest

    def spoil(self, region: str, version: str, *, model: str = "resnet50") -> None:
        """Change its bytes, and let a check find it."""
        subject = ModelVersion(model, version)
        self.stores[region].store.put(f"{subject.prefix}model.bin", b"x" * 100)
        self.replicas.check(subject, [region], Depth.DEEP)

    def quiet(self) -> None:
        """Count calls from now on."""
        for store in self.stores.values():
            store.calls.clear()
        for member in self.members.stores:
            member.calls.clear()

    def asked(self, region: str) -> list[str]:
        """What the region's store was asked since, as `verb key`."""
        return [f"{call.verb} {call.key}" for call in self.stores[region].calls]
