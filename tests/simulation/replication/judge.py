"""What replication promises: a version shows when all its bytes are right, and not before; good
bytes stay; what was reported is so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from mlplatform.control.journal import Entry, Kind
from mlplatform.core.manifest import Receipt
from mlplatform.core.plan import Outcome, Result
from mlplatform.replication.decide import FEATURE, PUBLISH
from tests.simulation.judge import Judge
from tests.simulation.line import Fate
from tests.simulation.replication.contents import SUBJECT, Contents
from tests.simulation.schedule import Process, Scheduler
from tests.simulation.stores import SimStore, Site

LEASE_KEY = f"leases/replication/{SUBJECT.model}/{SUBJECT.version}.json"
_RECEIPT_KEY = SUBJECT.receipt_key
_MANIFEST_KEY = SUBJECT.manifest_key


class ReplicationJudge(Judge):
    """The invariants of DESIGN.md, and what has to be remembered to assert them."""

    demands_binding = True
    """Whether a manifest may only show once its digest is bound to the version's name."""

    def __init__(
        self,
        scheduler: Scheduler,
        candidates: list[Contents],
        regions: dict[str, Site],
        control: list[Site],
        *,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(scheduler, control, tell=tell)
        self.regions = regions
        self.candidates = {c.manifest.encoded: c for c in candidates}
        self.by_digest = {c.manifest.digest: c for c in candidates}
        self.by_key = {key for contents in candidates for key in contents.objects}
        self.winner: Contents | None = candidates[0] if len(candidates) == 1 else None
        """The one content that this version may ever show, once that is settled."""
        self.bound: Contents | None = None
        """What a majority of the control store says the version is."""
        self.excused: set[tuple[str, str, str]] = set()
        """Region, key and tag of what the adversary has flipped, or a bad link has spoilt."""
        self._spoilt: set[tuple[str, str, str]] = set()
        """Those of them that a link has spoilt: whoever wrote them must notice."""
        self.rotten_uploads: set[str] = set()
        self.bodies: dict[tuple[str, str, str], bytes] = {}
        """Region, key and tag of all objects ever written: the bytes as they were written."""
        self.last_wrong: dict[str, float] = {}
        """Region: when it last stopped showing wrong bytes; infinity while it does."""
        self._wrong_since: dict[str, float] = {}
        self._known_wrong: dict[str, tuple[float, frozenset[str]]] = {}
        """Region: when a check that found it wrong was last recorded, and the keys that checks have
        named and that have not been right since."""
        self._receipt_harmed_at: dict[str, float] = {}
        self.withdrawn_at: float | None = None
        self.withdrawing = False
        self._retried: set[tuple[str, str, str]] = set()

    # What the world does by itself.

    def harmed(self, site: Site, key: str) -> None:
        """The adversary has flipped a bit of an object, or removed it."""
        found = site.object(key)
        self.excused.add((site.name, key, found[1].tag if found else ""))
        if key == _RECEIPT_KEY:
            # What was said of another receipt lapses.
            self._known_wrong.pop(site.name, None)
            self._receipt_harmed_at[site.name] = self.scheduler.now
        self._note_wrong(site)
        self.last_wrong.setdefault(site.name, self.scheduler.now)
        self.last_wrong[site.name] = max(self.last_wrong[site.name], self.scheduler.now)

    # Effects.

    def before_put(self, store: SimStore, key: str, body: bytes) -> None:
        """A put is about to be sent, before anything can go wrong with it."""
        if key != _MANIFEST_KEY or store.site.is_control:
            return
        attempt = (store.process.name, store.site.name, key)
        if attempt in self._retried:
            return  # the policy's business; only the first attempt was guarded
        self._retried.add(attempt)
        if not self.believes(store.process, LEASE_KEY) and not self.control_lost:
            raise self.fail(
                f"{store.process} begins to make the version visible in {store.site} "
                "without holding the lease"
            )

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
        site = store.site
        super().effect(store, verb, key, before, spoilt=spoilt, upload=upload)
        if site.is_control:
            return
        after = site.object(key)
        written = verb in ("put", "complete")
        if written and after is not None:
            self.excused.discard((site.name, key, ""))
            self.bodies[site.name, key, after[1].tag] = after[0]
            was = (site.name, key, before[1].tag) if before else None
            if (
                (spoilt and key in (_MANIFEST_KEY, _RECEIPT_KEY))
                or (upload is not None and upload in self.rotten_uploads)
                or (was in self.excused and after[0] != self._true_bytes(key))
            ):
                self.excused.add((site.name, key, after[1].tag))
                if spoilt:
                    self._spoilt.add((site.name, key, after[1].tag))
            self._retried.discard((store.process.name, site.name, key))
        if key.startswith(SUBJECT.prefix):
            self._data_effect(store, verb, key, before, after)
            self.visible(site)
        elif key == _RECEIPT_KEY and written and not spoilt:
            self._receipt_effect(store, after)
        if written:
            self._note_wrong(site)

    def _data_effect(
        self,
        store: SimStore,
        verb: str,
        key: str,
        before: tuple[bytes, Any] | None,
        after: tuple[bytes, Any] | None,
    ) -> None:
        site = store.site
        if verb == "delete" and before is not None:
            raise self.fail(f"{store.process} deleted {key} in {site}")
        if verb not in ("put", "complete") or after is None:
            return
        if before is None:
            if key == _MANIFEST_KEY and self._emptied_under(store.process, site):
                self.excused |= {(site.name, k, "") for k in self.by_key if not site.object(k)}
            withdrawn_at = self.withdrawn_at if self.withdrawn_at is not None else float("inf")
            if key == _MANIFEST_KEY and store.process.started_at > withdrawn_at:
                raise self.fail(f"{store.process} placed a withdrawn version in {site}")
            return
        true = self._true_bytes(key)
        if true is None or before[0] != true:
            return
        if self._was_misled(store.process, site):
            self.excused.add((site.name, key, after[1].tag))
        elif after[0] != true:
            raise self.fail(f"{store.process} overwrote good bytes with others: {key} in {site}")
        else:
            raise self.fail(f"{store.process} sent {key} again over good bytes in {site}")

    def visible(self, site: Site) -> None:
        """A manifest is visible only when all its bytes are right."""
        found = site.object(_MANIFEST_KEY)
        if found is None:
            return
        body, stat = found
        contents = self.candidates.get(body)
        if contents is None:
            if (site.name, _MANIFEST_KEY, stat.tag) not in self.excused:
                raise self.fail(f"{site} shows a manifest that nobody published")
            return
        if self.demands_binding and self.bound is not contents and not self.control_lost:
            raise self.fail(f"{site} shows {contents.name}, which the version is not bound to")
        self._decide(site, contents)
        for key, bytes_ in contents.objects.items():
            there = site.object(key)
            tag = there[1].tag if there else ""
            if (there is None or there[0] != bytes_) and (site.name, key, tag) not in self.excused:
                has = "has other bytes" if there else "is not there"
                raise self.fail(f"{site} shows the version, and {key} {has}")

    def _receipt_effect(self, store: SimStore, after: tuple[bytes, Any] | None) -> None:
        assert after is not None
        site = store.site
        receipt = Receipt.model_validate(json.loads(after[0]))
        contents = self.by_digest.get(receipt.manifest_digest)
        if contents is None:
            raise self.fail(f"{store.process} wrote a receipt of unknown bytes in {site}")
        for entry in receipt.objects:
            key = f"{SUBJECT.prefix}{entry.path}"
            written = self.bodies.get((site.name, key, entry.tag))
            if (site.name, key, entry.tag) in self.excused:
                continue
            if written != contents.objects[key]:
                raise self.fail(
                    f"{store.process} wrote a receipt in {site} for {key}, tag {entry.tag}, "
                    f"which is {'not there' if written is None else 'wrong'}"
                )

    def wrong(self, site: Site) -> list[str]:
        """Keys of a visible version whose bytes are not right, in truth."""
        found = site.object(_MANIFEST_KEY)
        if found is None or self.winner is None:
            return []
        wrong = [] if found[0] == self.winner.manifest.encoded else [_MANIFEST_KEY]
        for key, body in self.winner.objects.items():
            there = site.object(key)
            if there is None or there[0] != body:
                wrong.append(key)
        return wrong

    def _note_wrong(self, site: Site) -> None:
        wrong = self.wrong(site)
        found_at, known = self._known_wrong.get(site.name, (0.0, frozenset()))
        self._known_wrong[site.name] = (found_at, known.intersection(wrong))
        if wrong:
            if self.last_wrong.get(site.name) != float("inf"):
                self._wrong_since[site.name] = self.scheduler.now
            self.last_wrong[site.name] = float("inf")
        elif self.last_wrong.get(site.name) == float("inf"):
            self.last_wrong[site.name] = self.scheduler.now

    def wrong_since(self, region: str) -> float:
        """Since when it has shown wrong bytes without a break."""
        return self._wrong_since[region]

    def _true_bytes(self, key: str) -> bytes | None:
        if self.winner is None:
            return None
        if key == _MANIFEST_KEY:
            return self.winner.manifest.encoded
        return self.winner.objects.get(key)

    def _emptied_under(self, process: Process, site: Site) -> bool:
        """Whether the store was lost after the process looked at it, or may have."""
        return self.emptied_at.get(site.name, -1.0) >= process.started_at

    def _was_misled(self, process: Process, site: Site) -> bool:
        """Whether no reader could have known better: one wrong read is read again, a stale answer
        looks like any other."""
        return (
            self.lies[process.name, site.name, Fate.STALE] > 0
            or self.lies[process.name, site.name, Fate.CORRUPT] > 1
        )

    # The control store.

    def record_effect(self, store: SimStore, key: str, body: bytes) -> None:
        if key.startswith("observations/checks/"):
            self._check_effect(store, json.loads(body))
        elif key.startswith("versions/"):
            self._bound_effect(store, body, key)

    def _bound_effect(self, store: SimStore, body: bytes, key: str) -> None:
        """Once a majority holds a record of the version's digest, it is that for ever."""
        holding = sum(
            (found := site.object(key)) is not None and found[0] == body for site in self.control
        )
        if holding <= len(self.control) // 2:
            return
        contents = self.by_digest[json.loads(body)["digest"]]
        if self.bound is not None and self.bound is not contents and not self.control_lost:
            raise self.fail(f"{store.process} bound the version to {contents.name}, it was bound")
        self.bound = contents
        self._decide(store.site, contents)

    def _decide(self, site: Site, contents: Contents) -> None:
        """From now on the version is this."""
        if self.winner is None:
            self.winner = contents
        elif self.winner is not contents:
            raise self.fail(f"{site}: {contents.name}, and the version is {self.winner.name}")

    def _check_effect(self, store: SimStore, check: Any) -> None:
        if not check["findings"]:
            return
        process, region = store.process, check["region"]
        wrong_since_start = self.last_wrong.get(region, -1.0) >= process.started_at
        wrong_since_start |= self._emptied_under(process, self.regions[region])
        if not (wrong_since_start or self._was_misled(process, self.regions[region])):
            raise self.fail(
                f"{process} demoted {region}, whose bytes are right: {check['findings'][0]}"
            )

    def appended(self, process: Process, entry: Entry) -> None:
        if entry.kind is Kind.OUTCOME:
            self._outcome(process, Outcome.model_validate(entry.payload))

    def _outcome(self, process: Process, outcome: Outcome) -> None:
        """What the journal says was done, is done."""
        kind = outcome.action.partition("/")[0]
        if not outcome.ok or self.withdrawing or kind not in (PUBLISH, FEATURE):
            return
        *_, region, digest = outcome.action.split("/")
        contents = self.by_digest[digest]
        if outcome.result is Result.NOTHING and self.winner is not contents:
            return  # another's bytes are the version, so these are not wanted any more
        if not self.shows(region, contents, process):
            raise self.fail(
                f"{process} recorded {outcome.result.value} for {region} ({outcome.detail}), "
                "which does not show the version"
            )

    def shows(self, region: str, contents: Contents | None, process: Process | None = None) -> bool:
        """Whether the manifest is visible there: or was, and the adversary has been at it."""
        site = self.regions[region]
        wanted = contents or self.winner
        found = site.object(_MANIFEST_KEY)
        if process is not None and self._emptied_under(process, site):
            return True
        if wanted is not None and found is not None and found[0] == wanted.manifest.encoded:
            return True
        there = (region, _MANIFEST_KEY, found[1].tag if found else "")
        return there in self.excused and there not in self._spoilt

    def found_wrong(self, process: Process, region: str, paths: Iterable[str]) -> None:
        """A check has recorded this."""
        if self._receipt_harmed_at.get(region, -1.0) >= process.started_at:
            return
        keys = {f"{SUBJECT.prefix}{path}" for path in paths}
        _, known = self._known_wrong.get(region, (0.0, frozenset()))
        wrong = self.wrong(self.regions[region])
        self._known_wrong[region] = (self.scheduler.now, known.union(keys).intersection(wrong))

    def knew(self, process: Process, region: str) -> set[str]:
        """Keys that were found wrong before the process began, and have not been right since."""
        found_at, keys = self._known_wrong.get(region, (0.0, frozenset()))
        return set() if self.control_lost or found_at >= process.started_at else set(keys)
