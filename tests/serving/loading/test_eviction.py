"""Who leaves memory for another, who never does, and what an inference of one that left is told."""

from __future__ import annotations

import asyncio

import pytest

from mlplatform_serving.errors import LoadFailed, NotFound, Unavailable
from mlplatform_serving.memory.breaker import Gauge
from tests.serving.loading.scene import SIZE, World, infer, names, play, state, until

# A model takes 1.25 of its files until it was loaded once; then at least what they have.
ROOM_FOR_TWO = 2 * SIZE * 5 // 4


def test_the_least_recently_used_leaves_and_comes_again(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        await repository.load("a")
        await repository.load("b")
        await infer(repository, "a")
        await repository.load("c")
        assert names(repository) == {"a@v1", "c@v1"}
        shown, reason = await state(repository, "b")
        assert shown == "UNAVAILABLE"
        assert reason == "evicted: to make room for c@v1; an inference loads it again"
        assert repository.well or not repository.started
        await infer(repository, "b")
        assert names(repository) == {"b@v1", "c@v1"}
        assert world.stage.closed == {"b": 1, "a": 1}
        await repository.close()

    play(scene())


def test_what_runs_or_is_pinned_stays(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        await repository.load("a")
        await repository.load("b")
        await repository.pin("b")
        gate = world.stage.hold(world.stage.running, "a")
        running = asyncio.create_task(infer(repository, "a"))
        await until(lambda: any(each.instance.pending for each in repository.loaded()))
        with pytest.raises(Unavailable, match="1 pinned, 1 busy stay"):
            await repository.load("c")
        assert names(repository) == {"a@v1", "b@v1"}
        gate.set()
        await running
        await repository.load("c")
        assert names(repository) == {"b@v1", "c@v1"}
        await repository.pin("b", pinned=False)
        await repository.pin("c", "v1")
        await infer(repository, "a")
        assert names(repository) == {"a@v1", "c@v1"}
        with pytest.raises(NotFound):
            await repository.pin("nobody")
        await repository.close()

    play(scene())


def test_whoever_asks_while_it_comes_waits_for_the_same_load(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        for name in "abc":
            await repository.load(name)
        before = world.stage.opened["a"]
        await asyncio.gather(*(infer(repository, "a") for _ in range(20)))
        assert world.stage.opened["a"] == before + 1
        await repository.close()

    play(scene())


def test_without_loading_on_demand_an_evicted_model_is_503(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO, on_demand=False)
        for name in "abc":
            await repository.load(name)
        with pytest.raises(Unavailable, match="evicted: to make room for c@v1"):
            await infer(repository, "a")
        await repository.load("a")
        await infer(repository, "a")
        await repository.close()

    play(scene())


def test_what_an_administrator_unloaded_stays_unloaded(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        for name in "abc":
            await repository.load(name)
        await repository.unload("a")
        with pytest.raises(NotFound):
            await infer(repository, "a")
        await repository.close()

    play(scene())


def test_the_version_that_answers_is_the_same_when_it_comes_again(world: World) -> None:
    world.publish("a", size=SIZE)
    world.publish("a", version="v2", size=SIZE)
    world.publish("b", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        await repository.load("a", "v2")
        await repository.load("a", "v1")
        assert (await repository.reach("a")).version == "v1"
        await repository.reach("a", "v2")
        await repository.load("b")
        assert names(repository) == {"a@v2", "b@v1"}
        again = await repository.reach("a")
        assert (again.version, names(repository)) == ("v1", {"a@v1", "b@v1"})
        # Both are named by their number, too.
        assert (await repository.reach("a", "v2")).version == "v2"
        await repository.close()

    play(scene())


def test_its_statistics_stay(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        kept = (await repository.load("a")).statistics
        await repository.load("b")
        await repository.load("c")
        assert (await repository.reach("a")).statistics is kept
        await repository.close()

    play(scene())


def test_a_model_in_use_is_not_evicted_for_another_in_use(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO, idle_seconds_min=3600)
        await repository.load("a")
        await repository.load("b")
        with pytest.raises(Unavailable, match="2 used a moment ago stay"):
            await repository.load("c")
        assert world.stage.opened == {"a": 1, "b": 1}
        await repository.close()

    play(scene())


def test_more_models_than_room_at_the_start(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(
            budget_bytes=ROOM_FOR_TWO, idle_seconds_min=3600, concurrent=1
        )
        await repository.load_all([], None)
        assert repository.well
        assert len(names(repository)) == 2
        (left,) = {"a", "b", "c"} - {each[0] for each in names(repository)}
        with pytest.raises(Unavailable, match="used a moment ago"):
            await infer(repository, left)
        await repository.close()
        strict = world.repository(
            budget_bytes=ROOM_FOR_TWO, idle_seconds_min=3600, on_demand=False, concurrent=1
        )
        await strict.load_all([], None)
        assert not strict.well
        await strict.close()

    play(scene())


def test_one_that_can_never_fit(world: World) -> None:
    world.publish("a", size=SIZE)
    world.publish("huge", size=4 * SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        await repository.load("a")
        with pytest.raises(Unavailable, match="all models together may take 2500000"):
            await repository.load("huge")
        assert names(repository) == {"a@v1"}
        await repository.close()

    play(scene())


def test_an_evicted_one_that_cannot_come_again_is_not_tried_by_every_request(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository(budget_bytes=ROOM_FOR_TWO)
        for name in "abc":
            await repository.load(name)
        world.stage.raises["a"] = RuntimeError("broken")
        for _ in range(5):
            with pytest.raises(Unavailable, match="could not be loaded"):
                await infer(repository, "a")
        assert repository._metrics.load_failures.labels("a", "v1")._value.get() == 1
        del world.stage.raises["a"]
        with pytest.raises(Unavailable):
            await infer(repository, "a")
        await repository.load("a")
        await infer(repository, "a")
        await repository.close()

    play(scene())


def test_memory_that_is_full_refuses_and_takes_work_again(world: World) -> None:
    world.publish("a")

    async def scene() -> None:
        repository = world.repository()
        await repository.load("a")
        world.host = Gauge("host", 96 * SIZE, 100 * SIZE)
        await repository.memory.read_all()
        with pytest.raises(Unavailable, match=r"no memory is left for more work: host 96% full"):
            await infer(repository, "a")
        assert next(repository.loaded()).statistics.shed["memory"] == 1
        world.host = Gauge("host", 50 * SIZE, 100 * SIZE)
        for world.now in (1.0, 5.0):
            await repository.memory.read_all()
            with pytest.raises(Unavailable):
                await infer(repository, "a")
        world.now = 6.0
        await repository.memory.read_all()
        await infer(repository, "a")
        await repository.close()

    play(scene())


def test_memory_that_is_tight_takes_the_idle_and_loads_nothing_more(world: World) -> None:
    world.publish(*"abc", size=SIZE)

    async def scene() -> None:
        repository = world.repository()
        world.host = Gauge("host", 0, 100 * SIZE)
        await repository.load("a")
        await repository.load("b")
        world.host = Gauge("host", 91 * SIZE, 100 * SIZE)
        await repository.memory.read_all()
        await repository.pin("b")
        await repository._relieve()
        assert names(repository) == {"b@v1"}
        with pytest.raises((Unavailable, LoadFailed), match="are lacking: of the models there"):
            await repository.load("c")
        await infer(repository, "b")
        await repository.close()

    play(scene())
