"""Loads keep to their number and their time, and whatever a backend does, nothing is half there."""

from __future__ import annotations

import asyncio

import pytest

from mlplatform_serving.errors import LoadFailed, NotFound, Unavailable
from mlplatform_serving.models.manifest import ModelFiles
from tests.serving.loading.scene import World, infer, names, play, state, until

WORDS = "the password of the database is 12345"


def test_no_more_loads_at_once_than_allowed(world: World) -> None:
    world.publish(*"abcde")

    async def scene() -> None:
        repository = world.repository(concurrent=2)
        gates = [world.stage.hold(world.stage.opening, name) for name in "abcde"]
        loads = [asyncio.create_task(repository.load(name)) for name in "abcde"]
        await until(lambda: world.stage.at_once == 2)
        for gate in gates:
            gate.set()
        await asyncio.gather(*loads)
        assert world.stage.at_once_max == 2
        assert names(repository) == {f"{name}@v1" for name in "abcde"}
        await repository.close()

    play(scene())


def test_two_loads_of_one_model_are_one(world: World) -> None:
    world.publish("a")

    async def scene() -> None:
        repository = world.repository()
        loaded = await asyncio.gather(*(repository.load("a") for _ in range(5)))
        assert len({id(each) for each in loaded}) == 1
        assert world.stage.opened == {"a": 1}
        await repository.close()

    play(scene())


SHORT_SECONDS = 0.2
GATED = ("stuck", "mired")


def test_a_load_that_hangs_is_given_up_and_holds_its_slot_until_it_ends(world: World) -> None:
    world.publish("stuck", "mired", "fine")

    async def scene() -> None:
        repository = world.repository(concurrent=2)
        slots, patient = repository._slots, repository._slots.timeout_seconds
        gates = [world.stage.hold(world.stage.opening, name) for name in GATED]

        async def hang(name: str, held: int) -> None:
            """On a busy machine the time is over before it hangs; then once more."""
            slots.timeout_seconds = SHORT_SECONDS
            while world.stage.held < held:
                with pytest.raises(LoadFailed, match=r"timeout after 0\.2 seconds \(MODEL_LOAD"):
                    await repository.load(name)
                # It comes to its gate late, or ends.
                await until(lambda: world.stage.held >= held or slots._hung < held)
            slots.timeout_seconds = patient

        await hang("stuck", 1)
        assert (await state(repository, "stuck"))[0] == "UNAVAILABLE"
        # The other slot is free.
        await repository.load("fine")
        await repository.unload("fine")
        await hang("mired", 2)
        with pytest.raises(Unavailable, match="2 loads hang"):
            await repository.load("fine")
        for gate in gates:
            gate.set()
        await until(lambda: slots._hung == 0)
        # What came too late is closed, and nobody sees it.
        await until(lambda: all(world.stage.closed[x] == world.stage.opened[x] for x in GATED))
        await repository.load("fine")
        assert names(repository) == {"fine@v1"}
        await repository.close()

    play(scene())


def test_who_waits_for_a_slot_is_told_when_all_hang(world: World) -> None:
    world.publish("stuck", "waits")

    async def scene() -> None:
        repository = world.repository(concurrent=1)
        slots = repository._slots
        gate = world.stage.hold(world.stage.opening, "stuck")
        slots.timeout_seconds = 3.0
        stuck = asyncio.create_task(repository.load("stuck", "v1"))
        await until(lambda: world.stage.held == 1)
        waits = asyncio.create_task(repository.load("waits", "v1"))
        outcomes = await asyncio.gather(stuck, waits, return_exceptions=True)
        assert [type(each) for each in outcomes] == [LoadFailed, Unavailable]
        gate.set()
        await until(lambda: repository._slots._hung == 0)
        await repository.close()

    play(scene())


@pytest.mark.parametrize(
    "error", [RuntimeError(WORDS), MemoryError(), StopIteration(), SystemExit(3)], ids=repr
)
def test_a_backend_that_raises(
    world: World, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish("bad", "good")

    async def scene() -> None:
        repository = world.repository()
        world.stage.raises["bad"] = error
        with pytest.raises(LoadFailed, match="it could not be loaded") as failed:
            await repository.load("bad")
        assert WORDS not in failed.value.message
        assert await state(repository, "bad") == ("UNAVAILABLE", "it could not be loaded")
        del world.stage.raises["bad"]
        await repository.load("bad")
        await repository.load("good")
        await repository.close()

    play(scene())
    assert "Model failed to load: bad@v1" in caplog.text


def test_a_file_that_vanishes_while_it_is_loaded(world: World) -> None:
    world.publish("a")

    def vanish(files: ModelFiles) -> None:
        (world.folder / "a" / "v1" / "weights").unlink()

    async def scene() -> None:
        repository = world.repository()
        world.stage.before_open = vanish
        with pytest.raises(LoadFailed, match="Model file not found: weights"):
            await repository.load("a")
        assert names(repository) == set()

    play(scene())


def test_unload_while_it_is_loaded(world: World) -> None:
    world.publish("a")

    async def scene() -> None:
        repository = world.repository()
        gate = world.stage.hold(world.stage.opening, "a")
        loading = asyncio.create_task(repository.load("a"))
        await until(lambda: world.stage.held == 1)
        await repository.unload("a")
        with pytest.raises(LoadFailed, match="unloaded before it was loaded"):
            await loading
        assert names(repository) == set()
        with pytest.raises(NotFound):
            await infer(repository, "a")
        gate.set()
        await until(lambda: world.stage.closed["a"] == 1)
        await repository.load("a")
        await repository.close()

    play(scene())


def test_a_server_that_stops_gives_up_what_it_loads(world: World) -> None:
    world.publish("a")

    async def scene() -> None:
        repository = world.repository()
        gate = world.stage.hold(world.stage.opening, "a")
        loading = asyncio.create_task(repository.load_all([], None))
        await until(lambda: world.stage.held == 1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        gate.set()
        await until(lambda: world.stage.closed["a"] == 1)
        assert names(repository) == set()

    play(scene())


def test_how_far_a_load_is_can_be_seen(world: World) -> None:
    world.publish("a", size=3_000_000)

    async def scene() -> None:
        repository = world.repository()
        gate = world.stage.hold(world.stage.opening, "a")
        loading = asyncio.create_task(repository.load("a"))
        await until(lambda: bool(repository.loads()) and repository.loads()[0]["bytes"] == 3e6)
        told = repository.loads()[0]
        assert (told["state"], told["stage"], told["bytes_total"]) == ("LOADING", "loading", 3e6)
        assert isinstance(told["bytes_per_second"], float)
        shown, reason = await state(repository, "a")
        assert shown == "LOADING"
        assert reason.startswith("loading: 100% of 3.0 MB, ")
        with pytest.raises(Unavailable, match="which is not ready: loading: 100%"):
            await infer(repository, "a")
        gate.set()
        await loading
        assert repository.loads() == []
        await repository.close()

    play(scene())
