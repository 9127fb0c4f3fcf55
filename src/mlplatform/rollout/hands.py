"""What a rollout does to one model's servers and entries: under its lease, and so that doing it
again does no harm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from mlplatform.core.errors import CheckFailed, ConditionFailed, Unavailable
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import JSON, Action, Plan
from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import HOPELESS, Group, Servers
from mlplatform.ports.split import Split
from mlplatform.ports.traffic import RouteState, Weights, check_epoch
from mlplatform.rollout.asking import ask_golden
from mlplatform.rollout.course.decide import versions_of
from mlplatform.rollout.course.shares import by_another_hand
from mlplatform.rollout.effects import Golden, Sites
from mlplatform.rollout.waiting import GoesBack, Patience, is_undo

_IN_FORCE_SECONDS = 120.0
_WRITE_TRIES = 5
_GOLDEN_TRIES = 3
"""A wrong answer may be somebody else's; three times the same is not."""


@dataclass(slots=True)
class Hands:
    """One rollout's. Safe to share between threads, one a region."""

    sites: Sites
    subject: ModelVersion
    guard: Callable[[], None]
    epoch: Callable[[], int]
    told: Callable[[str], None]
    patience: Patience
    agreed: Plan | None = None
    """Which versions an entry divides between is read from it."""
    _let_in: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """By region and version: servers that answered golden requests and were let in."""

    # --- looking --------------------------------------------------------------------------------

    def split(self, region: str) -> Split:
        """What divides a region's requests. Not before something was agreed."""
        assert self.agreed is not None  # noqa: S101 - nothing is written before that
        return self.sites.open_split(self.subject.model, region, versions_of(self.agreed, region))

    def servers(self, region: str) -> Servers:
        """Who starts and stops them there."""
        return self.sites.open_servers(self.subject.model, region)

    def group(self, action: Action, version: str) -> Group:
        """The servers of a version; an empty group where there is none."""
        groups = self.patience.insist(action, lambda: self.servers(action.region).read().groups)
        return groups.get(version, Group(version))

    def require_ours(self, action: Action, shares: Collection[int]) -> Weights:
        """The weights; `GoesBack` where another hand has changed them. `shares`: per cent of the
        version on trial that this rollout may have left."""
        state = self.patience.insist(action, lambda: self.split(action.region).read())
        self.require_ours_in(action, state, shares)
        return state.weights

    def require_ours_in(self, action: Action, state: RouteState, shares: Collection[int]) -> None:
        """The same of weights that were read."""
        last_good = str(action.parameters["last_good"])
        if not last_good:
            return
        version = self.subject.version
        other = by_another_hand(state.weights, last_good, version, frozenset(shares))
        if other:
            raise GoesBack(f"{action.region}: another hand is at work there: {other}")

    # --- weights --------------------------------------------------------------------------------

    def move(
        self, action: Action, weight: int, *, shares: Collection[int] = ()
    ) -> tuple[str, JSON]:
        """Give the version on trial that share, and wait until it is in force. `shares`: what it
        may have now; none where that does not matter, on the way back."""
        last_good, version = str(action.parameters["last_good"]), self.subject.version
        share = {last_good: 100 - weight, version: weight} if last_good else {version: 100}
        split, epoch = self.split(action.region), self.epoch()
        may_have = set(shares)

        def written() -> RouteState:
            for attempt in range(1, _WRITE_TRIES + 1):
                state = split.read()
                check_epoch(state, epoch, where=split.url)
                if may_have:
                    self.require_ours_in(action, state, may_have)
                after = {**dict.fromkeys(state.weights, 0), **share}
                if dict(state.weights) == after and state.epoch == epoch:
                    return state
                self.guard()
                if may_have:
                    may_have.add(weight)  # its answer may be lost
                try:
                    return split.write(after, epoch=epoch, writer=self.sites.writer, expected=state)
                except ConditionFailed:
                    if attempt == _WRITE_TRIES:
                        raise
            raise AssertionError  # the last attempt has returned or raised

        state = self.patience.insist(action, written, watches=False)

        def behind() -> str:
            if split.in_force(state):
                return ""
            now = split.read()
            if dict(now.weights) != dict(state.weights):
                if not is_undo(action):
                    self.require_ours_in(action, now, {weight})
                return ""  # undone by another hand: whoever decides next finds it so
            return f"{split.url} does not answer with it yet"

        self.patience.wait(
            action,
            behind,
            limit_seconds=_IN_FORCE_SECONDS,
            heeds_orders=False,
            watches=False,
        )
        said = (f"{each} {part} %" for each, part in share.items())
        self.told(f"{action.region}: {', '.join(said)}")
        measured: JSON = {"weights": share, "epoch": epoch}
        return f"{version} has {weight} % there", measured

    def admit(self, action: Action, version: str, addresses: Sequence[str]) -> None:
        """Exactly these servers bear the version's share."""

        def do() -> None:
            self.guard()
            self.split(action.region).admit(
                version, addresses, epoch=self.epoch(), writer=self.sites.writer
            )

        self.patience.insist(action, do, watches=False)

    def let_out(self, action: Action, version: str) -> None:
        """Nothing more is sent to a version. Where it still has weight nothing can be done: no
        other is there."""
        state = self.patience.insist(action, lambda: self.split(action.region).read())
        if not state.weights.get(version):
            self.admit(action, version, ())
        self._let_in.pop((action.region, version), None)

    # --- servers --------------------------------------------------------------------------------

    def scale(self, action: Action, version: str, servers: int, digest: str) -> None:
        """Have so many of a version; who wants to know when they are there, waits."""

        def do() -> None:
            self.guard()
            self.servers(action.region).scale(
                version, servers, digest=digest, epoch=self.epoch(), writer=self.sites.writer
            )

        self.patience.insist(action, do)

    def load(self, action: Action, version: str, digest: str, wanted: int) -> float:
        """Start servers until so many are ready, and state version and digest; how long it took.
        While others are still ending, what they hold is not free, and the time does not count."""
        servers, clock = self.servers(action.region), self.sites.clock
        crashes = self.group(action, version).crashes
        began = clock.monotonic()
        self.scale(action, version, wanted, digest)
        leaving = False

        def missing() -> str:
            nonlocal leaving
            groups = servers.read().groups
            group = groups.get(version, Group(version))
            leaving = any(each.leaving for each in groups.values())
            if len(group.ready) >= wanted and group.digest in ("", digest):
                return ""
            _require_hope(action.region, group, crashes)
            if group.wanted != wanted:
                raise CheckFailed(
                    f"{action.region}: another hand set {group.wanted} servers of {version}, "
                    f"{wanted} were asked for"
                    + (f": they are scaled by {group.scaled_by}" if group.scaled_by else ""),
                    hint="let it go, or have it want the same",
                )
            said = f"{len(group.ready)} of {wanted} servers of {version} are ready"
            return f"{said}; others are still ending" if leaving else said

        self.patience.wait(
            action, missing, limit_seconds=self._start_seconds, excused=lambda: leaving
        )
        return clock.monotonic() - began

    def warm(self, action: Action, version: str) -> tuple[int, float]:
        """Golden requests to every server of a version, until answers match at the latency that is
        asked for; then those are let in, whatever their share is. How many were asked, and the
        slowest answer."""
        first = self.group(action, version)
        if not first.ready:
            raise CheckFailed(f"{action.region}: no server of {version} is ready")
        golden = self._golden(action, version)
        slow_seconds = self.sites.topology.rollout.verdict.slow_seconds
        slowest, warm = 0.0, first.ready
        wrong: dict[str, int] = {}

        def cold() -> str:
            nonlocal slowest, warm
            slowest = 0.0
            group = self.servers(action.region).read().groups.get(version, Group(version))
            _require_hope(action.region, group, first.crashes)
            if not group.ready:
                return f"no server of {version} is ready"
            for address in group.ready:
                answered = ask_golden(
                    self.sites.probe,
                    golden,
                    address,
                    self.subject.model,
                    version,
                    slow_seconds=slow_seconds,
                )
                slowest = max(slowest, answered.slowest_seconds)
                if answered.wrong:
                    wrong[address] = wrong.get(address, 0) + 1
                    if wrong[address] >= _GOLDEN_TRIES:
                        raise GoesBack(f"{version} does not answer as it must: {answered.problem}")
                if answered.problem:
                    return answered.problem
            warm = group.ready
            return ""

        self.patience.wait(action, cold, limit_seconds=self._start_seconds)
        self.admit(action, version, warm)
        self._let_in[action.region, version] = frozenset(warm)
        return len(golden) * len(warm), slowest

    def bear(self, action: Action, version: str, digest: str, wanted: int) -> None:
        """Before a share is moved to a version: so many of its servers are ready, warm and let in.
        One that ended by itself since is started again, and asked like any other."""
        group = self.group(action, version)
        if len(group.ready) < wanted:
            self.load(action, version, digest, wanted)
            group = self.group(action, version)
        if not set(group.ready) <= self._let_in.get((action.region, version), frozenset()):
            self.warm(action, version)

    def shrink(self, action: Action, version: str, digest: str, left: int) -> bool:
        """Fewer servers of one version: out of the door first, then told to end, and waited for.
        Whether any had to go."""
        servers = self.servers(action.region)
        group = self.group(action, version)
        if not left:
            self.let_out(action, version)
        elif len(group.ready) > left:
            self.admit(action, version, group.ready[:left])
        self.scale(action, version, left, digest or group.digest)

        def there() -> str:
            now = servers.read().groups.get(version)
            if now is None or (not now.leaving and len(now.ready) <= left):
                return ""
            return f"{now.leaving or len(now.ready) - left} servers of {version} are still ending"

        self.patience.wait(action, there, limit_seconds=self._start_seconds, heeds_orders=False)
        return len(group.ready) > left or bool(group.wanted > left)

    @property
    def _start_seconds(self) -> float:
        return self.sites.topology.rollout.start_seconds_of(self.subject.model)

    def _golden(self, action: Action, version: str) -> Golden:
        found: Golden = ()

        def unread() -> str:
            nonlocal found
            told = self.sites.golden(self.subject.model, version)
            if isinstance(told, Unknown):
                raise Unavailable(f"golden requests of {version} cannot be read: {told.reason}")
            found = told
            return ""

        self.patience.wait(action, unread)
        return found


def _require_hope(region: str, group: Group, crashes: int) -> None:
    """`GoesBack` where waiting does not help."""
    ill = [each for each in group.ailing if each.state in HOPELESS]
    if group.crashes - crashes >= 2 or (group.crashes > crashes and not group.ready):
        ill = list(group.ailing) or ill
    if ill:
        said = "; ".join(
            f"{e.server}: {e.state.value}{e.reason and f': {e.reason}'}" for e in ill[:2]
        )
        raise GoesBack(f"{region}: {group.version} does not start: {said}")
