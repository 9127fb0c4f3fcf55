"""The judge: sees everything as it truly is, after every effect, and knows what must hold.

It is told of effects by the places where they happen, of what was acknowledged by the control
store, and of what was reported by the processes. Nothing that it knows ever reaches the code that
it judges. What holds of journal and lease in every world is here; what a feature promises is in its
own judge.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from mlplatform.control.journal import Entry
from mlplatform.control.lease import _MARGIN
from mlplatform.core.digest import blake3_hex
from tests.simulation.line import Fate
from tests.simulation.schedule import Process, Scheduler
from tests.simulation.stores import SimStore, Site


class Violation(BaseException):
    """An invariant does not hold. No `Exception`: the code under test must not swallow it."""


class Judge:
    """The story of a world, and the invariants of the control store."""

    def __init__(
        self,
        scheduler: Scheduler,
        control: list[Site],
        *,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.control = control
        self.calls = 0
        self.calls_max = 10**9
        self.steps: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=60)
        self.met: Counter[str] = Counter()
        """Fates that befell a call, and errors that came of it: how unkind this world was."""
        self._tell = tell
        self.emptied_at: dict[str, float] = {}
        self.control_lost = False
        """The only control store was lost: what lay there binds nobody any more."""
        self.lies: Counter[tuple[str, str, Fate]] = Counter()
        self._entries: dict[str, Entry] = {}
        """By digest: every journal entry ever written anywhere."""
        self._acked: dict[str, Entry] = {}
        """By operation, the last one whose writer was told that it is settled."""
        self._numbers: dict[tuple[str, int], str] = {}
        self._generations: dict[str, int] = {}
        """By lease: the highest that was ever held."""
        self._beliefs: dict[tuple[str, str], tuple[Process, str, float, int]] = {}
        """By lease and process: who believes to hold it, by which claim, until when by its own
        clock, and under which generation."""
        self._released: set[str] = set()
        """Claims that were given back."""

    # The story.

    def trace(
        self,
        process: Process | None,
        *what: object,
        fate: Fate | None = None,
        error: BaseException | None = None,
    ) -> None:
        """One step."""
        if fate is not None and fate is not Fate.WORKS:
            self.met[fate.value] += 1
            what = (*what, f"[{fate.value}]")
        if error is not None:
            self.met[type(error).__name__] += 1
            what = (*what, f"-> {type(error).__name__}: {error}")
        step = (self.scheduler.now, process.name if process else "world", what)
        self.steps.append(step)
        if self._tell is not None:
            self._tell(spell(step))

    def fail(self, what: str) -> Violation:
        self.trace(None, "VIOLATION", what)
        return Violation(what)

    # What the world does by itself.

    def emptied(self, site: Site) -> None:
        """A store was lost and made anew."""
        if site.is_control and len(self.control) == 1:
            self.control_lost = True
            self._acked.clear()
            self._numbers.clear()
        self.emptied_at[site.name] = self.scheduler.now

    def lied(self, store: SimStore, key: str, fate: Fate) -> None:
        """A reader was told something that is not so."""
        self.trace(store.process, "is lied to about", store.site, key, fate=fate)
        self.lies[store.process.name, store.site.name, fate] += 1

    # Effects.

    def before_put(self, store: SimStore, key: str, body: bytes) -> None:
        """A put is about to be sent, before anything can go wrong with it."""

    def effect(
        self,
        store: SimStore,
        verb: str,
        key: str,
        before: tuple[bytes, Any] | None,
        *,
        spoilt: bool = False,
        upload: str | None = None,
    ) -> None:
        """Something was written. `before` is what `key` was."""
        if store.site.is_control:
            self._control_effect(store, verb, key, before)

    def _control_effect(
        self, store: SimStore, verb: str, key: str, before: tuple[bytes, Any] | None
    ) -> None:
        after = store.site.object(key)
        if key.startswith("journal/"):
            if verb != "put":
                raise self.fail(f"{store.process}: {verb} of a journal entry, {key}")
            assert after is not None
            if before is not None and before[0] != after[0]:
                raise self.fail(f"{store.process} overwrote the journal entry {key}")
            digest = blake3_hex(after[0])
            if digest not in self._entries:
                try:
                    entry = Entry.model_validate_json(after[0])
                except ValidationError:
                    self.trace(store.process, "spread a record that it had read wrongly")
                else:
                    self._entries[digest] = entry
                    self.written(store.process, entry)
        elif key.startswith("leases/") and before is not None and after is not None:
            was, now = json.loads(before[0]), json.loads(after[0])
            if was["generation"] > now["generation"]:
                raise self.fail(
                    f"{store.process} wrote generation {now['generation']} of {key} over "
                    f"{was['generation']} in {store.site}"
                )
        elif after is not None and verb == "put":
            self.record_effect(store, key, after[0])

    def record_effect(self, store: SimStore, key: str, body: bytes) -> None:
        """Any other record was written to a control store."""

    # The journal.

    def written(self, process: Process, entry: Entry) -> None:
        """An entry was seen for the first time, on one control store: it may count or not."""

    def appended(self, process: Process, entry: Entry) -> None:
        """An entry is settled, and its writer knows."""

    def acked(self, process: Process, key: str, body: bytes) -> None:
        """`create` returned: its caller may rely on the record for ever."""
        if not key.startswith("journal/"):
            return
        digest = blake3_hex(body)
        entry = self._entries[digest]
        place = (entry.operation, entry.number)
        if self._numbers.setdefault(place, digest) != digest:
            raise self.fail(f"two entries are settled as {entry.name}")
        last = self._acked.get(entry.operation)
        if last is not None and not self.control_lost and not self._descends(last, entry):
            if not self._descends(entry, last):
                raise self.fail(f"{entry.name} forks off: it does not follow {last.name}")
            if last.fence > entry.fence:
                raise self.fail(
                    f"{process} (generation {entry.fence}) appended {entry.name} after "
                    f"generation {last.fence} had"
                )
        if last is None or entry.number > last.number:
            self._acked[entry.operation] = entry
        self.appended(process, entry)

    def _descends(self, entry: Entry, ancestor: Entry) -> bool:
        current: Entry | None = entry
        while current is not None and current.number >= ancestor.number:
            if current == ancestor:
                return True
            current = self._entries.get(current.previous)
        return False

    # The leases.

    def lease_swap(self, process: Process, key: str, body: bytes) -> float:
        """A record is about to be written. The holder counts its term from now."""
        record = json.loads(body)
        if record["released"]:
            self._beliefs.pop((key, process.name), None)
            self._released.add(record["claim"])
        return process.monotonic()

    def lease_swapped(self, process: Process, key: str, body: bytes, began: float) -> None:
        """It was taken by a majority."""
        record = json.loads(body)
        claim, generation, term = record["claim"], record["generation"], record["term_seconds"]
        if claim in self._released:
            return  # also a renewal that was under way when it was released
        deadline = began + term * (1 - _MARGIN)
        if process.monotonic() >= deadline:
            return  # the answer came too late to be of use, and its holder knows that
        held = self._beliefs.get((key, process.name))
        if held is None or held[1] != claim:
            highest = self._generations.get(key, 0)
            if generation <= highest and not self.control_lost:
                raise self.fail(
                    f"{process} took generation {generation} of the lease, after "
                    f"{highest} had been held"
                )
            self._generations[key] = max(highest, generation)
            self.leased(process, key, generation)
        self._beliefs[key, process.name] = (process, claim, deadline, generation)
        if self.control_lost:
            return
        for (lease, _), (other, _, until, theirs) in self._beliefs.items():
            if lease != key or other is process or other.dead:
                continue
            if other.monotonic() < until:
                raise self.fail(
                    f"{process} (generation {generation}) and {other} (generation {theirs}) both "
                    "hold the lease"
                )

    def leased(self, process: Process, key: str, generation: int) -> None:
        """A process has taken a lease anew."""

    def believes(self, process: Process, key: str) -> bool:
        """Whether a process has reason to think that it holds a lease."""
        held = self._beliefs.get((key, process.name))
        return held is not None and process.monotonic() < held[2]


def spell(step: tuple[float, str, tuple[object, ...]]) -> str:
    """A step as a line."""
    at, who, what = step
    return f"{at:9.3f}  {who:<14} {' '.join(str(word) for word in what)}"
