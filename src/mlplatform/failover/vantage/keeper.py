"""The one record of a vantage: read by name, and written over, round after round.

One write is under way at a time, and the newest record is the one that waits. While no control
store answers, nothing is lost: what was met stays in the record that is written when one does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from mlplatform.control.quorum import ControlStore
from mlplatform.core.errors import MlplatformError
from mlplatform.failover.evidence.record import VantageRecord, vantage_key
from mlplatform.failover.vantage.rounds import aged, encoded, newest
from mlplatform.ports.clock import Clock

Said = Callable[[str], None]

_REMEMBERED = 1024
"""Of three stores, one may still hold what we wrote long ago."""


class Keeper:
    """Reads and writes the record of one vantage."""

    def __init__(
        self, control: ControlStore, vantage: str, clock: Clock, executor: Executor, said: Said
    ) -> None:
        self._control = control
        self._key = vantage_key(vantage)
        self._vantage = vantage
        self._clock = clock
        self._executor = executor
        self._said = said
        self._lock = threading.Lock()
        self._waiting: tuple[VantageRecord, float] | None = None
        self._writing = False
        self._round = int(clock.now().timestamp())
        self._ours: deque[int] = deque(maxlen=_REMEMBERED)
        """The rounds that we have written, or may have, and the one that we went on from."""
        self._read = False
        """Whether it is known who wrote before us."""
        self._rival = False
        self.unwritten = ""
        """Why the last record could not be written; empty if it was."""
        self.written_at: float | None = None
        """When one was written last, by the wall clock, for metrics."""

    def recall(self) -> VantageRecord | None:
        """The record as it would be if it were written now; None where there is none that can be
        read, which is said."""
        try:
            record = self._stored()
        except MlplatformError as error:
            self._said(f"the last record could not be read, so this begins anew: {error}")
            return None
        with self._lock:
            self._read = True
            self._ours.extend([record.round] if record else [])
            self._round = max(self._round, record.round if record else 0)
        if record is None:
            return None
        return aged(record, (self._clock.now() - record.at).total_seconds())

    def next_round(self) -> int:
        """The number of a new record."""
        with self._lock:
            self._round += 1
            return self._round

    def offer(self, record: VantageRecord) -> None:
        """Let `record`, which is as of now, be written in place of any that waits still."""
        with self._lock:
            self._waiting = (record, self._clock.monotonic())
            if self._writing:
                return
            self._writing = True
        self._executor.submit(self._write_all)

    def write(self, record: VantageRecord) -> bool:
        """Write `record`, which is as of now; whether a control store took it."""
        return self._write(record, self._clock.monotonic())

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._writing = False
                    return
                (record, as_of), self._waiting = self._waiting, None
            self._write(record, as_of)

    def _write(self, record: VantageRecord, as_of: float) -> bool:
        try:
            record = self._after_theirs(record)
            passed = self._clock.monotonic() - as_of
            body = encoded(aged(record, passed).model_copy(update={"at": self._clock.now()}))
            with self._lock:
                self._ours.append(record.round)
            self._control.put_observation(self._key, body)
        except MlplatformError as error:
            if not self.unwritten:
                self._said(f"the record could not be written; it is kept until it can: {error}")
            self.unwritten = str(error)
            return False
        except Exception as error:  # the thread must not end with it
            self.unwritten = f"internal error: {type(error).__name__}: {error}"
            return False
        if self.unwritten:
            self._said("the record is written again")
        self.unwritten = ""
        self.written_at = self._clock.now().timestamp()
        return True

    def _after_theirs(self, record: VantageRecord) -> VantageRecord:
        """`record`, numbered after the one that is there. A number there that we did not write is
        somebody else's, who probes under our name."""
        try:
            theirs = self._stored()
        except MlplatformError:
            return record  # too few can be read, but any that can be reached shall have it
        if theirs is None:
            return record
        with self._lock:
            foreign = self._read and theirs.round not in self._ours
            self._read = True
            self._round = max(self._round, theirs.round)
        if foreign and not self._rival:
            self._said(
                f"somebody else probes as {self._vantage}: {theirs.writer or 'unknown'} wrote "
                f"round {theirs.round}; each vantage needs a name of its own"
            )
        self._rival = foreign
        if theirs.round >= record.round:
            return record.model_copy(update={"round": self.next_round()})
        return record

    def _stored(self) -> VantageRecord | None:
        """The newest copy; a broken one is as good as none, since it is written over."""
        try:
            return newest(self._control.read(self._key).bodies())
        except ValueError:
            return None
