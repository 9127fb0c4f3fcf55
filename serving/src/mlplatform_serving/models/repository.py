"""The models in a folder, `<folder>/<model>/<version>/`, and which of them are loaded.

Several versions of a model may be loaded side by side. The one that answers where none is named is
the one loaded last; at start that is `MODEL_VERSION`, or the newest by its numbers.

A version is loaded, unloaded by an administrator, or evicted to make room. One that was evicted is
still served: an inference loads it again and waits for that, as ModelMesh does it, unless
`LOAD_ON_DEMAND` is off or there is no room, and then it gets 503 with the reason. One that an
administrator unloaded stays unloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform_serving.backends.formats import import_backend
from mlplatform_serving.backends.port import Backend
from mlplatform_serving.errors import BadRequest, LoadFailed, NotFound, ServingError, Unavailable
from mlplatform_serving.memory import host
from mlplatform_serving.memory.breaker import Level
from mlplatform_serving.memory.room import Held, Key, Where, make_room, relieve
from mlplatform_serving.memory.watch import MemoryWatch
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.instance import Instance, Limits
from mlplatform_serving.models.loading import Job, Slots
from mlplatform_serving.models.manifest import MANIFEST, ModelFiles
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.models.statistics import Statistics
from mlplatform_serving.models.warming import WarmUp, open_warm
from mlplatform_serving.names import by_number, is_name, model_name
from mlplatform_serving.startup import Startup
from mlplatform_serving.stores.source import ModelSource

log = logging.getLogger("model_loader")

PREDICTED_SIZE_RATIO = 1.25
"""What a model will take, by the size of its files, until it was loaded once and measured
(kserve/modelmesh-runtime-adapter: MODELSIZE_MULTIPLIER, 1.25 for Triton and MLServer)."""
_PROGRESS_SECONDS = 10.0
_RETRY_SECONDS = 5.0
_RETRY_AFTER = ((b"retry-after", b"%d" % _RETRY_SECONDS),)


@dataclass(frozen=True, slots=True)
class Size:
    """What a version takes, in bytes."""

    host_bytes: int
    gpu_bytes: int = 0


@dataclass(slots=True)
class Loaded:
    """A version that answers."""

    name: str
    version: str
    digest: str
    backend: str
    instance: Instance
    size: Size
    used_at: float
    """When an inference came last; seconds on the monotonic clock."""
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def key(self) -> Key:
        """Model and version."""
        return self.name, self.version


@dataclass(slots=True)
class Evicted:
    """A version that had to leave, or for which there was no room at the start. It comes when it is
    asked for; after a failure not before `retry_at`, so that no request after the other tries."""

    reason: str
    statistics: Statistics = field(default_factory=Statistics)
    retry_at: float = 0.0


class NoRoom(Unavailable):
    """It does not fit beside what must stay."""


@dataclass(slots=True)
class _Coming:
    """A version on its way into memory or out of it."""

    state: str
    progress: Progress
    job: Job | None = None
    size: Size = Size(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in the index; `digest` is empty while it is not loaded."""

    name: str
    version: str
    state: str
    reason: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What loading keeps to. `None` is no limit; times in seconds."""

    concurrent: int = 2
    timeout_seconds: float = 30.0
    budget_bytes: int | None = None
    idle_seconds_min: float = 5.0
    on_demand: bool = True
    warm_up: WarmUp | None = None
    """What is wanted of each version before it answers; None: nothing."""


class Repository:
    """What a server serves. To be used on the event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        metrics: Metrics,
        instance_limits: Limits | None = None,
        memory: MemoryWatch | None = None,
        limits: LoadLimits | None = None,
        source: ModelSource | None = None,
        pinned: Sequence[str] = (),
    ) -> None:
        """`pinned` as NAME or NAME@VERSION; without a `source` only the folder has models."""
        self.memory = memory or MemoryWatch({}, read_host=lambda _: [])
        self.startup = Startup()
        self._folder = folder
        self._instance_limits = instance_limits or Limits()
        self._metrics = metrics
        self._limits = limits or LoadLimits()
        self._slots = Slots(self._limits.concurrent, self._limits.timeout_seconds)
        self._source = source
        # A download has no time limit of its own, but the store's: it is as large as it is.
        self._fetching = Slots(1, None)
        self._loaded: dict[str, dict[str, Loaded]] = {}
        self._answering: dict[str, str] = {}
        self._evicted: dict[Key, Evicted] = {}
        self._failed: dict[Key, str] = {}
        self._under_way: dict[Key, _Coming] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._sizes: dict[str, Size] = {}
        self._pins = {(name, version) for name, _, version in (p.partition("@") for p in pinned)}
        self._missing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        log.info("ModelLoader initialized with cache_dir=%s", folder)

    # --- what answers ----------------------------------------------------------------------------

    def find(self, name: str, version: str | None = None) -> Loaded:
        """The version that answers, or the one that is named. `NotFound` in Triton's words;
        `Unavailable` while it is loaded, could not be, or was evicted."""
        found = self._found(name, version)
        if found is not None:
            return found
        # Only names that are on record are told back: what a client made up is not.
        wanted = version or self._answering.get(name)
        for (each, its), coming in self._under_way.items():
            if each == name and wanted in (None, its):
                raise Unavailable(
                    f"Request for model {name}, which is not ready: {coming.progress.told()}"
                )
        for (each, its), reason in (
            *((key, evicted.reason) for key, evicted in self._evicted.items()),
            *self._failed.items(),
        ):
            if each == name and wanted in (None, its):
                raise Unavailable(f"Request for model {name}, which is not ready: {reason}")
        if name in self._loaded:
            raise NotFound(f"Request for unknown model: {name} has no such version loaded")
        raise NotFound("Request for unknown model: none of that name is loaded")

    async def reach(self, name: str, version: str | None = None) -> Loaded:
        """`find` for an inference: one that was evicted is loaded again. `Unavailable` while memory
        is so full that work is refused."""
        if (found := self.at_hand(name, version)) is not None:
            return found
        if self.memory.level is Level.SHEDDING:
            if (refused := self._found(name, version)) is not None:
                refused.statistics.shed["memory"] += 1
            raise Unavailable(
                f"no memory is left for more work: {self.memory.told()}", headers=_RETRY_AFTER
            )
        found = await self._again(name, version)
        found.used_at = time.monotonic()
        return found

    def at_hand(self, name: str, version: str | None = None) -> Loaded | None:
        """What `reach` would give without waiting, and without a word against it."""
        found = self._found(name, version)
        if found is None or self.memory.level is Level.SHEDDING:
            return None
        found.used_at = time.monotonic()
        return found

    def _found(self, name: str, version: str | None) -> Loaded | None:
        versions = self._loaded.get(name)
        if versions is None:
            return None
        return versions.get(self._answering.get(name, "") if version is None else version)

    async def _again(self, name: str, version: str | None) -> Loaded:
        """Load an evicted version. Whoever asks for it meanwhile waits for the same load."""
        wanted = version or self._answering.get(name, "")
        evicted = self._evicted.get((name, wanted))
        if evicted is None or not self._limits.on_demand or time.monotonic() < evicted.retry_at:
            return self.find(name, version)
        room = self._instance_limits.queue_requests
        if self._waiting[name] >= room:
            raise Unavailable(f"model {name}: {room} wait until it is loaded again")
        self._waiting[name] += 1
        try:
            return await self._load_once(name, wanted, answers=False)
        except (LoadFailed, Unavailable) as error:
            evicted.retry_at = time.monotonic() + _RETRY_SECONDS
            evicted.reason = error.message
            raise Unavailable(error.message, headers=_RETRY_AFTER) from error
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name]

    def loaded(self) -> Iterator[Loaded]:
        """Every version that is loaded."""
        for versions in self._loaded.values():
            yield from versions.values()

    async def settled(self) -> None:
        """Until the statistics hold all that has been answered."""
        for each in list(self.loaded()):
            await each.instance.settled()

    def versions(self, name: str) -> list[str]:
        """The loaded versions of a model, oldest first."""
        return sorted(self._loaded.get(name, {}), key=by_number)

    @property
    def started(self) -> bool:
        """Whether the start is over."""
        return self.startup.over

    @property
    def well(self) -> bool:
        """Whether all is loaded that was to be served from the start. What is loaded later, or
        fails then, is no reason to take the server from those it serves; nor is what was evicted,
        which comes again."""
        return (
            self.started and not self._missing and not any(e.instance.hung for e in self.loaded())
        )

    def loads(self) -> list[dict[str, object]]:
        """What is on its way, for statistics and `/health/startup`."""
        return [
            {
                "name": name,
                "version": version,
                "state": coming.state.upper(),
                "stage": coming.progress.stage,
                "bytes": coming.progress.done_bytes,
                "bytes_total": coming.progress.total_bytes or None,
                "bytes_per_second": coming.progress.bytes_per_second,
            }
            for (name, version), coming in self._under_way.items()
        ]

    async def index(self) -> list[Entry]:
        """Every version that is loaded, was tried, or lies in the folder."""
        entries = {
            each.key: Entry(each.name, each.version, "READY", "", each.digest)
            for each in self.loaded()
        }
        for (name, version), coming in self._under_way.items():
            told = coming.progress.told()
            entries[name, version] = Entry(name, version, coming.state.upper(), told)
        for (name, version), evicted in self._evicted.items():
            entries.setdefault((name, version), Entry(name, version, "UNAVAILABLE", evicted.reason))
        for (name, version), reason in self._failed.items():
            entries.setdefault((name, version), Entry(name, version, "UNAVAILABLE", reason))
        for name, version in await asyncio.to_thread(self._on_disk):
            entries.setdefault((name, version), Entry(name, version, "UNAVAILABLE", "not loaded"))
        return [
            entries[key] for key in sorted(entries, key=lambda key: (key[0], by_number(key[1])))
        ]

    def _on_disk(self) -> list[Key]:
        return [
            (path.parent.parent.name, path.parent.name)
            for path in self._folder.glob(f"*/*/{MANIFEST}")
            if is_name(path.parent.name) and is_name(path.parent.parent.name)
        ]

    # --- loading ---------------------------------------------------------------------------------

    async def load_all(self, models: Sequence[str], version: str | None) -> None:
        """What is to be served from the start: `models` as NAME or NAME@VERSION; if none is given,
        all in the source, or in the folder where there is no source. What fails is logged, and told
        by the index and by readiness."""
        wanted = [tuple(each.partition("@")[::2]) for each in models]
        if not wanted:
            wanted = [(name, "") for name in await self._known()]
        if self._source is not None:
            self.startup.reach("preloading")
            for name, named in wanted:
                with contextlib.suppress(ServingError):  # told when it is loaded
                    await self._fetch(name, named or version or await self._newest(name))
        self.startup.reach("loading")
        by_name: dict[str, list[str | None]] = {}
        for name, named in wanted:
            by_name.setdefault(name, []).append(named or version)
        await asyncio.gather(*(self._at_start(*each) for each in by_name.items()))
        self.startup.reach("ready")

    async def _at_start(self, name: str, versions: Sequence[str | None]) -> None:
        """One after the other: the last is the one that answers."""
        for version in versions:
            try:
                chosen = version or await self._newest(name)
            except ServingError as error:
                log.error("%s", error)
                self._missing.add(name)
                continue
            try:
                await self.load(name, chosen)
            except NoRoom as error:
                if self._limits.on_demand:
                    self._evicted[name, chosen] = Evicted(error.message)
                    self._failed.pop((name, chosen), None)
                    self._answering[name] = chosen
                else:
                    self._missing.add(name)
            except ServingError:
                self._missing.add(name)  # the log has it

    async def _known(self) -> list[str]:
        names = {name for name, _ in await asyncio.to_thread(self._on_disk)}
        if self._source is not None:
            try:
                names |= set(await asyncio.to_thread(self._source.models))
            except ServingError as error:
                log.error("%s", error)
                self._missing.add("the store")
        return sorted(names)

    async def load(self, name: str, version: str | None = None) -> Loaded:
        """Load a version (the newest if none is named) and let it answer. One that is loaded
        already is left as it is; one that is only in the source is fetched. `LoadFailed` says which
        and why; `Unavailable` that there is no room or no slot for it now."""
        if not is_name(name) or not is_name(version or "v"):
            raise LoadFailed("failed to load: that is no name of a model and a version")
        return await self._load_once(name, version or await self._newest(name), answers=True)

    async def _newest(self, name: str) -> str:
        versions = [
            version for each, version in await asyncio.to_thread(self._on_disk) if each == name
        ]
        if not versions and self._source is not None and is_name(name):
            versions = await asyncio.to_thread(self._source.versions, name)
        if not versions:
            known = is_name(name)
            raise LoadFailed(
                f"failed to load '{name if known else '?'}': Model file not found: "
                "the repository has no version of it"
            )
        return max(versions, key=by_number)

    async def _load_once(self, name: str, version: str, *, answers: bool) -> Loaded:
        async with self._locks.setdefault(name, asyncio.Lock()):
            found = self._loaded.get(name, {}).get(version)
            if found is None:
                found = await self._load(name, version)
                self._loaded.setdefault(name, {})[version] = found
                self._evicted.pop((name, version), None)
            if answers or name not in self._answering:
                self._answering[name] = version
            self._missing.discard(name)
            found.used_at = time.monotonic()
            return found

    async def _load(self, name: str, version: str) -> Loaded:
        key = (name, version)
        self._failed.pop(key, None)
        coming = self._under_way[key] = _Coming("loading", Progress())
        logging_progress = asyncio.create_task(self._log_progress(key, coming.progress))
        try:
            if self._source is not None:
                await self._fetch(name, version)
            job = coming.job = Job(f"{name}@{version}", self._slots, coming.progress)
            async with job:
                return await self._load_in(job, key, coming)
        except Exception as error:
            raise self._load_failed(key, error) from error
        finally:
            logging_progress.cancel()
            del self._under_way[key]

    def _load_failed(self, key: Key, error: Exception) -> ServingError:
        """What is told of it; kept as the reason in the index, and logged."""
        name, version = key
        known = isinstance(error, ServingError)
        reason = error.message if isinstance(error, ServingError) else "it could not be loaded"
        if key not in self._evicted:
            self._failed[key] = reason
        self._metrics.load_failures.labels(name, version).inc()
        log.error(
            "Model failed to load: %s@%s: %s",
            name,
            version,
            reason,
            exc_info=None if known else error,
            extra={"model": name, "version": version},
        )
        said = f"failed to load '{name}', version {version}: {reason}"
        if isinstance(error, Unavailable):
            return type(error)(said, headers=_RETRY_AFTER)
        return LoadFailed(said)

    async def _load_in(self, job: Job, key: Key, coming: _Coming) -> Loaded:
        name, version = key
        progress = job.progress
        began = time.perf_counter()
        progress.begin("reading the manifest")
        files = await job.run(
            lambda: _examined(self._folder / name / version, progress), lambda _: None
        )
        predicted = self._sizes.get(files.digest) or Size(
            int(files.size_bytes * PREDICTED_SIZE_RATIO)
        )
        progress.begin("waiting for room")
        coming.size = predicted
        await self._make_room(predicted, key)
        alone = len(self._under_way) == 1
        before = await self._measure()
        progress.begin("loading", files.size_bytes)
        backend_name, backend = await job.run(
            lambda: open_warm(files, self._limits.warm_up, progress), _discard
        )
        try:
            size = Size(files.size_bytes)
            if alone and len(self._under_way) == 1:
                size = _grown(before, await self._measure(), files.size_bytes)
                self._sizes[files.digest] = size
            progress.check()
            evicted = self._evicted.get(key)
            statistics = Statistics() if evicted is None else evicted.statistics
            instance = Instance(name, backend, self._instance_limits, statistics)
        except BaseException:
            _discard((backend_name, backend))
            raise
        seconds = time.perf_counter() - began
        loaded = Loaded(
            *(name, version, files.digest, backend_name, instance, size, time.monotonic()),
            statistics=statistics,
        )
        self._tell_loaded(loaded, seconds, files.size_bytes)
        return loaded

    def _tell_loaded(self, loaded: Loaded, seconds: float, read_bytes: int) -> None:
        name, version = loaded.key
        metrics = self._metrics
        metrics.load_seconds.labels(name, version).observe(seconds)
        metrics.loaded_bytes.labels(name, version).inc(read_bytes)
        metrics.model_bytes.labels(name, version, "host").set(loaded.size.host_bytes)
        if loaded.size.gpu_bytes:
            metrics.model_bytes.labels(name, version, "gpu").set(loaded.size.gpu_bytes)
        instance = loaded.instance
        metrics.follow(name, version, loaded.statistics, lambda: instance.pending)
        log.info(
            "model_load: %s@%s by %s in %.3f s",
            name,
            version,
            loaded.backend,
            seconds,
            extra={
                "model": name,
                "version": version,
                "duration_seconds": round(seconds, 6),
                "bytes": read_bytes,
                "bytes_per_second": round(read_bytes / seconds),
                "memory_bytes": loaded.size.host_bytes,
            },
        )

    async def _log_progress(self, key: Key, progress: Progress) -> None:
        """A line now and then, for a load that takes long."""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            told = progress.told()
            log.info(
                "model_load: %s@%s: %s", *key, told, extra={"model": key[0], "version": key[1]}
            )

    async def _fetch(self, name: str, version: str) -> None:
        """Have the version in the folder, from the source if need be."""
        source, folder = self._source, self._folder / name / version
        if source is None or await asyncio.to_thread((folder / MANIFEST).exists):
            return
        key = (name, version)
        coming = self._under_way.get(key)
        mine = coming is None
        if coming is None:
            coming = self._under_way[key] = _Coming("loading", Progress("waiting to be fetched"))
        progress = coming.progress
        job = coming.job = Job(f"{name}@{version}", self._fetching, progress)
        try:
            async with job:
                await job.run(
                    lambda: source.fetch(name, version, self._folder, progress), lambda _: None
                )
        finally:
            if mine:
                del self._under_way[key]

    # --- room ------------------------------------------------------------------------------------

    def _held(self, but: Key | None = None) -> list[Held]:
        """What is in memory, and on its way there."""
        there = [
            Held(
                each.key,
                each.size.host_bytes,
                each.used_at,
                each.size.gpu_bytes,
                busy=each.instance.pending > 0 or self._locked(each.name, but),
                pinned=self.is_pinned(*each.key),
            )
            for each in self.loaded()
        ]
        coming = [
            Held(key, each.size.host_bytes, 0.0, each.size.gpu_bytes, busy=True)
            for key, each in self._under_way.items()
            if each.state == "loading" and key != but
        ]
        return there + coming

    def _locked(self, name: str, but: Key | None) -> bool:
        """Whether somebody else loads or unloads a version of it just now."""
        lock = self._locks.get(name)
        return lock is not None and lock.locked() and (but is None or but[0] != name)

    async def _make_room(self, size: Size, key: Key) -> None:
        """Evict what must leave for `size` more. `Unavailable` if that cannot be."""
        await self.memory.read_all()
        reserved = sum(
            each.size.host_bytes
            for its, each in self._under_way.items()
            if each.state == "loading" and its != key
        )
        free = self.memory.free_bytes()
        room = make_room(
            size.host_bytes,
            self._held(but=key),
            budget_bytes=self._limits.budget_bytes,
            free_bytes=None if free is None else free - reserved,
            now=time.monotonic(),
            idle_seconds_min=self._limits.idle_seconds_min,
        )
        if room.lacking_bytes:
            raise NoRoom(
                f"it takes {_mib(size.host_bytes)}, and {_mib(room.lacking_bytes)} of that are "
                f"lacking: {room.reason}"
            )
        if room.leave:
            await self._evict(room.leave, f"to make room for {key[0]}@{key[1]}", locked=key[0])
        if self.memory.level is Level.SHEDDING:
            raise NoRoom(f"no memory is left to load anything: {self.memory.told()}")

    async def _relieve(self) -> None:
        """After each look at memory: what is idle leaves where it is tight."""
        metrics = self._metrics
        for of in Where:
            gauge = self.memory.fullest(of)
            if gauge is not None:
                metrics.memory_used_bytes.labels(of.value).set(gauge.used_bytes)
                metrics.memory_limit_bytes.labels(of.value).set(gauge.limit_bytes)
                metrics.breaker_open.labels(of.value).set(self.memory.shedding(of))
            if excess := self.memory.excess_bytes(of):
                leave = relieve(
                    excess,
                    self._held(),
                    where=of,
                    now=time.monotonic(),
                    idle_seconds_min=self._limits.idle_seconds_min,
                )
                if leave:
                    await self._evict(leave, f"memory is tight: {self.memory.told()}")

    def watch(self) -> None:
        """Look at memory from now on, until `close`."""
        self._start(self.memory.run(self._relieve))

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _evict(self, keys: Sequence[Key], why: str, *, locked: str | None = None) -> None:
        """Nothing runs on these. They leave all at once, before anything else can happen, so that
        nothing can begin to; the locks are free (`_held`), and taken without waiting. `locked` is
        whose lock the caller has."""
        names = sorted({name for name, _ in keys} - {locked})
        locks = [self._locks.setdefault(name, asyncio.Lock()) for name in names]
        for lock in locks:
            await lock.acquire()
        try:
            # Free, but for one that is just being handed on: then this has waited after all.
            leaving = [
                each for each in self.loaded() if each.key in keys and not each.instance.pending
            ]
            for each in leaving:
                self._leave(each, evicted=why)
            for each in leaving:
                log.warning("model_evict: %s@%s %s", *each.key, why, extra={"model": each.name})
                self._metrics.evictions.labels(*each.key).inc()
                await self._end(each)
        finally:
            for lock in locks:
                lock.release()

    async def _measure(self) -> tuple[int | None, int | None]:
        """What the process holds on the host, and everybody on the GPUs. What a load needed only
        while it lasted is given back first: it would pass for the model's."""
        await asyncio.to_thread(host.give_back)
        await self.memory.read_all()
        return self.memory.resident_bytes(), self.memory.gpu_used_bytes()

    # --- pinning ---------------------------------------------------------------------------------

    def is_pinned(self, name: str, version: str) -> bool:
        """Whether it is never evicted."""
        return (name, "") in self._pins or (name, version) in self._pins

    async def pin(self, name: str, version: str | None = None, *, pinned: bool = True) -> None:
        """Have a version, or all of a model, never evicted; or again as the others. `NotFound` for
        what is not known here."""
        known = {each.key for each in self.loaded()} | set(self._evicted) | set(self._under_way)
        known |= set(await asyncio.to_thread(self._on_disk))
        if not any(each == name and version in (None, its) for each, its in known):
            raise NotFound("Request for unknown model: none of that name is here")
        if pinned:
            self._pins.add((name, version or ""))
        else:
            self._pins = {
                (each, its)
                for each, its in self._pins
                if each != name or version not in (None, its)
            }
        log.info("model_%s: %s@%s", "pin" if pinned else "unpin", name, version or "*")

    # --- unloading -------------------------------------------------------------------------------

    async def unload(self, name: str, version: str | None = None) -> None:
        """Unload a version, or all of a model, when what it has begun is done; a load of it that is
        under way is given up. What is not loaded is no error if it is known; `NotFound` if not."""
        model_name(name)
        stopped = False
        for (each, its), coming in self._under_way.items():
            if each == name and version in (None, its) and coming.state == "loading":
                reason = "it was unloaded before it was loaded"
                coming.progress.stop(reason)
                if coming.job is not None:
                    coming.job.stop(reason)
                stopped = True
        async with self._locks.setdefault(name, asyncio.Lock()):
            versions = self._loaded.get(name, {})
            mine = {
                key
                for key in (*self._failed, *self._evicted)
                if key[0] == name and version in (None, key[1])
            }
            for key in mine:
                self._failed.pop(key, None)
                self._evicted.pop(key, None)
            self._missing.discard(name)
            leaving = [each for each in versions.values() if version in (None, each.version)]
            if not leaving:
                self._answer_with_another(name)
            if not (leaving or stopped or mine) and not any(
                each == name for each, _ in await asyncio.to_thread(self._on_disk)
            ):
                raise NotFound("Request for unknown model: none of that name is here")
            for gone in leaving:
                self._leave(gone)
            for gone in leaving:
                await self._end(gone)

    def _leave(self, leaving: Loaded, *, evicted: str = "") -> None:
        """It answers no more; one that is evicted is still the one that would."""
        versions = self._loaded[leaving.name]
        del versions[leaving.version]
        if not versions:
            del self._loaded[leaving.name]
        if evicted:
            again = "; an inference loads it again" if self._limits.on_demand else ""
            self._evicted[leaving.key] = Evicted(f"evicted: {evicted}{again}", leaving.statistics)
        self._answer_with_another(leaving.name)
        self._under_way[leaving.key] = _Coming("unloading", Progress("unloading"))

    def _answer_with_another(self, name: str) -> None:
        """If the one that answers is gone, the newest that is loaded answers."""
        answering, versions = self._answering.get(name), self._loaded.get(name, {})
        if answering is None or answering in versions or (name, answering) in self._evicted:
            return
        if versions:
            self._answering[name] = max(versions, key=by_number)
        else:
            del self._answering[name]

    async def _end(self, leaving: Loaded) -> None:
        """End what it has begun, and give its memory back to the system; how much that is, is
        measured, not believed."""
        name, version = leaving.key
        metrics = self._metrics
        before = after = None
        try:
            before = self.memory.resident_bytes()
            await leaving.instance.close()
            await asyncio.to_thread(host.give_back)
            after = self.memory.resident_bytes()
        finally:
            del self._under_way[leaving.key]
            metrics.forget(name, version)
            for of in Where:
                with contextlib.suppress(KeyError):
                    metrics.model_bytes.remove(name, version, of.value)
        freed = None if before is None or after is None else before - after
        if freed is not None:
            metrics.unload_freed_bytes.labels(name, version).inc(max(freed, 0))
        log.info(
            "model_unload: %s@%s, %s given back of the %s that it took",
            *(name, version),
            "unknown" if freed is None else _mib(freed),
            _mib(leaving.size.host_bytes),
            extra={
                "model": name,
                "version": version,
                "freed_bytes": freed,
                "memory_bytes": leaving.size.host_bytes,
                "resident_bytes": after,
            },
        )

    async def close(self) -> None:
        """Look at memory no more, and unload everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in list(self.loaded()):
            self._leave(each)
            await self._end(each)


def _examined(folder: Path, progress: Progress) -> ModelFiles:
    files = ModelFiles(folder, progress)
    import_backend(files)
    return files


def _grown(
    before: tuple[int | None, int | None], after: tuple[int | None, int | None], files_bytes: int
) -> Size:
    """What a load that was alone has taken: on the host at least its files, since what the
    allocator had kept from before does not show as growth."""
    on_host, on_gpu = (
        0 if was is None or now is None else max(0, now - was)
        for was, now in zip(before, after, strict=True)
    )
    return Size(max(on_host, files_bytes), on_gpu)


def _discard(opened: tuple[str, Backend]) -> None:
    try:
        opened[1].close()
    except Exception:
        log.exception("a model that nobody waited for could not be closed")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def asked_version(parameters: dict[str, object] | None) -> str | None:
    """The `version` among a load's parameters. `BadRequest` for Triton's `config` and `file:…`,
    which would have the server take a model from a request."""
    for key in parameters or {}:
        if key == "config" or key.startswith("file:"):
            raise BadRequest("a model is loaded as it was published: no config and no files")
    version = (parameters or {}).get("version")
    if version is not None and not isinstance(version, str):
        raise BadRequest("parameters.version is not a string")
    return version
