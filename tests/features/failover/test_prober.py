"""A vantage at work: what it asks, what it holds back, and that nobody waits for a dead region."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

import pytest

from mlplatform.adapters.http_probe import HttpProbe
from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.executors import DaemonThreads, InlineExecutor
from mlplatform.control.golden_library import GoldenLibrary, NotPublished
from mlplatform.core.errors import Unavailable, UsageError
from mlplatform.core.manifest import FileEntry, Manifest, Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.evidence.outside import OutsideView
from mlplatform.failover.evidence.reader import EvidenceReader
from mlplatform.failover.evidence.record import Path, VantageRecord
from mlplatform.failover.vantage.asking import Asker
from mlplatform.failover.vantage.keeper import Keeper
from mlplatform.failover.vantage.prober import Prober, blind_vantage, doubts_of, measure, success
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.measurements import Measured
from mlplatform.ports.probe import Answer, Probe, Question
from mlplatform.ports.store import ObjectStore
from tests.features.control.members import Members, lost
from tests.features.control.weather import FaultyStore, VirtualClock
from tests.features.failover import peers
from tests.features.failover.peers import Peer
from tests.features.replication.world import entry_of
from tests.responder import Responder, open_server

OK = Answer(0.08, status=200, body=b"{}")
DARK = Answer(5.0, error="timeout", detail="5 s passed in connect")


def golden_line(value: float) -> bytes:
    line = {
        "request": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]},
        "expect": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [value]}]},
    }
    return json.dumps(line).encode() + b"\n"


def publish(store: ObjectStore, subject: ModelVersion, golden: bytes | None) -> Manifest:
    """A version of one file, and its golden requests."""
    files = {"weights": b"weights"} | ({"golden.ndjson": golden} if golden is not None else {})
    entries: list[FileEntry] = []
    for path, body in files.items():
        store.put(f"{subject.prefix}{path}", body)
        entries.append(entry_of(path, body))
    manifest = Manifest.build(
        subject,
        entries,
        block_bytes=64,
        requirements=Requirements(),
        golden="golden.ndjson" if golden is not None else None,
    )
    store.put(subject.manifest_key, manifest.encoded)
    return manifest


class Scripted(Probe):
    """Endpoints that answer as they are told to, by host."""

    def __init__(self, **hosts: Answer | Callable[[Question], Answer]) -> None:
        self.hosts: dict[str, Answer | Callable[[Question], Answer]] = dict(hosts)
        self.asked: list[str] = []

    def ask(self, question: Question, *, timeout_seconds: float) -> Answer:
        self.asked.append(f"{question.method} {question.url}")
        told = self.hosts.get(question.url.split("/")[2], OK)
        return told(question) if callable(told) else told


def topology(
    *,
    endpoints: Mapping[str, str] | None = None,
    models: int = 0,
    references: tuple[str, ...] = (),
    front_door: str | None = None,
    load_query: str | None = None,
    **probe: Any,
) -> Topology:
    endpoints = endpoints or {"us": "http://us", "eu": "http://eu"}
    first, *rest = endpoints
    return Topology.model_validate(
        {
            "control": "memory://control",
            "regions": {
                name: {"store": f"memory://{name}", "endpoint": url}
                for name, url in endpoints.items()
            },
            "models": {
                f"m{n}": {"version": "v1", "home": first, "replicate_to": rest}
                for n in range(models)
            },
            "prometheus": {"url": "http://prometheus"},
            "traffic": {
                "routes": {"api": {"actuator": "memory://a", "front_door": front_door}}
                if front_door
                else {},
                "vantages": {"fra": {"references": references}},
                "probe": probe,
                "objective": {"load_query": load_query},
            },
        }
    )


class Loads:
    """A Prometheus that knows which model is busy."""

    url = "told://"

    def __init__(self, **load: float) -> None:
        self.load = load

    def instant(self, query: str) -> tuple[Measured, ...]:
        return tuple(Measured({"model": name}, value) for name, value in self.load.items())


class World:
    """A vantage in a world where everything happens in one thread, unless told otherwise."""

    def __init__(
        self,
        topology: Topology,
        probe: Probe,
        *,
        clock: Any = None,
        threads: bool = False,
        loads: Loads | None = None,
        folder: FilePath | None = None,
    ) -> None:
        self.topology = topology
        self.clock = clock or (SystemClock() if threads else VirtualClock())
        self.members = Members(1)
        self.stores = {name: FaultyStore(MemoryStore(name)) for name in topology.regions}
        self.said: list[str] = []
        self.stopped = threading.Event()
        self.probe = probe
        self.executor = DaemonThreads() if threads else InlineExecutor()
        self.folder = folder
        self.loads = loads

    def prober(self) -> Prober:
        """A process that starts now."""
        golden = self.library()
        control = self.members.control(self.clock)
        return Prober(
            self.topology,
            "fra",
            asker=Asker(self.probe, golden, self.topology.traffic.probe.timeout_seconds),
            golden=golden,
            outside=OutsideView(self.topology, self.loads),
            keeper=Keeper(control, "fra", self.clock, InlineExecutor(), self.said.append),
            clock=self.clock,
            random=random.Random(0),
            executor=self.executor,
            said=self.said.append,
            stop=self.stopped.is_set,
        )

    def library(self) -> GoldenLibrary:
        return GoldenLibrary(
            lambda region: self.stores[region],
            lambda model: self.topology.model(model).regions,
            self.clock,
            self.executor,
            folder=self.folder,
        )

    def once(self) -> VantageRecord:
        """A round of a process of its own, as cron has it."""
        return published(self.prober(), Prober.once)


def published(prober: Prober, do: Callable[[Prober], object]) -> VantageRecord:
    """What is on record after something was done."""
    do(prober)
    assert prober.record is not None
    return prober.record


def samples(record: VantageRecord, region: str = "us") -> str:
    """`.` well, `x` not, oldest first."""
    series = next(each for each in record.series if each.region == region)
    return "".join("." if sample.ok else "x" for sample in series.samples)


# --- rounds -------------------------------------------------------------------------------------


def test_cron_goes_on_where_the_last_process_stopped() -> None:
    probe = Scripted()
    world = World(topology(), probe)
    for sign in "..xx":
        probe.hosts["eu"] = OK if sign == "." else DARK
        world.once()
        world.clock.sleep(10)
    probe.hosts["eu"] = OK
    record = world.once()
    assert (samples(record, "us"), samples(record, "eu")) == (".....", "..xx.")
    ages = [sample.seconds_ago for sample in record.series[0].samples]
    assert ages == [40, 30, 20, 10, 0]


def test_health_is_asked_as_runbooks_do_and_else_as_the_protocol_has_it() -> None:
    def protocol(question: Question) -> Answer:
        return OK if "/v2/" in question.url else Answer(0.01, status=404)

    probe = Scripted(eu=protocol)
    prober = World(topology(), probe).prober()
    for _ in range(2):
        prober.start_round()
    assert probe.asked == [
        *("GET http://us/health", "GET http://eu/health", "GET http://eu/v2/health/ready"),
        *("GET http://us/health", "GET http://eu/v2/health/ready"),  # by now it is known
    ]
    prober.publish()
    assert prober.record is not None
    assert samples(prober.record, "eu") == ".."


def test_the_front_door_is_a_series_of_its_own() -> None:
    eu = Answer(0.1, status=200, headers={"x-mlplatform-region": "eu"})
    probe = Scripted(door=eu, us=DARK)
    record = World(topology(front_door="http://door"), probe).once()
    door = record.series[-1]
    assert (door.path, door.route, door.region) == (Path.FRONT_DOOR, "api", "")
    assert [(sample.ok, sample.region) for sample in door.samples] == [(True, "eu")]
    assert samples(record, "us") == "x"


def test_changes_of_mind_are_said_once() -> None:
    probe = Scripted()
    world = World(topology(fall=2, rise=3), probe)
    prober = world.prober()
    world.said.clear()
    for sign in "....xxxx....":
        probe.hosts["eu"] = OK if sign == "." else DARK
        prober.start_round()
        prober.publish()
        world.clock.sleep(10)
    assert world.said == ["eu: down: timeout: 5 s passed in connect", "eu: up"]


# --- blindness ----------------------------------------------------------------------------------


def test_a_vantage_that_reaches_none_of_its_references_says_so_and_judges_nobody() -> None:
    probe = Scripted()
    world = World(topology(references=("http://ref1", "http://ref2")), probe)
    assert samples(world.once()) == "."
    probe.hosts |= {"ref1": DARK}
    assert samples(world.once()) == ".."  # one of them will do
    probe.hosts |= dict.fromkeys(("ref1", "ref2", "us", "eu"), DARK)
    for _ in range(3):
        world.clock.sleep(10)
        world.once()
    world.clock.sleep(10)
    record = world.once()
    assert record.blind.startswith("no reference could be reached: http://ref1: timeout")
    assert samples(record) == ".."
    assert record.series[0].samples[-1].seconds_ago == 40
    measure(record, None)
    assert blind_vantage.value(vantage="fra") == 1
    for host in ("ref1", "ref2", "us"):
        del probe.hosts[host]
    record = world.once()
    assert (record.blind, samples(record), samples(record, "eu")) == ("", "...", "..x")
    measure(record, None)
    assert blind_vantage.value(vantage="fra") == 0
    assert success.value(vantage="fra", region="eu", path="direct", route="") == 0


def test_without_references_one_is_never_blind_and_is_told() -> None:
    told = topology()
    assert doubts_of(told, "fra") == [
        "vantage fra names no references: it cannot know when it is blind"
    ]
    record = World(told, Scripted(us=DARK, eu=DARK)).once()
    assert (record.blind, samples(record)) == ("", "x")


def test_what_is_met_is_held_back_until_it_is_known_whether_one_could_see() -> None:
    """A region refuses at once; the reference takes its time."""
    release, asked = threading.Event(), threading.Event()

    def reference(_: Question) -> Answer:
        asked.set()
        release.wait()
        return DARK

    world = World(
        topology(references=("http://ref",)), Scripted(ref=reference, us=DARK), threads=True
    )
    prober = world.prober()
    prober.start_round()
    assert asked.wait(20)
    prober.publish()
    assert prober.record is None
    release.set()
    prober._wait(world.clock.monotonic() + 20, prober._idle)
    prober.publish()
    assert prober.record is not None
    assert prober.record.blind
    assert samples(prober.record) == ""


# --- nobody waits -------------------------------------------------------------------------------


def test_a_region_that_does_not_answer_holds_up_nobody() -> None:
    """Others are asked and told of, round after round; what it says in the end counts once."""
    release = threading.Event()

    def hangs(_: Question) -> Answer:
        release.wait()
        return DARK

    world = World(topology(), Scripted(eu=hangs), threads=True)
    prober = world.prober()
    try:
        for rounds in (1, 2, 3):
            prober.start_round()
            prober._wait(world.clock.monotonic() + 20, lambda: len(prober._findings) == 1)
            record = published(prober, Prober.publish)
            assert (samples(record, "us"), samples(record, "eu")) == ("." * rounds, "")
    finally:
        release.set()
    prober._wait(world.clock.monotonic() + 20, prober._idle)
    assert samples(published(prober, Prober.publish), "eu") == "x"
    late = [each for each in world.said if "take longer than the 10 s between rounds" in each]
    assert late == [
        "probes take longer than the 10 s between rounds: eu; the others are asked on time"
    ]


def test_more_targets_than_threads() -> None:
    regions = {f"r{n}": f"http://r{n}" for n in range(200)}
    world = World(topology(endpoints=regions), Scripted(r7=DARK), threads=True)
    record = world.once()
    assert [each.region for each in record.series if not each.samples[0].ok] == ["r7"]
    assert all(len(each.samples) == 1 for each in record.series)


def test_a_probe_that_breaks_is_not_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Question) -> Answer:
        raise RuntimeError("a bug")

    record = World(topology(), Scripted(eu=broken)).once()
    assert (samples(record), samples(record, "eu")) == (".", "")
    assert "a probe broke" in caplog.text


def test_control_stores_that_are_down_are_no_reason_to_stop() -> None:
    world = World(topology(), Scripted())
    prober = world.prober()
    with lost(world.members, 0):
        for _ in range(3):
            prober.start_round()
            prober.publish()
            world.clock.sleep(10)
        assert prober.unwritten
    prober.start_round()
    prober.publish()
    assert not prober.unwritten
    found = EvidenceReader(world.members.control(world.clock), ["fra"], world.clock).sightings()
    record = found["fra"].record
    assert isinstance(record, VantageRecord)
    assert samples(record) == "...."


def test_it_runs_until_it_is_stopped_with_jitter() -> None:
    world = World(topology(interval_seconds=10), Scripted())
    clock = world.clock
    assert isinstance(clock, VirtualClock)
    asked_at: list[float] = []

    def us(_: Question) -> Answer:
        asked_at.append(clock.seconds)
        if len(asked_at) == 20:
            world.stopped.set()
        return OK

    assert isinstance(world.probe, Scripted)
    world.probe.hosts["us"] = us
    world.prober().run()
    gaps = [later - earlier for earlier, later in pairwise(asked_at)]
    assert all(9 <= gap <= 11 for gap in gaps)
    assert len({round(gap, 3) for gap in gaps}) > 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vantages": {}}, "fra: no such vantage"),
        ({"regions": {"us": {"store": "memory://us"}}}, "there is nothing to probe"),
    ],
)
def test_what_cannot_be_probed_is_refused(change: Mapping[str, Any], said: str) -> None:
    told = topology().model_dump(mode="json")
    told["regions"] = change.get("regions", told["regions"])
    told["traffic"]["vantages"] = change.get("vantages", told["traffic"]["vantages"])
    with pytest.raises(UsageError, match=said) as refused:
        World(Topology.model_validate(told), Scripted()).prober()
    assert refused.value.hint


# --- golden requests ----------------------------------------------------------------------------


def serving(version: str = "v1", *, says: str | None = None) -> Callable[[Question], Answer]:
    """A server whose models give back what they are given."""

    def answer(question: Question) -> Answer:
        told: dict[str, Any]
        if question.url.endswith("/infer"):
            data = json.loads(question.body)["inputs"][0]["data"]
            output = {"name": "y", "datatype": "FP32", "shape": [1], "data": data}
            told = {"model_version": says or version, "outputs": [output]}
        else:
            told = {"versions": [version], "digest": f"blake3:{version}"}
        return Answer(0.05, status=200, body=json.dumps(told).encode())

    return answer


def golden_world(models: int = 3, *, published: bool = True, **named: Any) -> World:
    probe = Scripted(us=serving(), eu=serving())
    objective = named.pop("load_query", None)
    budget = named.pop("golden_per_round", 2)
    world = World(
        topology(models=models, load_query=objective, golden_per_round=budget), probe, **named
    )
    for n in range(models if published else 0):
        publish(world.stores["us"], ModelVersion(f"m{n}", "v1"), golden_line(n))
    return world


def asked_for(record: VantageRecord, region: str = "us") -> str:
    return " ".join(answer.model for answer in record.golden if answer.region == region)


def test_models_take_turns_over_processes() -> None:
    world = golden_world()
    for _ in range(2):
        world.once()
        world.clock.sleep(10)
    record = world.once()
    assert asked_for(record) == asked_for(record, "eu") == "m0 m1 m2 m0 m1 m2"
    assert all(answer.ok and answer.version == "v1" for answer in record.golden)
    assert record.golden[0].digest == "blake3:v1"
    assert record.turns == {"us": "m2", "eu": "m2"}


def test_the_busiest_come_first() -> None:
    world = golden_world(load_query="load", loads=Loads(m2=50.0, m1=3.0))
    assert asked_for(world.once()) == "m2 m1"


def test_no_budget_no_questions() -> None:
    assert golden_world(golden_per_round=0).once().golden == ()


def test_a_wrong_answer_is_told_of() -> None:
    world = golden_world(1)
    publish(world.stores["us"], ModelVersion("m0", "v1"), golden_line(1) + golden_line(2))
    probe = world.probe
    assert isinstance(probe, Scripted)
    right = serving()
    probe.hosts["eu"] = lambda question: (
        Answer(0.1, status=500, body=b'{"error": "CUDA out of memory"}')
        if question.url.endswith("/infer")
        else right(question)
    )
    record = world.once()
    found = {answer.region: (answer.ok, answer.detail) for answer in record.golden}
    assert found == {"us": (True, ""), "eu": (False, "HTTP 500: CUDA out of memory")}
    assert samples(record, "eu") == "."  # its front end is well: that is a gray failure


def test_a_region_without_an_answer_is_asked_no_golden_request() -> None:
    world = golden_world()
    assert isinstance(world.probe, Scripted)
    world.probe.hosts["eu"] = DARK
    assert asked_for(world.once(), "eu") == ""
    assert not [url for url in world.probe.asked if "http://eu/v2/models" in url]


def test_any_region_that_can_be_read_will_do() -> None:
    world = golden_world(published=False)
    publish(world.stores["eu"], ModelVersion("m0", "v1"), golden_line(0))
    world.stores["us"].down = True
    assert asked_for(world.once()) == "m0"


def test_requests_are_kept_on_this_machine_and_survive_every_region(tmp_path: FilePath) -> None:
    world = golden_world(1, folder=tmp_path)
    assert asked_for(world.once()) == "m0"
    for store in world.stores.values():
        store.down = True
    assert asked_for(world.once()) == "m0 m0"
    (kept,) = tmp_path.glob("*.ndjson")
    kept.write_bytes(golden_line(7))  # somebody's else; it is not under its own digest
    assert asked_for(world.once()) == "m0 m0"
    for store in world.stores.values():
        store.down = False
    assert asked_for(world.once()) == "m0 m0 m0"


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    tmp_path: FilePath, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert asked_for(golden_world(1, folder=tmp_path / "file" / "cache").once()) == "m0"
    assert "kept in memory only" in caplog.text


def test_models_without_golden_requests_do_not_use_up_the_budget() -> None:
    world = golden_world(5, published=False)
    for n in range(5):
        golden = golden_line(n) if n in {2, 4} else None
        publish(world.stores["us"], ModelVersion(f"m{n}", "v1"), golden)
    prober = world.prober()
    for _ in range(4):
        prober.start_round()
        prober.publish()
    assert prober.record is not None
    assert sorted(asked_for(prober.record).split()[-4:]) == ["m2", "m2", "m4", "m4"]


def test_what_cannot_be_read_is_no_failure_of_the_region() -> None:
    world = golden_world(1)
    for store in world.stores.values():
        store.down = True
    record = world.once()
    assert (record.golden, samples(record)) == ((), ".")


def test_bytes_that_were_not_published_are_not_asked() -> None:
    world = golden_world(1)
    world.stores["us"].put("models/m0/v1/golden.ndjson", golden_line(99))
    assert world.once().golden == ()


@pytest.mark.parametrize(
    ("served", "says", "published", "judged"),
    [
        ("v2", None, ("v2",), ("v2", True)),
        ("v2", None, (), ("v2", True)),
        ("1", None, (), ("1", True)),
        ("v1", "v2", ("v2",), ("v1", True)),
    ],
    ids=[
        "in the middle of a rollout",
        "never published",
        "counts by itself",
        "a canary, and right",
    ],
)
def test_a_region_that_serves_another_version(
    served: str, says: str | None, published: tuple[str, ...], judged: tuple[str, bool]
) -> None:
    world = golden_world(1)
    assert isinstance(world.probe, Scripted)
    world.probe.hosts["us"] = serving(served, says=says)
    for version in published:
        publish(world.stores["us"], ModelVersion("m0", version), golden_line(5))
    (answer,) = [each for each in world.once().golden if each.region == "us"]
    assert (answer.version, answer.ok) == (says or judged[0], judged[1])


def test_a_canary_that_answers_otherwise_is_judged_by_its_own() -> None:
    world = golden_world(1, published=False)
    right, other = json.loads(golden_line(1)), json.loads(golden_line(1))
    other["expect"]["outputs"][0]["data"] = [2.0]
    publish(world.stores["us"], ModelVersion("m0", "v1"), json.dumps(right).encode())
    publish(world.stores["us"], ModelVersion("m0", "v2"), json.dumps(other).encode())
    output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [2.0]}

    def canary(question: Question) -> Answer:
        told = {"model_version": "v2", "outputs": [output], "version": "v1"}
        return Answer(0.05, status=200, body=json.dumps(told).encode())

    assert isinstance(world.probe, Scripted)
    world.probe.hosts["us"] = canary
    found = {each.region: each for each in world.once().golden}
    assert (found["us"].version, found["us"].ok) == ("v2", True)


def test_a_store_that_hangs_is_not_waited_for() -> None:
    world = golden_world(1, threads=True)
    release = world.stores["us"].stalled = threading.Event()
    try:
        library = world.library()
        subject = ModelVersion("m0", "v1")
        waited = library.of(subject, wait_seconds=0.05)
        assert waited == Unknown("m0@v1: no store has answered yet")
    finally:
        release.set()
    assert not isinstance(library.of(subject, wait_seconds=20), Unknown)


def test_what_could_not_be_read_is_asked_for_again_after_a_while() -> None:
    world = golden_world(1, published=False)
    library, subject = world.library(), ModelVersion("m0", "v1")
    assert isinstance(library.of(subject, wait_seconds=1), NotPublished)
    world.stores["eu"].down = True
    publish(world.stores["us"], subject, golden_line(1))
    assert isinstance(library.of(subject, wait_seconds=1), NotPublished)  # not at once
    world.clock.sleep(61)
    assert not isinstance(library.of(subject, wait_seconds=1), Unknown)


def test_unreadable_is_not_unpublished() -> None:
    world = golden_world(1, published=False)
    world.stores["eu"].down = True
    found = world.library().of(ModelVersion("m0", "v1"), wait_seconds=1)
    assert isinstance(found, Unknown)
    assert not isinstance(found, NotPublished)
    assert "us: it is not there; " in found.reason
    assert "connection refused" in found.reason


# --- with real servers --------------------------------------------------------------------------


@pytest.fixture
def region() -> Iterator[tuple[str, Responder]]:
    """A region's servers, with one model."""
    responder = Responder({"m0": ("v1", "blake3:aa")}, region="eu")
    server = open_server(responder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", responder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_vantage_and_real_servers_on_a_bad_night(region: tuple[str, Responder]) -> None:
    url, responder = region
    with Peer(peers.never_answers) as hangs, Peer(peers.drips) as drips, Peer(peers.resets) as dies:
        endpoints = {"eu": url, "hangs": hangs.url, "drips": drips.url, "dies": dies.url}
        told = topology(endpoints=endpoints, models=1, timeout_seconds=1.5, front_door=url)
        world = World(told, HttpProbe(), threads=True)
        golden = {
            "request": {"inputs": [{"name": "x", "data": [1, 2]}]},
            "expect": {"outputs": [{"name": "sum", "data": [3]}]},
        }
        publish(world.stores["eu"], ModelVersion("m0", "v1"), json.dumps(golden).encode())
        first = world.once()
        responder.admin({"models": {"m0": "wrong"}, "delay_seconds": 0.1})
        second = world.once()
        responder.admin({"status": 503})
        third = world.once()
    errors = {each.region: each.samples[0].error for each in first.series if each.region}
    assert errors == {"eu": "", "hangs": "timeout", "drips": "timeout", "dies": "reset"}
    assert first.series[-1].samples[0].region == "eu"
    assert [each.ok for each in first.golden if each.region == "eu"] == [True]
    assert [each.ok for each in second.golden if each.region == "eu"] == [True, False]
    slow = second.series[0].samples[-1].first_byte_seconds
    assert slow is not None
    assert slow >= 0.1
    assert third.series[0].samples[-1].status == 503
    assert samples(third, "eu") == "..x"


def test_unavailable_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A Prometheus that does not answer changes the order of models, and nothing else."""

    class Dark(Loads):
        def instant(self, query: str) -> tuple[Measured, ...]:
            raise Unavailable("timeout")

    assert asked_for(golden_world(load_query="load", loads=Dark()).once()) == "m0 m1"
