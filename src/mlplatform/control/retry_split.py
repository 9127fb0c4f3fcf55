"""What a rollout writes through, under the one retry policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import DeadlineExceeded, MlplatformError
from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Servers, ServersFeatures, ServersState
from mlplatform.ports.split import Counts, Split

T = TypeVar("T")


class BriefRetry(Retry):
    """The same policy for who can wait longer than it does: when its time is over, the last error
    itself is raised, which says that it is `retryable`, as after the last attempt."""

    def call(self, fn: Callable[[], T], *, what: str) -> T:
        try:
            return super().call(fn, what=what)
        except DeadlineExceeded as late:
            last = late.__cause__
            if isinstance(last, MlplatformError) and last.retryable:
                raise last from None
            raise


class RetryingSplit(RetryingTraffic):
    """Any split, every verb of it under the policy. `admit` may be done twice: it says what is to
    be, and its fence is checked where it is written."""

    def __init__(self, split: Split, retry: Retry) -> None:
        super().__init__(split, retry)
        self._split = split

    def admit(self, version: str, addresses: Sequence[str], *, epoch: int, writer: str) -> None:
        self._retry.call(
            lambda: self._split.admit(version, addresses, epoch=epoch, writer=writer),
            what=f"admit {version} at {self.url}",
        )

    def counts(self, slow_seconds: float) -> Mapping[str, Counts | Unknown]:
        return self._retry.call(
            lambda: self._split.counts(slow_seconds), what=f"counts of {self.url}"
        )


class RetryingServers:
    """Any servers, both verbs under the policy: to have so many may be asked twice."""

    def __init__(self, servers: Servers, retry: Retry) -> None:
        self._servers = servers
        self._retry = retry

    @property
    def url(self) -> str:
        return self._servers.url

    @property
    def features(self) -> ServersFeatures:
        return self._servers.features

    def read(self) -> ServersState:
        return self._retry.call(self._servers.read, what=f"read {self.url}")

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        return self._retry.call(
            lambda: self._servers.scale(
                version, servers, digest=digest, epoch=epoch, writer=writer
            ),
            what=f"scale {version} to {servers} at {self.url}",
        )
