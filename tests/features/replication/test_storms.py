"""Seeded storms: faults before and after calls, dropped uploads, meddling, kills, restarts.

Whatever happens, a receipt speaks only of the right bytes; and when the weather clears, one more
run finishes. A seed that fails is replayed by its number: `-k "storm and 1234"`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.digest import Evidence, digest_of
from mlplatform.core.errors import (
    Denied,
    Interrupted,
    MlplatformError,
    Throttled,
    Unavailable,
)
from mlplatform.ports.store import read_bytes
from mlplatform.replication.transfer import Settings, TargetReport

from .test_transfer_threads import within
from .world import (
    AZURE,
    BLOCK,
    FILES,
    INLINE,
    S3,
    Call,
    Model,
    Watched,
    bring,
    noise,
    patient,
)


class Killed(BaseException):
    pass


def model_of(chance: random.Random) -> Model:
    bodies = {
        f"{n}.bin": noise(chance.choice([0, 5, BLOCK, 3 * BLOCK, 6 * BLOCK + 1]), n)
        for n in range(chance.randrange(1, 7))
    }
    return Model(bodies)


def store_of(chance: random.Random, name: str) -> MemoryStore:
    features = chance.choice([S3, AZURE, FILES])
    return MemoryStore(
        name,
        features=features,
        states=chance.choice([("crc32c",), ("crc64nvme",), ("crc64nvme", "crc32c")]),
        states_parts=chance.choice([True, False, None]),
    )


class Storm:
    """What happens to a store's calls, by chance."""

    def __init__(self, chance: random.Random, model: Model, store: MemoryStore) -> None:
        self.chance = chance
        self.model = model
        self.store = store
        self.strength = chance.choice([0.02, 0.1, 0.3])
        self.kills = chance.random() < 0.4
        self.rots = True
        self.lock = threading.Lock()

    def before(self, call: Call) -> None:
        with self.lock:
            self.strike(call, after=False)

    def after(self, call: Call) -> None:
        with self.lock:
            self.strike(call, after=True)

    def strike(self, call: Call, *, after: bool) -> None:
        chance = self.chance
        if chance.random() > self.strength:
            return
        if after and self.rots and self.store.features.evidence is Evidence.READ_BACK:
            self.rot(call)
        what = chance.choice(["down", "slow down", "denied", "killed", "dropped", "same", "other"])
        if what == "killed" and self.kills:
            raise Killed
        if what == "down":
            raise Unavailable("reset")
        if what == "slow down" and not after:
            raise Throttled("slow down", retry_after_seconds=1.0)
        if what == "denied" and not after and chance.random() < 0.2:
            raise Denied("expired", right="put")
        if what == "dropped":
            for upload in self.store.uploads(""):
                if chance.random() < 0.5:
                    upload.abort()
        paths = {self.model.key(path): body for path, body in self.model.bodies.items()}
        if call.key in paths and what == "same":
            self.store.put(call.key, paths[call.key])
        if call.key in paths and what == "other" and chance.random() < 0.3:
            self.store.put(call.key, noise(len(paths[call.key]), 404))
        if call.key in paths and what == "other":
            for upload in self.store.uploads(call.key):
                for part in list(upload.parts())[:1]:
                    body = noise(part.size_bytes, 405)
                    upload.part(part.index, body, digests=digest_of(body))

    def rot(self, call: Call) -> None:
        """What was just written is not what arrived; only reading it back can tell."""
        if call.verb == "part":
            for upload in self.store.uploads(call.key):
                if call.index in {part.index for part in upload.parts()}:
                    self.store.damage_part(upload.id, call.index or 0, 0)
        elif call.verb == "put" and call.size_bytes:
            self.store.damage(call.key, 0)


def require_truth(model: Model, store: MemoryStore, report: TargetReport) -> None:
    """A receipt whose tag the object still has speaks of the right bytes."""
    for path, receipt in report.objects.items():
        body, stat = read_bytes(store, model.key(path))
        if stat.tag == receipt.tag:
            assert body == model.bodies[path], path


def weather(seed: int, settings: Settings) -> None:
    chance = random.Random(seed)
    model = model_of(chance)
    stores = [store_of(chance, name) for name in ("a", "b")[: chance.randrange(1, 3)]]
    told: list[str] = []

    def stored(report: TargetReport) -> None:
        assert set(report.objects) == set(model.bodies)
        told.append(report.region)

    for _ in range(chance.randrange(1, 4)):
        storms = [Storm(chance, model, store) for store in stores]
        watched = [
            Watched(store, before=storm.before, after=storm.after)
            for store, storm in zip(stores, storms, strict=True)
        ]
        ends = time.monotonic() + 20
        halts = chance.random() < 0.2
        total = chance.randrange(1, 40)

        def stop(watched: list[Watched] = watched, halts: bool = halts, total: int = total) -> bool:
            return halts and sum(len(each.calls) for each in watched) > total

        try:
            report = bring(
                model,
                *[(store.store.url, store) for store in watched],
                settings=settings,
                retry=patient(),
                on_stored=stored,
                stop=stop,
            )
        except (Killed, Interrupted):
            continue
        finally:
            assert time.monotonic() < ends
        for store in stores:
            target = report.targets[store.url]
            require_truth(model, store, target)
            assert (target.error is None) == (set(target.objects) == set(model.bodies)) or (
                target.error is not None
            )

    calm = bring(model, *[(store.url, store) for store in stores], settings=settings)
    for store in stores:
        target = calm.targets[store.url]
        assert target.error is None, target.error
        assert set(target.objects) == set(model.bodies)
        require_truth(model, store, target)
        assert model.content_in(store) == model.bodies
    again = bring(model, *[(store.url, store) for store in stores], settings=settings)
    assert again.needed_bytes == 0


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_storm_in_one_thread(start: int) -> None:
    for seed in range(start, start + 100):
        try:
            weather(seed, INLINE)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("seed", range(40))
def test_storm_with_threads(seed: int) -> None:
    settings = Settings(budget_bytes=4 * BLOCK, readers=2, senders_per_target=3)
    within(60, lambda: weather(10_000 + seed, settings))


@pytest.mark.parametrize("seed", range(20))
def test_two_replicators_in_a_storm(seed: int) -> None:
    """Both keep the lease's promise broken: they work on one version at once."""
    chance = random.Random(20_000 + seed)
    model, store = model_of(chance), store_of(chance, "t")
    errors: list[MlplatformError | None] = []

    def one(number: int) -> Callable[[], None]:
        def run() -> None:
            storm = Storm(random.Random(seed * 2 + number), model, store)
            storm.kills = storm.rots = False
            report = bring(
                model,
                ("t", Watched(store, before=storm.before, after=storm.after)),
                settings=Settings(budget_bytes=4 * BLOCK),
                retry=patient(),
            )
            require_truth(model, store, report.targets["t"])
            errors.append(report.targets["t"].error)

        return run

    def both() -> None:
        threads = [threading.Thread(target=one(number)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    within(60, both)
    assert len(errors) == 2
    assert bring(model, ("t", store)).targets["t"].error is None
    assert model.content_in(store) == model.bodies
