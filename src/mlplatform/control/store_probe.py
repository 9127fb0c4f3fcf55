"""What a store lets us do and what it upholds, found by trying it on a scratch key.

Conditional writes are what the journal, the leases and the manifests stand on, and stores exist
that take a condition and ignore it. So nothing is believed: an object is put under
`.mlplatform/scratch/<nonce>`, and every condition is tried where it must be refused. The object is
removed again; where that is not allowed, the report says what was left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mlplatform.core.digest import digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    MlplatformError,
    NotFound,
    Unavailable,
)
from mlplatform.ports.store import (
    ABSENT,
    Matches,
    ObjectStore,
    StoreFeatures,
    exists,
    read_bytes,
)

SCRATCH = ".mlplatform/scratch/"


class Check(StrEnum):
    """What is tried, in this order. A folder is made by its first write, so that comes first."""

    PUT = "put"
    LIST = "list"
    GET = "get"
    CONDITIONAL_PUT = "conditional_put"
    CONDITIONAL_COMPLETE = "conditional_complete"
    CONDITIONAL_DELETE = "conditional_delete"
    DELETE = "delete"


RIGHTS = (Check.LIST, Check.GET, Check.PUT, Check.DELETE)


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    DENIED = "denied"
    NO = "no"
    """The store says itself that it does not do this."""
    BROKEN = "broken"
    """The store took the condition and did not uphold it."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's verdict, and why."""

    verdict: Verdict
    reason: str = ""
    exit_code: int = 0
    hint: str | None = None


_UNREAD = 5
_UNTRIED = Finding(Verdict.UNKNOWN, "not tried", exit_code=_UNREAD)


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What is known of a store: a finding for each check."""

    findings: Mapping[Check, Finding]
    declared: StoreFeatures | None = None
    """What its adapter says of it; none where it could not even be opened."""
    leftover: str | None = None
    """The scratch key, if it may still be there."""

    @property
    def features(self) -> StoreFeatures | None:
        """What it really does: as declared, less what did not hold."""
        if self.declared is None:
            return None
        return replace(
            self.declared,
            conditional_put=self._holds(Check.CONDITIONAL_PUT),
            conditional_complete=self._holds(Check.CONDITIONAL_COMPLETE),
            conditional_delete=self._holds(Check.CONDITIONAL_DELETE),
        )

    @property
    def missing_rights(self) -> tuple[str, ...]:
        """Of list, get, put and delete, those that are denied."""
        return tuple(
            right.value for right in RIGHTS if self.findings[right].verdict is Verdict.DENIED
        )

    @property
    def hints(self) -> tuple[str, ...]:
        """What to try, each once."""
        return tuple(dict.fromkeys(found.hint for found in self.findings.values() if found.hint))

    @property
    def exit_codes(self) -> frozenset[int]:
        """Those of all findings. A store that cannot create an object only if there is none, or
        compare and set, can hold neither manifests nor leases: that is a finding, too."""
        codes = {finding.exit_code for finding in self.findings.values()}
        if self.findings[Check.CONDITIONAL_PUT].verdict is Verdict.NO:
            codes.add(3)
        return frozenset(codes)

    def _holds(self, check: Check) -> bool:
        return self.findings[check].verdict is Verdict.OK


@dataclass(slots=True)
class Probe:
    """One store's checks. `run` fills `findings` as it goes, so that a store that stops answering
    half-way is known by what it answered."""

    store: ObjectStore
    nonce: str
    findings: dict[Check, Finding] = field(default_factory=dict)
    declared: StoreFeatures | None = None
    """Asked for once, in `run`: a store may have to be called for it, and may not answer."""
    written: bool = False
    """Whether the scratch object may be there."""
    tag: str = ""
    """The scratch object's, now."""
    stale: str = ""
    """A tag that it had."""

    @property
    def key(self) -> str:
        return f"{SCRATCH}{self.nonce}"

    def report(self) -> StoreReport:
        """What is known so far."""
        return StoreReport(
            {check: self.findings.get(check, _UNTRIED) for check in Check},
            declared=self.declared,
            leftover=self.key if self.written or self._is_unsure() else None,
        )

    def run(self) -> StoreReport:
        """Try everything, unless the store is not there or stops answering."""
        try:
            self.declared = self.store.features
        except MlplatformError as error:
            self._leave_off(error)
            return self.report()
        for check, attempt in self._attempts(self.declared):
            try:
                self.findings[check] = attempt() or Finding(Verdict.OK)
            except Denied as error:
                self.findings[check] = Finding(
                    Verdict.DENIED, str(error), error.exit_code, error.hint
                )
            except (ContainerMissing, Unavailable) as error:
                self._leave_off(error)
                break
            except MlplatformError as error:
                self.findings[check] = _unknown(error)
        return self.report()

    def _leave_off(self, error: MlplatformError) -> None:
        """The other checks could only tell the same, each after another time-out."""
        found = _unknown(error)
        self.findings.update({each: found for each in Check if each not in self.findings})

    def _is_unsure(self) -> bool:
        """Whether a put may have worked although its answer was lost."""
        put = self.findings.get(Check.PUT)
        return put is not None and put.verdict is Verdict.UNKNOWN and put.exit_code == _UNREAD

    def _attempts(
        self, features: StoreFeatures
    ) -> Iterator[tuple[Check, Callable[[], Finding | None]]]:
        yield Check.PUT, self._put
        yield Check.LIST, self._list
        yield Check.GET, self._get
        for check, declared, attempt in (
            (Check.CONDITIONAL_PUT, features.conditional_put, self._conditional_put),
            (Check.CONDITIONAL_COMPLETE, features.conditional_complete, self._conditional_complete),
            (Check.CONDITIONAL_DELETE, features.conditional_delete, self._conditional_delete),
        ):
            if not declared:
                self.findings[check] = Finding(Verdict.NO, "the store does not offer it")
            elif not self.written:
                self.findings[check] = Finding(Verdict.UNKNOWN, "needs the right to put")
            else:
                yield check, attempt
        yield Check.DELETE, self._delete

    def _list(self) -> None:
        next(iter(self.store.list(SCRATCH)), None)

    def _put(self) -> None:
        self._write(b"first")

    def _get(self) -> Finding | None:
        if not self.written:
            try:  # a right can be told from the refusal of an object that is not there
                self.store.stat(self.key)
            except ContainerMissing:
                raise
            except NotFound:
                return None
        body, _ = read_bytes(self.store, self.key)
        if body != self._body(b"first"):
            return _broken("other bytes came back than were put")
        return None

    def _conditional_put(self) -> Finding | None:
        if not _refused(lambda: self.store.put(self.key, self._body(b"x"), when=ABSENT)):
            return _broken("create-only replaced an object that was there")
        before = self.tag
        self._write(b"second", tag=before)
        if self.tag == before:
            return _broken("the tag stayed the same although the object changed")
        self.stale = before
        if not _refused(lambda: self.store.put(self.key, self._body(b"x"), when=Matches(before))):
            return _broken("compare-and-set replaced an object that had changed")
        return None

    def _conditional_complete(self) -> Finding | None:
        body = self._body(b"x")
        least = self.declared.part_bytes_min if self.declared else 1
        part_bytes = max(least, len(body))
        upload = self.store.begin(self.key, size_bytes=len(body), part_bytes=part_bytes)
        try:
            digests = digest_of(body)
            parts = [upload.part(0, body, digests=digests)]
            if not _refused(lambda: upload.complete(parts, digests=digests, when=ABSENT)):
                return _broken("a create-only completion replaced an object that was there")
        finally:
            upload.abort()
        return None

    def _conditional_delete(self) -> Finding | None:
        if not self.stale:
            self.stale = self.tag
            self._write(b"third")
        if not _refused(lambda: self.store.delete(self.key, when=Matches(self.stale))):
            return _broken("an object was deleted although it had changed")
        if self._is_there() is False:
            return _broken("the delete was refused, and the object is gone")
        return None

    def _delete(self) -> Finding | None:
        self.store.delete(self.key)
        if self.written and self._is_there():
            return _broken("the object is still there after it was deleted")
        self.written = False
        return None

    def _is_there(self) -> bool | None:
        """Whether the scratch object is there; None where we may not look."""
        try:
            return exists(self.store, self.key)
        except Denied:
            return None

    def _write(self, text: bytes, *, tag: str | None = None) -> None:
        body = self._body(text)
        if tag is None:
            self.tag = self.store.put(self.key, body).tag
        else:
            self.tag = self.store.put(self.key, body, when=Matches(tag)).tag
        self.written = True

    def _body(self, text: bytes) -> bytes:
        return b"mlplatform validate, " + self.nonce.encode() + b": " + text


def probe_all(
    stores: Mapping[str, Callable[[], ObjectStore]],
    nonce: str,
    *,
    executor: Executor,
    timeout_seconds: float,
) -> dict[str, StoreReport]:
    """Probe stores side by side. All together take no longer than the time-out: one that does not
    answer is known by what it answered so far. Opening a store may raise our errors."""
    probes: dict[str, Probe] = {}
    reports: dict[str, StoreReport] = {}
    running: dict[str, Future[StoreReport]] = {}
    for name, opener in stores.items():
        try:
            probes[name] = Probe(opener(), nonce)
        except MlplatformError as error:
            found = _unknown(error)
            reports[name] = StoreReport(dict.fromkeys(Check, found))
        else:
            running[name] = executor.submit(probes[name].run)
    wait(running.values(), timeout=timeout_seconds)
    for name, future in running.items():
        if future.done():
            reports[name] = future.result()
        else:
            silent = Unavailable(f"no answer within {timeout_seconds:g} s")
            found, report = _unknown(silent), probes[name].report()
            told = {c: found if f is _UNTRIED else f for c, f in report.findings.items()}
            reports[name] = replace(report, findings=told)
    return {name: reports[name] for name in stores}


def _refused(write: Callable[[], object]) -> bool:
    try:
        write()
    except ConditionFailed:
        return True
    return False


def _broken(reason: str) -> Finding:
    return Finding(Verdict.BROKEN, reason, exit_code=3)


def _unknown(error: MlplatformError) -> Finding:
    """What could not be found out. A fault that will pass counts as not read."""
    code = _UNREAD if error.retryable or error.exit_code == 1 else error.exit_code
    return Finding(Verdict.UNKNOWN, str(error), code, error.hint)
