"""What was parsed once is not parsed again.

Every process of a world reads the same records from three stores, time and again, and nearly half
of a world's time would go into telling the same bytes the same way. Records are frozen, so one
parsed value serves all; what is no record raises as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from mlplatform.control.journal import Entry
from mlplatform.control.lease import LeaseRecord
from mlplatform.core.plan import Record
from mlplatform.failover.evidence.record import VantageRecord

_RECORDS: tuple[type[Record], ...] = (VantageRecord, Entry, LeaseRecord)


@contextmanager
def remembering() -> Iterator[None]:
    """For the time of one world."""
    with ExitStack() as stack:
        for record in _RECORDS:
            stack.enter_context(patch.object(record, "model_validate_json", _remembered(record)))
        yield


def _remembered(record: type[Record]) -> Callable[[bytes], Record]:
    parse, known = record.model_validate_json, dict[bytes, Record]()

    def parsed(body: bytes) -> Record:
        found = known.get(body)
        if found is None:
            found = known[body] = parse(body)
        return found

    return parsed
