"""One model's executor: real threads, and backends that do what a test tells them. Nothing here
waits for a time to pass, but for a thread to come to a point."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest

from mlplatform_serving.errors import (
    BadRequest,
    ClientGone,
    InferenceFailed,
    ServingError,
    Unavailable,
)
from mlplatform_serving.models.instance import GONE, REFUSED, Done, Instance, Limits
from mlplatform_serving.models.statistics import Statistics
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
PATIENCE_SECONDS = 60


class Model:
    """Gives its input back when it is let; says what it was given."""

    def __init__(self, infer: Infer | None = None, shape: tuple[int, ...] = (-1, 2)) -> None:
        specs = TensorSpec("x", "FP32", shape), TensorSpec("y", "FP32", shape)
        self.signature = Signature((specs[0],), (specs[1],))
        self.may = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.given: list[Array] = []
        self.closed_in: list[str] = []
        self._infer = infer

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.given.append(inputs["x"])
        self.entered.release()
        assert self.may.acquire(timeout=PATIENCE_SECONDS)
        return {"y": inputs["x"]} if self._infer is None else self._infer(inputs)

    def close(self) -> None:
        self.closed_in.append(threading.current_thread().name)

    async def is_asked(self) -> None:
        """A batch has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_SECONDS)

    def let(self, batches: int = 1000) -> None:
        self.may.release(batches)

    @property
    def sizes(self) -> list[int]:
        return [len(each) for each in self.given]


def asked(value: float, count: int = 1, width: int = 2) -> dict[str, Array]:
    return {"x": np.full((count, width), value, np.float32)}


def run(test: Coroutine[Any, Any, None]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await test

    asyncio.run(timed())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0)


def instance_of(model: Model, **limits: Any) -> Instance:
    return Instance("resnet50", model, Limits(**limits), Statistics())


async def begun(instance: Instance, model: Model) -> asyncio.Task[Any]:
    """One that runs, so that others wait."""
    first = asyncio.create_task(instance.infer(asked(0)))
    await model.is_asked()
    return first


async def waiting(instance: Instance, *coming: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    before = instance.pending
    tasks = [asyncio.create_task(each) for each in coming]
    await until(lambda: instance.pending == before + len(tasks))
    return tasks


def test_those_who_come_while_it_computes_run_together() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model)
        first = await begun(instance, model)
        tasks = await waiting(instance, *(instance.infer(asked(n, n)) for n in (1, 2, 3)))
        model.let()
        done = await asyncio.gather(first, *tasks)
        assert model.sizes == [1, 6]
        for number, each in enumerate(done[1:], 1):
            assert each.outputs["y"].tolist() == [[number, number]] * number
        told = instance.statistics.as_json("resnet50", "v1")
        assert (told["inference_count"], told["execution_count"]) == (7, 2)
        assert [each["batch_size"] for each in told["batch_stats"]] == [1, 6]
        assert told["batches"] == {"all": 2}
        await instance.close()

    run(test())


def test_a_full_batch_leaves_the_rest_to_the_next() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model, batch_size_max=2)
        first = await begun(instance, model)
        tasks = await waiting(instance, *(instance.infer(asked(n)) for n in (1, 2, 3)))
        model.let()
        await asyncio.gather(first, *tasks)
        assert model.sizes == [1, 2, 1]
        assert instance.statistics.because == {"all": 2, "full": 1}
        await instance.close()

    run(test())


def test_shapes_are_never_mixed() -> None:
    async def test() -> None:
        model = Model(shape=(-1, -1))
        instance = instance_of(model)
        first = await begun(instance, model)
        widths = (2, 3, 2, 3)
        tasks = await waiting(
            instance, *(instance.infer(asked(n, width=width)) for n, width in enumerate(widths))
        )
        model.let()
        await first
        for number, task in enumerate(tasks):
            assert (await task).outputs["y"].tolist() == [[number] * widths[number]]
        assert sorted(each.shape for each in model.given[1:]) == [(2, 2), (2, 3)]
        await instance.close()

    run(test())


def test_the_earliest_deadline_first_and_priorities_before_that() -> None:
    async def test() -> None:
        model = Model(shape=(1, 2))
        instance = instance_of(model)
        first = await begun(instance, model)
        now = time.perf_counter()
        tasks = await waiting(
            instance,
            instance.infer(asked(1), deadline=now + 900),
            instance.infer(asked(2), deadline=now + 800),
            instance.infer(asked(3), deadline=now + 999, priority=1),
        )
        model.let()
        await asyncio.gather(first, *tasks)
        assert [each[0, 0] for each in model.given] == [0, 3, 2, 1]
        await instance.close()

    run(test())


def test_one_that_is_too_much_for_a_batch_runs_alone_or_is_refused() -> None:
    async def test() -> None:
        model = Model()
        model.let()
        instance = instance_of(model, batch_size_max=4)
        done = await instance.infer(asked(1, 9))
        assert done.outputs["y"].shape == (9, 2)
        await instance.close()
        strict = instance_of(model, batch_size_max=4, batch_size_enforced=True)
        with pytest.raises(BadRequest, match="must be <= 4"):
            await strict.infer(asked(1, 9))
        await strict.close()

    run(test())


def _leave() -> Mapping[str, Array]:
    raise SystemExit


WRONG: dict[str, Infer] = {
    "raises": lambda inputs: {"y": inputs["z"]},
    "would end the thread": lambda _: _leave(),
    "a row too few": lambda inputs: {"y": inputs["x"][1:]},
    "a row too many": lambda inputs: {"y": np.concatenate([inputs["x"], inputs["x"][:1]])},
    "another type": lambda inputs: {"y": inputs["x"].astype(np.float64)},
    "no output": lambda _: {},
}


@pytest.mark.parametrize("infer", WRONG.values(), ids=WRONG)
def test_a_batch_that_goes_wrong_is_nobodys_answer(infer: Infer) -> None:
    def all_or_wrong(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return infer(inputs) if len(inputs["x"]) > 1 else {"y": inputs["x"]}

    async def test() -> None:
        model = Model(all_or_wrong)
        instance = instance_of(model)
        first = await begun(instance, model)
        tasks = await waiting(instance, *(instance.infer(asked(n)) for n in (1, 2, 3)))
        model.let()
        await first
        for each in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(each, InferenceFailed)
            assert each.message == "model resnet50 failed"
        assert (await instance.infer(asked(5))).outputs["y"].tolist() == [[5, 5]]
        assert instance.pending == 0
        assert instance.statistics.failed_batches == 1
        await instance.close()

    run(test())


async def refused(coming: Awaitable[Any]) -> str:
    with pytest.raises(Unavailable) as caught:
        await coming
    return _reason(caught.value)


def _reason(error: object) -> str:
    assert isinstance(error, ServingError)
    return dict(error.headers)[REFUSED].decode()


def test_a_deadline_that_is_over_is_told_while_the_batch_still_runs() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model)
        first = await begun(instance, model)
        assert await refused(instance.infer(asked(1), deadline=time.perf_counter())) == "expired"
        assert (
            await refused(instance.infer(asked(1), deadline=time.perf_counter() + 1)) == "hopeless"
        )
        assert not first.done()
        assert instance.statistics.shed["deadline"] == 2
        model.let()
        await first
        assert model.sizes == [1]
        await instance.close()

    run(test())


def _slowly(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    time.sleep(0.3)
    return {"y": inputs["x"]}


def test_what_cannot_be_in_time_is_refused_when_it_comes() -> None:
    async def test() -> None:
        model = Model(_slowly)
        model.let()
        instance = instance_of(model)
        for _ in range(5):
            await instance.infer(asked(1))
        soon = time.perf_counter() + 0.25
        assert await refused(instance.infer(asked(1), deadline=soon)) == "predicted_late"
        assert len(model.given) == 5
        await instance.close()

    run(test())


def test_a_queue_that_is_full() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model, queue_requests=1)
        first = await begun(instance, model)
        (second,) = await waiting(instance, instance.infer(asked(1)))
        assert await refused(instance.infer(asked(2))) == "queue_requests"
        third = asyncio.create_task(instance.infer(asked(3), priority=1))
        assert await refused(second) == "displaced"
        model.let()
        await asyncio.gather(first, third)
        assert instance.statistics.shed["queue_full"] == 2
        await instance.close()

    run(test())


def test_whose_client_has_gone_is_not_computed() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model)
        running: dict[str, Any] = {}
        first = asyncio.create_task(instance.infer(asked(0), scope=running))
        await model.is_asked()
        scope: dict[str, Any] = {}
        gone, stays = await waiting(
            instance, instance.infer(asked(1), scope=scope), instance.infer(asked(2))
        )
        scope[GONE]()
        running[GONE]()
        for each in await asyncio.gather(first, gone, return_exceptions=True):
            assert isinstance(each, ClientGone)
        model.let()
        assert (await stays).outputs["y"].tolist() == [[2, 2]]
        assert model.sizes == [1, 1]
        assert (instance.pending, instance.statistics.gone) == (0, 1)
        await instance.close()

    run(test())


def test_a_task_that_is_cancelled_leaves_the_queue_and_stays_cancelled() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model)
        first = await begun(instance, model)
        (second,) = await waiting(instance, instance.infer(asked(1)))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        model.let()
        await first
        await instance.close()
        assert model.sizes == [1]

    run(test())


def test_a_model_that_hangs_refuses_until_it_goes_on() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model, batch_seconds_max=0.5)
        first = await begun(instance, model)
        behind = asyncio.create_task(instance.infer(asked(1)))
        assert [await refused(each) for each in (first, behind)] == ["hung", "hung"]
        assert instance.hung
        assert await refused(instance.infer(asked(2))) == "hung"
        assert (instance.pending, instance.statistics.refusals["hung"]) == (0, 3)
        model.let()
        await until(lambda: not instance.hung)
        assert (await instance.infer(asked(3))).outputs["y"].tolist() == [[3, 3]]
        assert model.sizes == [1, 1]
        await instance.close()

    run(test())


def test_a_model_that_hangs_can_be_unloaded_and_gives_back_what_it_holds_when_it_ends() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model, batch_seconds_max=0.5)
        first = await begun(instance, model)
        await asyncio.gather(instance.close(), refused(first))
        assert model.closed_in == []
        model.let()
        await until(lambda: model.closed_in == ["executor-resnet50"])

    run(test())


def test_a_batch_is_looked_after_though_the_one_before_it_was_slow_to_say() -> None:
    """Its answer was written for longer than a batch may run: that is no hanging, nor is it the end
    of the watch."""

    async def test() -> None:
        model = Model()
        instance = instance_of(model, batch_seconds_max=0.5)
        said, may = threading.Semaphore(0), threading.Semaphore(0)

        def at_once(_: Done) -> None:
            said.release()
            assert may.acquire(timeout=PATIENCE_SECONDS)

        model.let(1)
        answers: list[Done | Exception] = []
        instance.submit(asked(0), answers.append, at_once=at_once)
        assert await asyncio.to_thread(said.acquire, timeout=PATIENCE_SECONDS)
        (behind,) = await waiting(instance, instance.infer(asked(1)))
        await asyncio.sleep(0.75)
        assert not instance.hung
        may.release()
        assert await refused(behind) == "hung"
        assert [type(each) for each in answers] == [Done]
        model.let()
        await until(lambda: not instance.hung)
        await instance.close()

    run(test())


def test_counts_are_settled_when_the_loop_knows_of_every_answer() -> None:
    """And not of the one before the last."""

    async def test() -> None:
        model = Model()
        model.let()
        instance = instance_of(model)
        said, may = threading.Semaphore(0), threading.Semaphore(0)

        def at_once(_: Done) -> None:
            said.release()
            assert may.acquire(timeout=PATIENCE_SECONDS)

        told: list[Done | Exception] = []
        instance.submit(asked(0), told.append, at_once=lambda _: said.release())
        await asyncio.sleep(0)
        # The loop stands still, and is told of the first when the second has its answer.
        assert said.acquire(timeout=PATIENCE_SECONDS)
        instance.submit(asked(1), told.append, at_once=at_once)
        await asyncio.sleep(0)
        assert said.acquire(timeout=PATIENCE_SECONDS)
        await until(lambda: len(told) == 1)
        settling = asyncio.create_task(instance.settled())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not settling.done()
        may.release()
        await settling
        assert len(told) == 2
        await instance.close()

    run(test())


def test_nothing_is_held_of_who_was_answered_last() -> None:
    class Held:
        def told(self, _: Done | Exception) -> None:
            answered.set()

    answered = asyncio.Event()

    async def test() -> None:
        model = Model()
        model.let()
        instance = instance_of(model)
        held = Held()
        there = weakref.ref(held)
        instance.submit(asked(0), held.told)
        del held
        await answered.wait()
        await until(lambda: there() is None)
        await instance.close()

    run(test())


def test_closing_ends_what_was_begun_and_takes_no_more() -> None:
    async def test() -> None:
        model = Model()
        instance = instance_of(model)
        first = await begun(instance, model)
        (second,) = await waiting(instance, instance.infer(asked(1)))
        closing = asyncio.create_task(instance.close())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="is being unloaded"):
            await instance.infer(asked(2))
        assert not closing.done()
        model.let()
        await asyncio.gather(first, second, closing)
        assert model.sizes == [1, 1]
        assert model.closed_in == ["executor-resnet50"]

    run(test())


def test_a_fixed_window_holds_back_who_could_run() -> None:
    async def test() -> None:
        model = Model()
        model.let()
        instance = instance_of(model, window_seconds=0.5, batch_size_max=4)
        await asyncio.gather(*(instance.infer(asked(n)) for n in range(2)))
        await asyncio.gather(*(instance.infer(asked(n)) for n in range(4)))
        assert model.sizes == [2, 4]
        assert instance.statistics.because == {"window": 1, "full": 1}
        await instance.close()

    run(test())
