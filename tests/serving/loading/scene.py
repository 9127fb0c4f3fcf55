"""A repository in this process, with a backend that does as a test says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform_serving.backends.port import ModelConfiguration
from mlplatform_serving.memory.breaker import Gauge
from mlplatform_serving.memory.watch import MemoryWatch, marks
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.instance import Done
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.models.repository import LoadLimits, Repository
from mlplatform_serving.protocol.specs import Signature
from mlplatform_serving.protocol.tensors import Array
from tests.serving.rig import publish, tensor

DEADLINE_SECONDS = 30
SIZE = 1_000_000
"""Of a model's files, in bytes."""
GIVEN: Mapping[str, Array] = {"x": np.zeros((1, 1), np.float32)}


@dataclass
class Stage:
    """What the models of a test do. A gate that is clear holds whoever comes to it."""

    opening: dict[str, threading.Event] = field(default_factory=dict)
    running: dict[str, threading.Event] = field(default_factory=dict)
    raises: dict[str, BaseException] = field(default_factory=dict)
    before_open: Callable[[ModelFiles], object] = lambda _: None
    opened: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    held: int = 0
    """How many have come to a gate while they opened."""
    at_once: int = 0
    at_once_max: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, what: dict[str, threading.Event], name: str) -> threading.Event:
        what[name] = threading.Event()
        return what[name]


STAGE: list[Stage] = [Stage()]
"""The one of the test that runs: a backend is a module, and has no other way to its test."""


def open_model(files: ModelFiles, configuration: ModelConfiguration) -> Actor:
    """As a backend has it."""
    name = files.manifest.model
    (stage,) = STAGE
    with stage.lock:
        stage.at_once += 1
        stage.at_once_max = max(stage.at_once_max, stage.at_once)
    try:
        stage.before_open(files)
        files.read("weights")
        if gate := stage.opening.get(name):
            stage.held += 1
            assert gate.wait(DEADLINE_SECONDS)
        if error := stage.raises.get(name):
            raise error
    finally:
        with stage.lock:
            stage.at_once -= 1
    stage.opened[name] += 1
    return Actor(configuration.signature(), name, stage)


class Actor:
    """Gives back what it is given, when it may."""

    def __init__(self, signature: Signature, name: str, stage: Stage) -> None:
        self.signature = signature
        self._name = name
        self._stage = stage

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if gate := self._stage.running.get(self._name):
            assert gate.wait(DEADLINE_SECONDS)
        return {"y": inputs["x"]}

    def close(self) -> None:
        self._stage.closed[self._name] += 1


class World:
    """A folder of models, and the memory of its host."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder = folder
        self.stage = stage
        self.now = 0.0
        self.host = Gauge("host", 10 * SIZE, 100 * SIZE)

    def publish(self, *names: str, version: str = "v1", size: int = 1000) -> None:
        """Models whose files have so many bytes, all told."""
        told = {
            "backend": "actor",
            "inputs": [tensor("x", "FP32", -1, 1)],
            "outputs": [tensor("y", "FP32", -1, 1)],
        }
        body = json.dumps(told).encode()
        for name in names:
            files = {"model-config.json": body, "weights": b"w" * (size - len(body))}
            publish(self.folder, name, version, files)

    def repository(self, **more: Any) -> Repository:
        limits = LoadLimits(**{"idle_seconds_min": 0.0, **more})
        memory = MemoryWatch(
            marks(0.95, 0.95),
            read_host=lambda _: [self.host],
            read_resident=lambda: None,  # sizes are then those of the files
            monotonic=lambda: self.now,
        )
        return Repository(self.folder, metrics=Metrics(""), memory=memory, limits=limits)


def play(scene: Coroutine[Any, Any, None]) -> None:
    """The whole scene, or what it hangs at."""

    async def within() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await scene

    asyncio.run(within())


async def infer(repository: Repository, name: str, version: str | None = None) -> Done:
    """As the HTTP side does it."""
    loaded = await repository.reach(name, version)
    return await loaded.instance.infer(dict(GIVEN))


def names(repository: Repository) -> set[str]:
    return {f"{each.name}@{each.version}" for each in repository.loaded()}


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until it is so."""
    while not condition():
        await asyncio.sleep(0)


async def state(repository: Repository, name: str) -> tuple[str, str]:
    entry = next(each for each in await repository.index() if each.name == name)
    return entry.state, entry.reason
