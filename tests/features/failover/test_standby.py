"""What a region offers for a model: from servers, store and golden requests to one value."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlplatform import wiring
from mlplatform.adapters import http_fleet
from mlplatform.control.executors import DaemonThreads, InlineExecutor
from mlplatform.core.errors import Unavailable
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import Golden, Rate, Standby
from mlplatform.failover.evidence.record import Evidence, GoldenAnswer, Sighting, VantageRecord
from mlplatform.failover.standby.offers import (
    Offer,
    Standbys,
    allowed_versions,
    golden_answers,
    models_by_region,
    standby_of,
)
from mlplatform.failover.standby.stock import Kept, Stock
from mlplatform.ports.fleet import Served
from tests.responder import RESPONDER

from .warehouse import TOPOLOGY, Warehouse

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def kept(day: int, digest: str | None = "blake3:x", *, withdrawn: bool = False) -> Kept:
    """Stored there on that day."""
    return Kept(digest, DAY + timedelta(days=day), withdrawn)


AWAY = Unknown("eu: no answer")

# --- which versions are allowed ------------------------------------------------------------------

ALLOWED: dict[str, tuple[str | None, Mapping[str, Kept | Unknown], set[str]]] = {
    "what is declared": ("v2", {"v2": kept(2)}, {"v2"}),
    "declared, and not there yet": ("v2", {"v2": Kept()}, {"v2"}),
    "declared, and its store cannot be read": ("v2", {"v2": AWAY}, {"v2"}),
    "the last before it": ("v3", {"v1": kept(1), "v2": kept(2), "v3": kept(3)}, {"v3", "v2"}),
    "until it is there, the last": (
        "v3",
        {"v1": kept(1), "v2": kept(2), "v3": Kept()},
        {"v3", "v2"},
    ),
    "one that lies ready is not good yet": ("v2", {"v2": kept(2), "v3": kept(3)}, {"v2"}),
    "the last is spoilt": (
        "v3",
        {"v1": kept(1), "v2": kept(2, None), "v3": kept(3)},
        {"v3", "v1"},
    ),
    "the last is withdrawn": (
        "v3",
        {"v1": kept(1), "v2": kept(2, withdrawn=True), "v3": kept(3)},
        {"v3", "v1"},
    ),
    "the declared one is withdrawn": (
        "v3",
        {"v2": kept(2), "v3": kept(3, withdrawn=True)},
        {"v2"},
    ),
    "the declared one is spoilt": ("v3", {"v2": kept(2), "v3": kept(3, None)}, {"v3", "v2"}),
    "one cannot be read: it might be the last": (
        "v3",
        {"v1": kept(1), "v2": AWAY, "v3": kept(3)},
        {"v3"},
    ),
    "nothing is declared there": (None, {"v1": kept(1), "v2": kept(2)}, {"v2"}),
    "nothing at all": (None, {}, set()),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_allowed_versions(what: str) -> None:
    declared, found, expected = ALLOWED[what]
    assert allowed_versions(declared, found) == expected


# --- one cell ------------------------------------------------------------------------------------


def answer(
    seconds_ago: float, *, ok: bool = True, version: str | None = "v2", digest: str | None = None
) -> GoldenAnswer:
    return GoldenAnswer(
        region="eu",
        model="resnet50",
        version=version,
        digest=digest,
        seconds_ago=seconds_ago,
        ok=ok,
        seconds=0.03,
    )


def aged(*answers: GoldenAnswer) -> list[tuple[GoldenAnswer, float]]:
    return [(each, each.seconds_ago) for each in answers]


OFFER = Offer(
    Served({"v2": "blake3:aa"}, 3, 40.0),
    "v2",
    {"v2": kept(2, "blake3:aa")},
    aged(answer(20), answer(5)),
)
STANDBY = Standby(
    version="v2",
    digest="blake3:aa",
    allowed=frozenset({"v2"}),
    stored="blake3:aa",
    golden=Golden(ok=True, seconds=0.03, age_seconds=5),
    servers=3,
    rate=Rate(40.0, "measured"),
)
NEVER = replace(STANDBY, golden=None)

CELLS: dict[str, tuple[Offer, Standby | Unknown]] = {
    "all is well": (OFFER, STANDBY),
    "its servers do not answer": (replace(OFFER, served=AWAY), AWAY),
    "it serves nothing": (
        Offer(Served(), "v2", {}, ()),
        Standby(allowed=frozenset({"v2"})),
    ),
    "nobody has measured a rate": (
        replace(OFFER, served=Served({"v2": "blake3:aa"}, 3)),
        replace(STANDBY, rate=None),
    ),
    "its servers state no digest": (
        replace(OFFER, served=Served({"v2": ""}, 3, 40.0)),
        replace(STANDBY, digest=None),
    ),
    "its store holds other bytes": (
        replace(OFFER, kept={"v2": kept(2, "blake3:bb")}),
        replace(STANDBY, stored="blake3:bb"),
    ),
    "its store holds it unverified": (
        replace(OFFER, kept={"v2": kept(2, None)}),
        replace(STANDBY, stored=None),
    ),
    "its store cannot be read": (
        replace(OFFER, kept={"v2": AWAY}),
        replace(STANDBY, stored=AWAY),
    ),
    "a name that cannot be published": (
        replace(OFFER, served=Served({"?": ""}, 1), golden=(), kept={}),
        Standby(version="?", allowed=frozenset({"v2"}), servers=1),
    ),
    "the old one, still good": (
        Offer(
            Served({"v1": "blake3:11"}, 2),
            "v2",
            {"v1": kept(1, "blake3:11"), "v2": kept(2, "blake3:aa")},
            aged(answer(5, version="v1")),
        ),
        Standby(
            version="v1",
            digest="blake3:11",
            allowed=frozenset({"v1", "v2"}),
            stored="blake3:11",
            golden=Golden(ok=True, seconds=0.03, age_seconds=5),
            servers=2,
        ),
    ),
    "an update under way: the one that is not allowed counts": (
        replace(
            OFFER,
            served=Served({"v2": "blake3:aa", "v0": "blake3:00"}, 3, 40.0),
            kept={"v2": kept(2, "blake3:aa"), "v0": kept(3, "blake3:00")},
        ),
        replace(NEVER, version="v0", digest="blake3:00", stored="blake3:00"),
    ),
    "a canary beside it": (
        replace(
            OFFER,
            served=Served({"v2": "blake3:aa", "v3": "blake3:cc"}, 3, 40.0, canary="v3"),
        ),
        replace(STANDBY, canary="v3"),
    ),
    "the last golden answer was wrong": (
        replace(OFFER, golden=aged(answer(20), answer(5, ok=False))),
        replace(STANDBY, golden=Golden(ok=False, seconds=0.03, age_seconds=5)),
    ),
    "the last golden request had no answer": (
        replace(OFFER, golden=aged(answer(20), answer(5, ok=False, version=None))),
        replace(STANDBY, golden=Golden(ok=False, seconds=0.03, age_seconds=5)),
    ),
    "only another version was asked": (replace(OFFER, golden=aged(answer(5, version="v1"))), NEVER),
    "only other bytes were asked": (
        replace(OFFER, golden=aged(answer(5, digest="blake3:bb"))),
        NEVER,
    ),
    "no golden request was sent": (replace(OFFER, golden=()), NEVER),
    "no vantage could tell": (
        replace(OFFER, golden=AWAY),
        replace(STANDBY, golden=AWAY),
    ),
}


@pytest.mark.parametrize("what", CELLS)
def test_one_cell(what: str) -> None:
    offer, expected = CELLS[what]
    assert standby_of(offer) == expected


# --- golden answers of all vantages --------------------------------------------------------------


def sighting(*answers: GoldenAnswer, age_seconds: float = 2.0, blind: str = "") -> Sighting:
    record = VantageRecord(
        vantage="fra",
        round=1,
        at=DAY,
        interval_seconds=10.0,
        blind=blind,
        golden=answers,
    )
    return Sighting(record, age_seconds)


CELL = ("eu", "resnet50")
HEARD: dict[str, tuple[dict[str, Sighting], list[float] | str]] = {
    "all of them": (
        {"fra": sighting(answer(5), answer(15)), "iad": sighting(answer(1), age_seconds=4)},
        [7, 17, 5],
    ),
    "not one that is blind": (
        {"fra": sighting(answer(5)), "iad": sighting(answer(1, ok=False), blind="no way out")},
        [7],
    ),
    "not one that is late": (
        {"fra": sighting(answer(5)), "iad": sighting(answer(1), age_seconds=100)},
        [7],
    ),
    "not one from the future": (
        {"fra": sighting(answer(5)), "iad": sighting(answer(1), age_seconds=-3600)},
        [7],
    ),
    "clocks that differ a little make nothing younger": (
        {"fra": sighting(answer(5), age_seconds=-3)},
        [5],
    ),
    "none is left": (
        {"fra": Sighting(AWAY), "iad": sighting(answer(1), blind="no way out")},
        "eu: no answer; iad is blind: no way out",
    ),
    "none is declared": ({}, []),
    "they tell of others": ({"fra": sighting()}, []),
}


@pytest.mark.parametrize("what", HEARD)
def test_who_is_heard(what: str) -> None:
    vantages, expected = HEARD[what]
    found = golden_answers(Evidence(vantages))
    if isinstance(found, Unknown):
        assert found.reason == expected
    else:
        assert [age_seconds for _, age_seconds in found.get(CELL, ())] == expected


# --- read all at once ----------------------------------------------------------------------------


class Servers:
    """One region's."""

    def __init__(self, **said: Served | Unknown) -> None:
        self.said = said
        self.asked: list[frozenset[str]] = []
        self.away = False

    @property
    def url(self) -> str:
        return "http://region.example"

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        self.asked.append(models)
        if self.away:
            raise Unavailable("no answer", store=self.url)
        return {model: self.said[model] for model in models if model in self.said}

    def ask_capacity(self, model: str, servers: int) -> str:
        raise NotImplementedError

    def lame_duck(self, *, enter: bool) -> None:
        raise NotImplementedError


def reader(warehouse: Warehouse, fleets: Mapping[str, Servers]) -> Standbys:
    return Standbys(
        warehouse.topology,
        fleets.__getitem__,
        Stock(warehouse.catalogue, warehouse.clock),
        executor=InlineExecutor(),
    )


def test_regions_and_models_of_the_routes_named() -> None:
    topology = Warehouse().topology
    assert models_by_region(topology, ["api"]) == {
        "us": frozenset({"resnet50"}),
        "eu": frozenset({"resnet50"}),
    }
    assert models_by_region(topology, ["api", "search"]) == {
        "us": frozenset({"resnet50", "bert"}),
        "eu": frozenset({"resnet50", "bert"}),
        "ap": frozenset({"bert"}),
    }


def test_each_region_is_asked_once_and_what_fails_is_its_own() -> None:
    warehouse = Warehouse()
    resnet = {region: warehouse.publish(region, "v2", body=b"r" * 80) for region in ("us", "eu")}
    bert = {
        region: warehouse.publish(region, "v1", model="bert", body=b"b" * 80)
        for region in ("us", "eu", "ap")
    }
    fleets = {
        "us": Servers(),
        "eu": Servers(
            resnet50=Served({"v2": resnet["eu"]}, 2), bert=Served({"v1": "blake3:other"}, 1)
        ),
        "ap": Servers(bert=Served({"v1": bert["ap"]}, 4)),
    }
    fleets["us"].away = True
    evidence = Evidence({"fra": sighting(answer(5))})
    found = reader(warehouse, fleets)(evidence, ["api", "search"])
    assert all(isinstance(cell, Unknown) for cell in found["us"].values())
    assert found["eu"]["resnet50"] == Standby(
        version="v2",
        digest=resnet["eu"],
        allowed=frozenset({"v2"}),
        stored=resnet["eu"],
        golden=Golden(ok=True, seconds=0.03, age_seconds=7),
        servers=2,
    )
    assert found["eu"]["bert"] == Standby(
        version="v1",
        digest="blake3:other",
        allowed=frozenset({"v1"}),
        stored=bert["eu"],
        servers=1,
    )
    assert found["ap"]["bert"] == Standby(
        version="v1",
        digest=bert["ap"],
        allowed=frozenset({"v1"}),
        stored=bert["ap"],
        servers=4,
    )
    assert [len(servers.asked) for servers in fleets.values()] == [1, 1, 1]


@contextmanager
def responder(*arguments: str) -> Iterator[str]:
    """A model server, as a process: its URL."""
    command = (sys.executable, RESPONDER, "--port", "0", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


def test_real_servers_over_a_regions_own_store(tmp_path: Path) -> None:
    text = TOPOLOGY.replace("memory://", f"file://{tmp_path}/")
    topology = Topology.parse(text)
    warehouse = Warehouse(topology, open_store=wiring.region_stores(topology))
    digests = {region: warehouse.publish(region, "v2", body=b"r" * 80) for region in ("us", "eu")}
    held = {"us": f"v2={digests['us']}", "eu": "v2=blake3:other"}
    with ExitStack() as processes:
        urls = {
            region: processes.enter_context(responder("--model", f"resnet50={what}"))
            for region, what in held.items()
        }
        read = Standbys(
            topology,
            lambda region: http_fleet.open_fleet(urls[region], environ={}),
            Stock(warehouse.catalogue, warehouse.clock),
            executor=DaemonThreads(),
        )
        evidence = Evidence({"fra": sighting(answer(5))})
        good, bad = (read(evidence, ["api"])[region]["resnet50"] for region in ("us", "eu"))
    assert isinstance(good, Standby)
    assert isinstance(bad, Standby)
    assert (good.version, good.servers, good.golden) == ("v2", 1, None)
    assert good.digest == good.stored == digests["us"]
    assert (bad.digest, bad.stored) == ("blake3:other", digests["eu"])
    assert bad.golden == Golden(ok=True, seconds=0.03, age_seconds=7)
    gone = read(evidence, ["api"])["us"]["resnet50"]
    assert isinstance(gone, Unknown)
    assert urls["us"] in gone.reason


def test_a_store_is_asked_for_what_is_served_and_no_more() -> None:
    warehouse = Warehouse()
    for version in ("v0", "v1", "v2", "v3"):
        warehouse.publish("eu", version)
    fleets = {"us": Servers(resnet50=Served()), "eu": Servers(resnet50=Served({"v2": ""}, 1))}
    read = reader(warehouse, fleets)
    warehouse.quiet()
    read(Evidence(), ["api"])
    assert {key.split("/")[-1] for key in warehouse.asked("eu")} <= {"v2.json", "manifest.json"}
    assert warehouse.asked("us") == []


def test_where_something_else_is_served_its_last_good_one_is_found() -> None:
    warehouse = Warehouse()
    digests = {version: warehouse.publish("eu", version) for version in ("v0", "v1", "v2", "v3")}
    fleets = {
        "us": Servers(resnet50=Served()),
        "eu": Servers(resnet50=Served({"v1": digests["v1"]}, 1)),
    }
    read = reader(warehouse, fleets)
    cell = read(Evidence(), ["api"])["eu"]["resnet50"]
    assert isinstance(cell, Standby)
    assert (cell.version, cell.stored) == ("v1", digests["v1"])
    assert cell.allowed == {"v1", "v2"}
    fleets["eu"].said["resnet50"] = Served({"v0": digests["v0"]}, 1)
    cell = read(Evidence(), ["api"])["eu"]["resnet50"]
    assert isinstance(cell, Standby)
    assert cell.version == "v0"
    assert cell.allowed == {"v1", "v2"}


def test_what_a_fleet_does_not_mention_is_unknown() -> None:
    warehouse = Warehouse()
    fleets = {"us": Servers(), "eu": Servers(resnet50=AWAY)}
    found = reader(warehouse, fleets)(Evidence(), ["api"])
    assert found["eu"]["resnet50"] == AWAY
    assert found["us"]["resnet50"] == Unknown("us: nothing was said of resnet50")
