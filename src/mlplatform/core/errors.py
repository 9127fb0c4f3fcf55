"""The one error tree. Adapters translate foreign errors into it, once, at the edge.

    MlplatformError
    ├── UsageError                 2  bad flag, unknown name, missing confirmation
    │   └── TopologyError          2  file, line and key of a bad topology
    ├── CheckFailed                3  a check found something
    │   └── DigestMismatch         3  bytes are not what they should be; a re-read may mend it
    ├── IntegrityError             3  a manifest or record that cannot be trusted
    ├── VersionConflict            3  the version exists with other bytes, or is withdrawn
    ├── SourceChanged              3  a file changed while it was being published
    ├── StoreError                 1  everything a store can answer, below
    │   ├── NotFound               1
    │   │   └── ContainerMissing   2  the bucket, container or folder itself
    │   ├── ConditionFailed        7  a precondition did not hold
    │   ├── Denied                 4  names the right that is missing
    │   ├── StoreFull              1  no space, or over quota
    │   ├── Unsupported            2  this store cannot do that
    │   ├── Throttled              1  retryable, carries retry_after_seconds
    │   └── Unavailable            1  retryable: time-outs, resets, 5xx, short reads
    ├── StalePlan                  7  what the plan was computed from has changed
    ├── LeaseHeld                  7  somebody else holds it; names holder and expiry
    ├── Fenced                     7  a newer writer has taken over: stop
    ├── Unreadable                 5  a region that decides it could not be read
    ├── NoMajority                 5  too few control stores answered
    ├── DeadlineExceeded           6  the total time allowed is over
    └── Interrupted              130  stopped by the operator

The number is the exit code of a command that ends with that error.
"""

from __future__ import annotations

from typing import ClassVar


class MlplatformError(Exception):
    """Names the object, the cause and, where there is one, the next step (`hint`)."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(MlplatformError):
    """What was typed or configured cannot be right."""

    exit_code = 2


class TopologyError(UsageError):
    """`topology.yaml` is wrong; the message carries file, line and key."""


class CheckFailed(MlplatformError):
    """A check found something."""

    exit_code = 3


class DigestMismatch(CheckFailed):
    """Bytes differ from what they should be. Retryable: the transfer may have been at fault."""

    retryable = True


class IntegrityError(MlplatformError):
    """A manifest, receipt or record is truncated, foreign or tampered with."""

    exit_code = 3


class VersionConflict(MlplatformError):
    """A version is immutable: it exists with other bytes, or it has been withdrawn."""

    exit_code = 3


class SourceChanged(MlplatformError):
    """A file changed while it was being read for publication."""

    exit_code = 3


class StoreError(MlplatformError):
    """Something an object store answered. `store` is its URL, without secrets."""

    def __init__(
        self, message: str, *, store: str = "", key: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.store = store
        self.key = key

    @property
    def where(self) -> str:
        """The object, as people name it; empty where none is known."""
        return "/".join(part for part in (self.store.rstrip("/"), self.key.lstrip("/")) if part)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class NotFound(StoreError):
    """There is no such object."""


class ContainerMissing(NotFound):
    """The bucket, container or folder that should hold the objects does not exist."""

    exit_code = 2


class ConditionFailed(StoreError):
    """A conditional write or read was refused: the object is not in the expected state."""

    exit_code = 7


class Denied(StoreError):
    """The credentials do not allow it, or have expired. `right` is list, get, put or delete."""

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        right: str = "",
        store: str = "",
        key: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, store=store, key=key, hint=hint)
        self.right = right


class StoreFull(StoreError):
    """No space left, or over quota."""


class Unsupported(StoreError):
    """The store does not offer this; see its `features`."""

    exit_code = 2


class Throttled(StoreError):
    """The store asks us to slow down (429, 503 SlowDown)."""

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        store: str = "",
        key: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, store=store, key=key, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(StoreError):
    """No usable answer: time-out, reset, 5xx, short read. A write may have taken effect."""

    retryable = True


class StalePlan(MlplatformError):
    """The world is not what the plan was computed from."""

    exit_code = 7


class LeaseHeld(MlplatformError):
    """Somebody else holds the lease; the message names holder and expiry."""

    exit_code = 7


class Fenced(MlplatformError):
    """A newer writer took over. Stop at once: nothing further may be written."""

    exit_code = 7


class Unreadable(MlplatformError):
    """What was asked hangs on a region that could not be read."""

    exit_code = 5


class NoMajority(MlplatformError):
    """Too few control stores answered to decide anything."""

    exit_code = 5


class DeadlineExceeded(MlplatformError):
    """The total time allowed for an operation is over."""

    exit_code = 6


class Interrupted(MlplatformError):
    """The operator asked to stop. What was finished is recorded; run again to go on."""

    exit_code = 130
