"""The models in a folder, `<folder>/<model>/<version>/`, and which of them are loaded.

Several versions of a model may be loaded side by side. The one that answers where none is named is
the one loaded last; at start that is `MODEL_VERSION`, or the newest by its numbers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform_serving.backends.formats import open_backend
from mlplatform_serving.backends.port import Backend
from mlplatform_serving.errors import BadRequest, LoadFailed, NotFound, Unavailable
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.instance import Instance, Limits
from mlplatform_serving.models.manifest import MANIFEST, ModelFiles
from mlplatform_serving.models.statistics import Statistics
from mlplatform_serving.names import by_number, is_name, model_name

log = logging.getLogger("model_loader")


@dataclass(slots=True)
class Loaded:
    """A version that answers."""

    name: str
    version: str
    digest: str
    backend: str
    instance: Instance
    statistics: Statistics = field(default_factory=Statistics)


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in the index; `digest` is empty while it is not loaded."""

    name: str
    version: str
    state: str
    reason: str
    digest: str = ""


class Repository:
    """What a server serves. To be used on the event loop."""

    def __init__(
        self, folder: Path, *, metrics: Metrics, instance_limits: Limits | None = None
    ) -> None:
        self._folder = folder
        self._instance_limits = instance_limits or Limits()
        self._metrics = metrics
        self._loaded: dict[str, dict[str, Loaded]] = {}
        self._answering: dict[str, Loaded] = {}
        self._failed: dict[tuple[str, str], str] = {}
        self._under_way: dict[tuple[str, str], str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._missing: set[str] = set()
        self.started = False
        log.info("ModelLoader initialized with cache_dir=%s", folder)

    # --- what answers ----------------------------------------------------------------------------

    def find(self, name: str, version: str | None = None) -> Loaded:
        """The version that answers, or the one that is named. `NotFound` in Triton's words;
        `Unavailable` while it is loaded, or could not be."""
        found = (
            self._answering.get(name)
            if version is None
            else self._loaded.get(name, {}).get(version)
        )
        if found is not None:
            return found
        # Only names that are on record are told back: what a client made up is not.
        for key, reason in (*self._under_way.items(), *self._failed.items()):
            if key[0] == name and version in (None, key[1]):
                raise Unavailable(f"Request for model {name}, which is not ready: {reason}")
        if name in self._loaded:
            raise NotFound(f"Request for unknown model: {name} has no such version loaded")
        raise NotFound("Request for unknown model: none of that name is loaded")

    def loaded(self) -> Iterator[Loaded]:
        """Every version that is loaded."""
        for versions in self._loaded.values():
            yield from versions.values()

    def versions(self, name: str) -> list[str]:
        """The loaded versions of a model, oldest first."""
        return sorted(self._loaded.get(name, {}), key=by_number)

    @property
    def well(self) -> bool:
        """Whether all is loaded that was to be served from the start. What is loaded later, or
        fails then, is no reason to take the server from those it serves."""
        return (
            self.started and not self._missing and not any(e.instance.hung for e in self.loaded())
        )

    async def index(self) -> list[Entry]:
        """Every version that is loaded, was tried, or lies in the folder."""
        entries = {
            (each.name, each.version): Entry(each.name, each.version, "READY", "", each.digest)
            for each in self.loaded()
        }
        for (name, version), state in self._under_way.items():
            entries[name, version] = Entry(name, version, state.upper(), "")
        for (name, version), reason in self._failed.items():
            entries.setdefault((name, version), Entry(name, version, "UNAVAILABLE", reason))
        for name, version in await asyncio.to_thread(self._on_disk):
            entries.setdefault((name, version), Entry(name, version, "UNAVAILABLE", "not loaded"))
        return [
            entries[key] for key in sorted(entries, key=lambda key: (key[0], by_number(key[1])))
        ]

    def _on_disk(self) -> list[tuple[str, str]]:
        return [
            (path.parent.parent.name, path.parent.name)
            for path in self._folder.glob(f"*/*/{MANIFEST}")
            if is_name(path.parent.name) and is_name(path.parent.parent.name)
        ]

    # --- loading ---------------------------------------------------------------------------------

    async def load_all(self, models: Sequence[str], version: str | None) -> None:
        """What is to be served from the start: `models` as NAME or NAME@VERSION, all in the folder
        if none is given. What fails is logged, and told by the index and by readiness."""
        wanted = [tuple(each.partition("@")[::2]) for each in models]
        if not wanted:
            wanted = sorted({(name, "") for name, _ in await asyncio.to_thread(self._on_disk)})
        for name, named in wanted:
            try:
                await self.load(name, named or version)
            except LoadFailed as error:
                log.error("%s", error)
                self._missing.add(name)
        self.started = True

    async def load(self, name: str, version: str | None = None) -> Loaded:
        """Load a version (the newest if none is named) and let it answer. One that is loaded
        already is left as it is. `LoadFailed` says which and why."""
        chosen = version or await self._newest(name)
        if not is_name(name) or not is_name(chosen):
            raise LoadFailed("failed to load: that is no name of a model and a version")
        async with self._locks.setdefault(name, asyncio.Lock()):
            found = self._loaded.get(name, {}).get(chosen)
            if found is None:
                found = await self._load(name, chosen)
                self._loaded.setdefault(name, {})[chosen] = found
            self._answering[name] = found
            self._missing.discard(name)
            return found

    async def _newest(self, name: str) -> str:
        versions = [
            version for each, version in await asyncio.to_thread(self._on_disk) if each == name
        ]
        if not versions:
            known = is_name(name)
            raise LoadFailed(
                f"failed to load '{name if known else '?'}': Model file not found: "
                "the repository has no version of it"
            )
        return max(versions, key=by_number)

    async def _load(self, name: str, version: str) -> Loaded:
        key = (name, version)
        self._failed.pop(key, None)
        self._under_way[key] = "loading"
        began = time.perf_counter()
        try:
            files, backend_name, backend = await asyncio.to_thread(
                self._open, self._folder / name / version
            )
        except Exception as error:
            reason = str(error) if isinstance(error, LoadFailed) else "it could not be loaded"
            self._failed[key] = reason
            self._metrics.load_failures.labels(name, version).inc()
            log.error(
                "Model failed to load: %s@%s: %s",
                name,
                version,
                reason,
                exc_info=None if isinstance(error, LoadFailed) else error,
                extra={"model": name, "version": version},
            )
            raise LoadFailed(f"failed to load '{name}', version {version}: {reason}") from error
        finally:
            del self._under_way[key]
        seconds = time.perf_counter() - began
        self._metrics.load_seconds.labels(name, version).observe(seconds)
        log.info(
            "model_load: %s@%s by %s in %.3f s",
            name,
            version,
            backend_name,
            seconds,
            extra={"model": name, "version": version, "duration_seconds": round(seconds, 6)},
        )
        statistics = Statistics()
        instance = Instance(name, backend, self._instance_limits, statistics)
        loaded = Loaded(name, version, files.digest, backend_name, instance, statistics)
        self._metrics.follow(name, version, loaded.statistics, lambda: instance.pending)
        return loaded

    @staticmethod
    def _open(folder: Path) -> tuple[ModelFiles, str, Backend]:
        files = ModelFiles(folder)
        name, backend = open_backend(files)
        return files, name, backend

    async def unload(self, name: str, version: str | None = None) -> None:
        """Unload a version, or all of a model, when what it has begun is done. What is not loaded
        is no error if it is known; `NotFound` if it is not."""
        async with self._locks.setdefault(model_name(name), asyncio.Lock()):
            versions = self._loaded.get(name, {})
            for key in [
                key for key in self._failed if key[0] == name and version in (None, key[1])
            ]:
                del self._failed[key]
            self._missing.discard(name)
            leaving = [each for each in versions.values() if version in (None, each.version)]
            if not leaving and not any(
                each == name for each, _ in await asyncio.to_thread(self._on_disk)
            ):
                raise NotFound("Request for unknown model: none of that name is here")
            for each in leaving:
                await self._unload(each)

    async def _unload(self, leaving: Loaded) -> None:
        name, version = leaving.name, leaving.version
        versions = self._loaded[name]
        del versions[version]
        if self._answering.get(name) is leaving:
            del self._answering[name]
            if versions:
                self._answering[name] = versions[max(versions, key=by_number)]
        self._under_way[name, version] = "unloading"
        try:
            await leaving.instance.close()
        finally:
            del self._under_way[name, version]
            self._metrics.forget(name, version)
            if not versions:
                self._loaded.pop(name, None)
        log.info("model_unload: %s@%s", name, version, extra={"model": name, "version": version})

    async def close(self) -> None:
        """Unload everything."""
        for each in list(self.loaded()):
            await self._unload(each)


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
