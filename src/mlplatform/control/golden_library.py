"""The golden requests of every model version, wherever they can still be read.

They are read from any region's store that answers, once, and kept on this machine under their own
digest: a version never changes, and a prober must not lose its questions with the region that held
them. Whoever waits for a store does so in a thread of its own, and never for longer than it likes.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path

from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import ContainerMissing, IntegrityError, MlplatformError, NotFound
from mlplatform.core.golden import GOLDEN_BYTES_MAX, GoldenRequest, parse_golden
from mlplatform.core.manifest import MANIFEST_BYTES_MAX, Manifest
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.ports.clock import Clock
from mlplatform.ports.store import ObjectStore, read_bytes

log = logging.getLogger(__name__)

Requests = tuple[GoldenRequest, ...]
"""Of one version; empty where it was published without any."""

_AGAIN_SECONDS = 60.0
"""What could not be read is asked for again after so long."""
_AT_ONCE = 4
_IN_MEMORY = 256


class NotPublished(Unknown):
    """Every region could be read, and none has such a version."""


class GoldenLibrary:
    """Golden requests by model version. Safe to share between threads."""

    def __init__(
        self,
        stores: Callable[[str], ObjectStore],
        regions_of: Callable[[str], Sequence[str]],
        clock: Clock,
        executor: Executor,
        *,
        folder: Path | None,
    ) -> None:
        """`regions_of` a model: where it may be read, the best first. `folder` is where requests
        are kept between processes; None keeps them in memory alone."""
        self._stores = stores
        self._regions_of = regions_of
        self._clock = clock
        self._executor = executor
        self._folder = folder
        self._lock = threading.Lock()
        self._at_once = threading.Semaphore(_AT_ONCE)
        self._held: OrderedDict[ModelVersion, Requests] = OrderedDict()
        self._loads: dict[ModelVersion, Future[Requests | Unknown]] = {}
        self._failed: dict[ModelVersion, tuple[float, Unknown]] = {}
        self._without: set[ModelVersion] = set()

    @property
    def without(self) -> frozenset[ModelVersion]:
        """Versions that are known to have none."""
        with self._lock:
            return frozenset(self._without)

    def of(self, subject: ModelVersion, *, wait_seconds: float) -> Requests | Unknown:
        """The version's golden requests. Raises nothing; what could not be read in time, or lately,
        is `Unknown`."""
        with self._lock:
            if subject in self._held:
                self._held.move_to_end(subject)
                return self._held[subject]
            if subject in self._without:
                return ()
            if (failed := self._failed.get(subject)) is not None:
                at, unknown = failed
                if self._clock.monotonic() - at < _AGAIN_SECONDS:
                    return unknown
                del self._failed[subject]
            future = self._loads.get(subject)
            starts = future is None
            if future is None:
                future = self._loads[subject] = Future()
        if starts:
            self._executor.submit(self._load, subject, future)
        try:
            return future.result(timeout=wait_seconds)
        except FutureTimeout:
            return Unknown(f"{subject}: no store has answered yet")

    def _load(self, subject: ModelVersion, future: Future[Requests | Unknown]) -> None:
        found: Requests | Unknown
        try:
            with self._at_once:
                found = self._find(subject)
        except Exception as error:
            log.exception("the golden requests of %s", subject)
            found = Unknown(f"{subject}: internal error: {type(error).__name__}: {error}")
        with self._lock:
            if isinstance(found, Unknown):
                self._failed[subject] = (self._clock.monotonic(), found)
            elif found:
                self._held[subject] = found
                while len(self._held) > _IN_MEMORY:
                    self._held.popitem(last=False)
            else:
                self._without.add(subject)
            del self._loads[subject]
        future.set_result(found)

    def _find(self, subject: ModelVersion) -> Requests | Unknown:
        with suppress(OSError, ValueError, KeyError, IntegrityError):
            return self._kept(subject)
        reasons = []
        absent = True
        for region in self._regions_of(subject.model):
            try:
                return self._read(subject, region)
            except ContainerMissing as error:
                absent = False
                reasons.append(f"{region}: {error}")
            except NotFound:
                reasons.append(f"{region}: it is not there")
            except MlplatformError as error:
                absent = False
                text = str(error)
                reasons.append(text if region in text else f"{region}: {text}")
        kind = NotPublished if absent else Unknown
        return kind(f"{subject}: its golden requests cannot be read: {'; '.join(reasons)}")

    def _read(self, subject: ModelVersion, region: str) -> Requests:
        store = self._stores(region)
        where = f"{region}: {subject.manifest_key}"
        body, _ = read_bytes(store, subject.manifest_key, limit_bytes=MANIFEST_BYTES_MAX)
        manifest = Manifest.parse(body, where=where, subject=subject)
        if manifest.golden is None:
            self._keep(subject, None)
            return ()
        entry = next(each for each in manifest.files if each.path == manifest.golden)
        key = manifest.key_of(entry)
        body, _ = read_bytes(store, key, limit_bytes=GOLDEN_BYTES_MAX)
        if blake3_hex(body) != f"blake3:{entry.blake3}":
            raise IntegrityError(f"{region}: {key}: these are not the bytes that were published")
        requests = parse_golden(body, where=f"{region}: {key}")
        self._keep(subject, body)
        return requests

    # --- on this machine ------------------------------------------------------------------------

    def _kept(self, subject: ModelVersion) -> Requests:
        """What an earlier process kept; raises where it kept nothing that is whole."""
        if self._folder is None:
            raise KeyError(subject)
        digest = json.loads(self._index(self._folder, subject).read_text(encoding="utf-8"))[
            "golden"
        ]
        if digest is None:
            return ()
        path = self._folder / f"{digest}.ndjson"
        body = path.read_bytes()
        if blake3_hex(body) != f"blake3:{digest}":
            raise IntegrityError(f"{path}: damaged")
        return parse_golden(body, where=str(path))

    def _keep(self, subject: ModelVersion, body: bytes | None) -> None:
        if self._folder is None:
            return
        digest = None if body is None else blake3_hex(body).removeprefix("blake3:")
        index = self._index(self._folder, subject)
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            if body is not None:
                _write(self._folder / f"{digest}.ndjson", body)
            _write(index, json.dumps({"golden": digest}).encode())
        except OSError as error:
            log.warning("golden requests are kept in memory only: %s", error)
            self._folder = None

    @staticmethod
    def _index(folder: Path, subject: ModelVersion) -> Path:
        return folder / subject.model / f"{subject.version}.json"


def _write(path: Path, body: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    part.write_bytes(body)
    part.replace(path)
