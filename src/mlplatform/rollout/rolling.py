"""A rollout under way: observed, and acted on, step by step. All that a rollout changes is changed
from here, through ports, under the lease of its model.

A step that waits looks up now and then: an order to end, a canary that crashes or is worse, a
region that failover has taken over. Whatever keeps a step from ending well is told as its outcome;
what follows from it, `course.decide` says. What is done to servers and entries is in `hands`, how
the canary is watched in `vigil`, and how steps wait in `waiting`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from mlplatform.control.claims import claimed
from mlplatform.control.journal import Kind as Entry
from mlplatform.control.journal import Stream
from mlplatform.control.lease import lease_for
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.pins import Pin
from mlplatform.control.reconcile import holding
from mlplatform.control.regions import each_region
from mlplatform.core.errors import (
    CheckFailed,
    Fenced,
    IntegrityError,
    Interrupted,
    LeaseHeld,
    MlplatformError,
    NoMajority,
    NotFound,
)
from mlplatform.core.plan import JSON, Action, Outcome, Plan, Result
from mlplatform.core.seen import Unknown
from mlplatform.ports.traffic import Weights
from mlplatform.rollout.course.approval import standing_of
from mlplatform.rollout.course.decide import (
    Course,
    RegionNow,
    case_of,
    go_on,
    is_back,
    is_way_back,
    regions_of,
)
from mlplatform.rollout.course.shares import (
    may_have_left,
    servers_before,
    share_before,
    share_meanwhile,
)
from mlplatform.rollout.effects import Sites
from mlplatform.rollout.hands import Hands
from mlplatform.rollout.plan.decide import FEATURE, decide
from mlplatform.rollout.plan.gates import judge as judge_region
from mlplatform.rollout.plan.hand_over import outgrown
from mlplatform.rollout.plan.seen import Request, Rule, Seen, Standing
from mlplatform.rollout.plan.steps import ASKS_FAILOVER, Kind
from mlplatform.rollout.records import name_of
from mlplatform.rollout.vigil import Vigil, said
from mlplatform.rollout.waiting import TOLD_SECONDS, GoesBack, Patience, is_undo
from mlplatform.rollout.watching import Looked, evidence_json

log = logging.getLogger(__name__)

_WAITED_FOR = frozenset(
    {
        Rule.LOCKED,
        Rule.MAINTENANCE,
        Rule.UNDER_FAILOVER,
        Rule.FAILOVER_TARGET,
        Rule.DRAINED,
        Rule.UNHEALTHY,
    }
)
"""What passes by itself, or when somebody is done: a step does not begin while it lasts."""
_ONLY_LOOK = frozenset({Kind.APPROVE, Kind.OBSERVE, Kind.BAKE})
"""Steps that change nothing may begin whatever is at work."""
_UNKNOWN_SECONDS = 120.0
"""How long a step waits to know before it has failed."""
_END_SECONDS = 30.0
"""How long the steps beside one that was stopped have, to notice."""
_AT_ZERO = "left_at_zero"
"""Recorded of a step: the canary crashed meanwhile, and has no share until it is well."""
_LENT = "weights_between_regions"
"""Recorded of a step: by route, how failover left them when a part of a share was handed over."""

NOT_WANTED = "no longer decided"
"""Begins what `control.reconcile` says of a step that the way back has made needless."""


@dataclass(slots=True)
class Roller:
    """Takes one model through its regions. A `Controller`.

    Until an operation is under way it plans; from then on it follows what was agreed to.
    """

    sites: Sites
    request: Request
    guard: Callable[[], None]
    epoch: Callable[[], int]
    told: Callable[[str], None] = lambda text: None
    """Hears how it goes on."""
    seen: Callable[[Looked], None] = lambda looked: None
    """Hears what every window has come to."""
    plan_name: str = ""
    """Under which it is approved."""
    feature: str = FEATURE
    operation: str = ""
    agreed: Plan | None = None
    going_back: str = ""
    """Why it goes back, once that was decided, or where nothing else is asked."""
    whole: bool = False
    """Whether all regions go back when one does."""
    carried_out: bool = False
    """Whether what is asked was found begun, and has been finished: nothing is left to plan."""
    _patience: Patience = field(init=False)
    _hands: Hands = field(init=False)
    _vigil: Vigil = field(init=False)
    _done: set[str] = field(default_factory=set)
    _begun: set[str] = field(default_factory=set)
    _failed: dict[str, str] = field(default_factory=dict)
    _taken_up: frozenset[str] = frozenset()
    """Steps that somebody began who did not end them."""
    _way: tuple[Action, ...] = ()
    _stuck: dict[str, str] = field(default_factory=dict)
    _cold: set[str] = field(default_factory=set)
    _lent: dict[str, dict[str, Weights]] = field(default_factory=dict)
    """By region, then by route: what it was left with, since it has handed over the rest."""

    def __post_init__(self) -> None:
        self._patience = Patience(self.sites, self.told, self.guard, self.operation)
        self._hands = Hands(
            self.sites,
            self.request.subject,
            self.guard,
            self.epoch,
            self.told,
            self._patience,
            self.agreed,
        )
        self._vigil = Vigil(self._hands, self.seen)
        self._patience.meanwhile = self._vigil.meanwhile

    # --- where it stands ------------------------------------------------------------------------

    def recall(self, stream: Stream) -> None:
        """Take up an operation that another process began."""
        self.agreed = stream.agreed
        self._begin(stream.operation)
        self.plan_name = name_of(self.agreed)
        self.going_back = is_back(stream.plan.actions)
        self.whole = bool(is_back(self.agreed.actions))
        if self.going_back:
            self._way = stream.plan.actions
        for entry in (*stream.entries, *stream.unsettled):
            if entry.kind is Entry.INTENT:
                self._begin_steps(entry.payload.get("actions", ()))
            elif entry.kind is Entry.OUTCOME:
                self._note(Outcome.model_validate(entry.payload))
        self._stuck.clear()  # whoever goes on tries again
        self._taken_up = frozenset(self._begun - self._done)
        self._vigil.opened().recall()

    def _begin(self, operation: str) -> None:
        self.operation = self._patience.operation = operation
        self._hands.agreed = self.agreed

    def _begin_steps(self, keys: Sequence[str]) -> None:
        self._begun.update(keys)
        self._cold.update(_region_in(key) for key in keys if _is_undo_of(key, Kind.RELOAD))

    def observe(self) -> Seen | Course:
        """Before anything is agreed: every region. Then: how far it has come, with every entry
        claimed, so that no older hand writes there any more."""
        if self.agreed is None:
            return self.sites.observe(self.request)
        self.guard()
        model, executor = self.request.subject.model, self.sites.executor
        epoch = self.epoch()
        found = each_region(
            regions_of(self.agreed),
            lambda region: self._look_at(model, region, epoch),
            executor=executor,
            timeout_seconds=self.sites.timeout_seconds,
        )
        now: dict[str, RegionNow] = {}
        for region, each in found.items():
            if isinstance(each, _Newer):
                raise each.error
            now[region] = RegionNow(each, each) if isinstance(each, Unknown) else each
        return Course(
            agreed=self.agreed,
            done=frozenset(self._done),
            begun=frozenset(self._begun),
            failed=dict(self._failed),
            going_back=self.going_back,
            aborted=self._patience.ordered(OrderKind.ABORT, fresh=True),
            regions=now,
            whole=self.whole,
            way=self._way,
            stuck=dict(self._stuck),
            cold=frozenset(self._cold),
        )

    def _look_at(self, model: str, region: str, epoch: int) -> RegionNow | _Newer:
        split = self._hands.split(region)
        try:
            state = claimed(split, split.read(), epoch=epoch, writer=self.sites.writer)
        except Fenced as error:
            return _Newer(error)
        return RegionNow(state.weights, self._hands.servers(region).read().groups)

    def decide(self, seen: Seen | Course, now: datetime) -> Plan:
        """See `plan.decide` and `course.decide`."""
        topology = self.sites.topology
        if self.carried_out:
            return Plan(feature=FEATURE)
        if isinstance(seen, Seen):
            return decide(topology, seen, now)
        plan = go_on(topology, seen)
        reason = is_back(plan.actions)
        if reason:
            self._keep_way(plan.actions)
        if reason and not self.going_back:
            self.going_back = reason
            self.told(f"going back: {reason}")
        return plan

    def _keep_way(self, actions: Sequence[Action]) -> None:
        """What is decided anew comes after what was done of the way as it was before."""
        known = {action.key for action in self._way}
        if any(action.key not in known for action in actions):
            self._way = (*(a for a in self._way if a.key in self._done), *actions)

    def _note(self, outcome: Outcome) -> None:
        key, region = outcome.action, _region_in(outcome.action)
        if outcome.ok and not outcome.detail.startswith(NOT_WANTED):
            self._done.add(key)
            self._failed.pop(key, None)
            if _is_undo_of(key, Kind.WARM_UP):
                self._cold.discard(region)
            if lent := outcome.measured.get(_LENT):
                self._lent[region] = lent
            elif key.endswith(f"/{Kind.TAKE_BACK.value}"):
                self._lent.pop(region, None)
            if outcome.measured.get(_AT_ZERO):
                self._vigil.at_zero.add(region)
            else:
                self._vigil.at_zero.discard(region)
        elif outcome.result is Result.FAILED:
            self._failed[key] = outcome.detail
            if is_way_back(key):
                self._stuck[region] = f"{key.rpartition('/')[2]} in {region}: {outcome.detail}"

    # --- acting ---------------------------------------------------------------------------------

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """The steps of one batch: one region each, side by side. Where one of them may do nothing
        more, none may."""
        if self.agreed is None:
            self.agreed = self._agreed_to(operation)
        self._begin(operation)
        self._begin_steps([action.key for action in actions])
        if len(actions) == 1:
            outcome = self._one(actions[0])
            self._note(outcome)
            yield outcome
            return
        waiting: list[Future[Outcome]] = [
            self.sites.executor.submit(self._one, action) for action in actions
        ]
        stopped: BaseException | None = None
        try:
            for future in as_completed(waiting):
                try:
                    outcome = future.result()
                except (Fenced, Interrupted, NoMajority) as error:
                    stopped = stopped or error
                    self._patience.halt()
                    continue
                self._note(outcome)
                yield outcome
            if stopped is not None:
                raise stopped
        finally:
            if not all(future.done() for future in waiting):
                self._patience.halt()
                wait_for(waiting, timeout=_END_SECONDS)

    def _agreed_to(self, operation: str) -> Plan:
        """As whoever takes it up has it: what somebody agreed to, though loads have moved since."""
        try:
            return self.sites.journal.open(operation).agreed
        except (NotFound, IntegrityError) as error:  # and no step may be passed over for that
            raise Interrupted(
                f"operation {operation} cannot be read: {error}",
                hint=f"`mlplatform rollout resume {operation}` goes on with it",
            ) from error

    def _one(self, action: Action) -> Outcome:
        try:
            if action.kind not in _ONLY_LOOK and not is_undo(action):
                self._patience.wait(action, lambda: self._shut(action))
                self._require_ours(action)
            outcome = _PERFORM[Kind(action.kind)](self, action)
        except GoesBack as reason:
            return Outcome(
                action=action.key,
                result=Result.FAILED,
                detail=str(reason),
                error="RolledBack",
                exit_code=reason.exit_code,
                measured=reason.verdict,
                finished_at=self.sites.clock.now(),
            )
        except (Fenced, Interrupted, NoMajority):
            raise
        except MlplatformError as error:
            return Outcome.of_error(action, error, finished_at=self.sites.clock.now())
        except Exception as error:  # a fault of ours must not leave a canary to itself
            log.exception("%s: internal error", action.key)
            return Outcome(
                action=action.key,
                result=Result.FAILED,
                detail=f"internal error: {type(error).__name__}: {error}",
                error=type(error).__name__,
                exit_code=1,
                finished_at=self.sites.clock.now(),
            )
        if action.region in self._vigil.at_zero:
            outcome = outcome.model_copy(update={"measured": {**outcome.measured, _AT_ZERO: True}})
        return outcome

    def _shut(self, action: Action) -> str:
        """Why a step may not begin. What it has asked of failover itself is no reason."""
        moved = action.kind == Kind.TAKE_BACK or action.key in self._taken_up
        if action.kind in ASKS_FAILOVER and moved:
            return self._ordered(action)
        return self._closed(action)

    def _ordered(self, action: Action) -> str:
        """Why no step may begin: somebody has ordered a pause, or locked everything."""
        if reason := self._patience.ordered(OrderKind.PAUSE):
            return f"paused: {reason}"
        return self._patience.locked()

    def _closed(self, action: Action) -> str:
        """The same, or failover is at work there. The way back waits for nothing."""
        if ordered := self._ordered(action):
            return ordered
        first = not action.parameters["last_good"]
        lent = {route: weights for each in self._lent.values() for route, weights in each.items()}
        standings = self.sites.failover.standings(self.request.subject.model, lent)
        found = standings.get(action.region)
        if isinstance(found, Unknown):
            return "" if first else f"nobody knows how it stands with failover: {found.reason}"
        shut = found.closed if isinstance(found, Standing) else {}
        for rule, reason in shut.items():
            if rule in _WAITED_FOR and (not first or rule is Rule.MAINTENANCE):
                return f"{rule.value}: {reason}"
        return ""

    def _shares(self, action: Action) -> frozenset[int]:
        """Of the version on trial, what this rollout may have left there before a step."""
        assert self.agreed is not None  # noqa: S101 - it is carried out
        return may_have_left(
            self.agreed,
            action,
            begun=action.key in self._taken_up,
            at_zero=action.region in self._vigil.at_zero,
        )

    def _require_ours(self, action: Action) -> None:
        """`GoesBack` where the weights are not as this rollout left them."""
        if not action.parameters["last_good"]:
            return
        assert self.agreed is not None  # noqa: S101 - it is carried out
        weights = self._hands.require_ours(action, self._shares(action))
        if weights.get(self.request.subject.version) == 0 and share_before(self.agreed, action):
            self._vigil.at_zero.add(action.region)  # whoever began this step left the canary

    def _approve(self, action: Action) -> Outcome:
        """Wait until somebody who may has said yes to the plan."""
        name, records = self.plan_name, self.sites.records
        by = ""

        def missing() -> str:
            nonlocal by
            stands = standing_of(action, name, records.approvals(name))
            by = stands.by
            return stands.waits

        self._patience.wait(action, missing)
        return self._did(action, f"{by} said yes", measured={"approved_by": by})

    def _preflight(self, action: Action) -> Outcome:
        """Look again: what has changed since the plan was made, and stands in the way."""
        sites, case = self.sites, case_of(self.sites.topology, action)

        def unknown() -> str:
            seen = sites.observe(Request(self.request.subject, (action.region,)))
            judged = judge_region(sites.topology, seen, action.region, sites.clock.now().date())
            found = [each for each in judged.findings if each.rule not in _WAITED_FOR]
            passing = [each for each in found if each.unknown or each.rule is Rule.ENDING_PODS]
            serious = [str(each) for each in found if each not in passing]
            told = action.parameters
            now = (judged.last_good, judged.last_good_digest, judged.servers)
            then = (str(told["last_good"]), str(told["last_good_digest"]), int(told["servers"]))
            if judged.done:
                serious.append(f"{self.request.subject} serves there already")
            elif not found and now != then:
                serious.append(
                    f"{now[2]} servers of {now[0] or 'nothing'} serve there now, and it was "
                    f"planned for {then[2]} of {then[0] or 'nothing'}"
                )
            elif not found and (why := outgrown(case, judged.keeps, judged.at_once)):
                serious.append(why)
            if serious:
                raise CheckFailed(
                    f"{action.region}: {'; '.join(serious)}", hint="mend that, then plan again"
                )
            return "; ".join(str(each) for each in found)

        self._patience.wait(action, unknown, limit_seconds=_UNKNOWN_SECONDS)
        return self._did(action, "nothing stands in the way")

    def _pin(self, action: Action) -> Outcome:
        model = self.request.subject.model
        self.sites.pins.put(
            Pin(
                model=model,
                version=str(action.parameters["last_good"]),
                digest=str(action.parameters["last_good_digest"]),
                region=action.region,
                operation=self.operation,
                at=self.sites.clock.now(),
            )
        )
        # Its servers are behind its door before any share is moved.
        last_good = str(action.parameters["last_good"])
        group = self._hands.group(action, last_good)
        if not group.ready:
            raise CheckFailed(
                f"{action.region}: no server of {last_good} is ready",
                hint="start them first: it is what a rollout goes back to",
            )
        self._hands.admit(action, last_good, group.ready)
        return self._did(action, f"{last_good} stays there")

    def _hand_over(self, action: Action) -> Outcome:
        """Failover is asked to let others bear a part of the region's share."""
        if is_undo(action):
            return self._hand_parts_over(action)
        with self._alone(action):
            return self._hand_parts_over(action)

    @contextmanager
    def _alone(self, action: Action) -> Iterator[None]:
        """Nobody hands over another part of the region between our look at it and our move: two
        that did would each see a failover, and wait for the other."""
        lease = lease_for(self.sites, f"hand-over/{action.region}")

        def missing(kept: ExitStack) -> str:
            if shut := self._shut(action):  # for hours, perhaps: without a write each time
                return shut
            with ExitStack() as taken:
                try:
                    taken.enter_context(holding(lease, self.sites.background))
                except LeaseHeld as error:
                    return str(error)
                if shut := self._shut(action):
                    return shut
                kept.enter_context(taken.pop_all())
            return ""

        with ExitStack() as kept:
            self._patience.wait(action, lambda: missing(kept))
            yield

    def _hand_parts_over(self, action: Action) -> Outcome:
        lent: dict[str, Weights] = {}
        for route, keep in _keeps(action).items():

            def left(route: str = route, keep: int = keep) -> str:
                self.guard()  # each takes minutes, in which another may have gone on with this
                try:
                    lent[route] = dict(
                        self.sites.failover.hand_over(
                            action.region, route, keep, reason=self._reason
                        )
                    )
                except (LeaseHeld, Fenced) as error:  # it is the route that is another's
                    return str(error)
                except MlplatformError as error:
                    if not is_undo(action) or not error.retryable:
                        raise
                    return str(error)
                return ""

            try:
                self._patience.wait(action, left, limit_seconds=_UNKNOWN_SECONDS)
            except (Fenced, Interrupted, NoMajority):
                raise
            except MlplatformError as error:
                if not is_undo(action):
                    raise
                # What is to be returned is not left there because the others have no room.
                said = f"{action.region} bears all of {route} meanwhile: {error}"
                return self._did(action, said, Result.NOTHING)
        left_with = {route: weights[action.region] for route, weights in lent.items()}
        said = " and ".join(f"{weight} points of {route}" for route, weight in left_with.items())
        detail = f"{action.region} has {said}, others the rest"
        return self._did(action, detail, measured={_LENT: lent})

    def _take_back(self, action: Action) -> Outcome:
        """Failover is asked to bring it back, however long its gates let that take."""
        for route in _keeps(action):

            def missing(route: str = route) -> str:
                self.guard()
                try:
                    why = self.sites.failover.take_back(action.region, route, reason=self._reason)
                except (LeaseHeld, Fenced) as error:
                    why = str(error)
                except MlplatformError as error:
                    # However long nobody answers, what has been done of the region is no worse.
                    if not error.retryable:
                        raise
                    why = str(error)
                if why:
                    # Its gates wait for minutes; each look is one at every region.
                    self._patience.pause(TOLD_SECONDS, action)
                return why

            self._patience.wait(action, missing)
        return self._did(action, f"{action.region} hands nothing over any more")

    @property
    def _reason(self) -> str:
        """For failover's journal."""
        return f"the rollout of {self.request.subject}, {self.operation}"

    def _load(self, action: Action) -> Outcome:
        """Start servers, and wait until they state the version and its digest."""
        version, digest, wanted = _loads(action, self.request.subject.version)
        seconds = self._hands.load(action, version, digest, wanted)
        return self._did(
            action,
            f"{wanted} server{'s' * (wanted != 1)} of {version} ready after {seconds:.1f} s",
            measured={"seconds": round(seconds, 3), "servers": wanted},
        )

    def _warm_up(self, action: Action) -> Outcome:
        """Golden requests; then the servers are let in, still without a share. Where servers were
        replaced, with the share that they bear."""
        version, _, _ = _loads(action, self.request.subject.version)
        asked, slowest = self._hands.warm(action, version)
        measured: JSON = {"golden_requests": asked, "slowest_seconds": round(slowest, 4)}
        in_place = case_of(self.sites.topology, action).in_place
        if in_place and not is_undo(action) and action.parameters["last_good"]:
            weight = int(action.parameters["weight"])
            _, moved = self._hands.move(action, weight, shares={*self._shares(action), weight})
            measured.update(moved)
        return self._did(
            action,
            f"{asked} golden requests answered as they must, {slowest * 1000:.0f} ms at most"
            if asked
            else f"{version} has no golden requests: nothing was asked",
            measured=measured,
        )

    def _bear(self, action: Action, servers: int) -> None:
        """So many servers of the version on trial are ready and warm, before anything rests on
        them."""
        digest = str(action.parameters["digest"])
        self._hands.bear(action, self.request.subject.version, digest, servers)

    def _shrink(self, action: Action) -> Outcome:
        """Old servers go, where there is no room beside them."""
        told = action.parameters
        if int(told["weight"]):
            self._bear(action, int(told["new_servers"]))
        left = int(told["old_servers"])
        self._hands.shrink(action, str(told["last_good"]), str(told["last_good_digest"]), left)
        return self._did(action, f"{left} servers of {told['last_good']} stay")

    def _stop(self, action: Action) -> Outcome:
        """Servers of the version on trial go. Where there are none, whoever is still about to start
        some is refused from now on."""
        told, version = action.parameters, self.request.subject.version
        left = int(told["new_servers"])
        went = self._hands.shrink(action, version, str(told["digest"]), left)
        if not went:
            return self._did(action, f"no server of {version} had to go", Result.NOTHING)
        return self._did(action, f"{left} servers of {version} stay" if left else "they have gone")

    def _replace(self, action: Action) -> Outcome:
        """Old servers go first, and as many of the new version come in their place; what the others
        bear meanwhile is moved before."""
        assert self.agreed is not None  # noqa: S101 - it is carried out
        told = action.parameters
        meanwhile = share_meanwhile(self.agreed, action)
        if meanwhile:
            self._bear(action, servers_before(self.agreed, action))
            self._hands.move(action, meanwhile, shares=self._shares(action))
        version, digest = str(told["last_good"]), str(told["last_good_digest"])
        self._hands.shrink(action, version, digest, int(told["old_servers"]))
        return self._load(action)

    def _weight(self, action: Action) -> Outcome:
        """A share, then a look at what becomes of it."""
        told = action.parameters
        weight = int(told["weight"])
        if is_undo(action):
            last_good = str(told["last_good"])
            group = self._hands.group(action, last_good)
            if group.ready:
                self._hands.admit(action, last_good, group.ready)
            detail, measured = self._hands.move(action, weight)
            return self._did(action, detail, measured=measured)
        self._bear(action, int(told["new_servers"]))
        detail, measured = self._hands.move(action, weight, shares=self._shares(action))
        self._vigil.at_zero.discard(action.region)
        if least := float(told["least_seconds"] or 0.0):
            verdict = self._vigil.canary(action, weight, least)
            measured["verdict"] = evidence_json(verdict, self._vigil.opened().policy)
            detail = f"{detail}; {said(verdict)}"
        return self._did(action, detail, measured=measured)

    def _observe(self, action: Action) -> Outcome:
        """In place: servers of both versions beside each other."""
        told = action.parameters
        least = float(told["least_seconds"] or 0.0)
        share = int(told["weight"])
        self._regain(action, share)
        verdict = self._vigil.canary(action, share, least)
        measured = {"verdict": evidence_json(verdict, self._vigil.opened().policy)}
        return self._did(action, said(verdict), measured=measured)

    def _regain(self, action: Action, share: int) -> None:
        """The share that a canary lost when it crashed, or the process that watched it did."""
        shares = self._shares(action)
        if 0 < share < 100 and 0 in shares:
            self._bear(action, int(action.parameters["new_servers"]))
            self._hands.move(action, share, shares=shares)
            self._vigil.at_zero.discard(action.region)

    def _promote(self, action: Action) -> Outcome:
        """All requests, once the verdict says so."""
        assert self.agreed is not None  # noqa: S101 - it is carried out
        told = action.parameters
        measured: JSON = {}
        reason = ""
        split = self._hands.split(action.region)
        moved_already = action.key in self._taken_up and self._patience.insist(
            action, lambda: split.read().weights.get(self.request.subject.version) == 100
        )
        if moved_already or not told["last_good"]:
            pass
        elif "alpha_each" in told:
            share = share_before(self.agreed, action)
            self._regain(action, share)
            verdict = self._vigil.canary(
                action, share, 0.0, to_promote=True, closed=lambda: self._closed(action)
            )
            measured["verdict"] = evidence_json(verdict, self._vigil.opened().policy)
            by_hand = self._patience.ordered(OrderKind.PROMOTE)
            reason = f"by order: {by_hand}" if by_hand else said(verdict)
        else:
            self._vigil.others(action)
        self._bear(action, int(told["new_servers"]))
        shares = self._shares(action) if told["last_good"] else ()
        detail, moved = self._hands.move(action, 100, shares=shares)
        return self._did(
            action, f"{detail}{reason and f'; {reason}'}", measured={**measured, **moved}
        )

    def _bake(self, action: Action) -> Outcome:
        """Watch it with all requests."""
        seconds = float(action.parameters["least_seconds"] or 0.0)
        requests, failures, held_to = self._vigil.bake(action, seconds)
        return self._did(
            action,
            f"{requests:.0f} requests, {failures:.0f} failed; {held_to}",
            measured={"requests": requests, "failures": failures},
        )

    def _retire(self, action: Action) -> Outcome:
        """The old servers go, once nothing is sent to them any more."""
        told, region = action.parameters, action.region
        old = str(told["last_good"])
        self._bear(action, int(told["new_servers"]))
        self._patience.wait(action, self._vigil.reaching(action, old))
        hands = self._hands
        hands.shrink(action, old, str(told["last_good_digest"]), 0)
        self.sites.pins.drop(self.request.subject.model, region)
        return self._did(action, f"{old} serves there no more; its bytes stay stored")

    def _unpin(self, action: Action) -> Outcome:
        self.sites.pins.drop(self.request.subject.model, action.region)
        return self._did(action, f"{action.parameters['last_good']} serves there alone")

    def _look(self, action: Action) -> Outcome:
        """Until the region can be read, however long that takes: what it needs is decided then."""

        def unread() -> str:
            self._hands.split(action.region).read()
            self._hands.servers(action.region).read()
            return ""

        self._patience.wait(action, unread)
        return self._did(action, f"{action.region} can be read again")

    def _did(
        self,
        action: Action,
        detail: str,
        result: Result = Result.DONE,
        *,
        measured: JSON | None = None,
    ) -> Outcome:
        return Outcome(
            action=action.key,
            result=result,
            detail=detail,
            measured=measured or {},
            finished_at=self.sites.clock.now(),
        )


@dataclass(frozen=True, slots=True)
class _Newer:
    """An entry knows a newer epoch: not unknown, but the end."""

    error: Fenced


def _region_in(key: str) -> str:
    """The region of a step, from its key: `rollout/<model@version>/<region>/…`."""
    return key.split("/")[2]


def _keeps(action: Action) -> Mapping[str, int]:
    """By route: points of weight that the region keeps."""
    return {str(route): int(keep) for route, keep in action.figures["keeps"].items()}


def _is_undo_of(key: str, kind: Kind) -> bool:
    return is_way_back(key) and key.rpartition("/")[2].startswith(f"{kind.value}-")


def _loads(action: Action, new: str) -> tuple[str, str, int]:
    """Version, digest and number of what is to be there after the step."""
    told = action.parameters
    if is_undo(action):
        return str(told["last_good"]), str(told["last_good_digest"]), int(told["old_servers"])
    return new, str(told["digest"]), int(told["new_servers"])


_PERFORM: Mapping[Kind, Callable[[Roller, Action], Outcome]] = {
    Kind.APPROVE: Roller._approve,
    Kind.PREFLIGHT: Roller._preflight,
    Kind.PIN: Roller._pin,
    Kind.HAND_OVER: Roller._hand_over,
    Kind.TAKE_BACK: Roller._take_back,
    Kind.SHRINK: Roller._shrink,
    Kind.LOAD: Roller._load,
    Kind.REPLACE: Roller._replace,
    Kind.WARM_UP: Roller._warm_up,
    Kind.WEIGHT: Roller._weight,
    Kind.OBSERVE: Roller._observe,
    Kind.PROMOTE: Roller._promote,
    Kind.BAKE: Roller._bake,
    Kind.RETIRE: Roller._retire,
    Kind.STOP: Roller._stop,
    Kind.RELOAD: Roller._load,
    Kind.UNPIN: Roller._unpin,
    Kind.LOOK: Roller._look,
}
