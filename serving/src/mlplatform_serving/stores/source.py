"""The port of a region's store, as whoever preloads needs it, and what can go wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mlplatform_serving.errors import LoadFailed, Unavailable
from mlplatform_serving.models.progress import Progress

Buffer = bytes | bytearray | memoryview


class NotInStore(LoadFailed):
    """There is no such object."""


class Damaged(LoadFailed):
    """What the store gives is not what was published."""


class DiskFull(LoadFailed):
    """The folder of models has no room for it."""


class StoreFailed(Unavailable):
    """The store did not answer, or not in time."""


class StoreDenied(StoreFailed):
    """The store does not let this server read."""


class ObjectReader(Protocol):
    """What is read of a store. From any thread, and from several at once."""

    def read(self, key: str, start: int, stop: int) -> Buffer:
        """The bytes from `start` to `stop`. Where the object ends before, they are fewer, or it is
        `StoreFailed`: stores differ. Else `NotInStore`, `StoreDenied` or `StoreFailed`."""
        ...

    def read_whole(self, key: str, bytes_max: int) -> bytes:
        """An object of at most so many bytes; `Damaged` if it has more."""
        ...

    def size_bytes(self, key: str) -> int:
        """Of an object; `NotInStore` if there is none."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """The names directly below `models/`, say, that have something below them."""
        ...


class ModelSource(Protocol):
    """Where versions come from that are not in the folder. Its methods block."""

    def models(self) -> list[str]:
        """The models that it has a version of."""
        ...

    def versions(self, model: str) -> list[str]:
        """The versions of a model that are published there."""
        ...

    def fetch(self, model: str, version: str, folder: Path, progress: Progress) -> None:
        """Have `folder/model/version` with all its files, verified, or leave nothing there. What it
        raises is a `ServingError` that says which file and why."""
        ...
