"""A rollout under way: observed, and acted on, step by step. All that a rollout changes is changed
here, through ports, under the lease of its model.

A step that waits looks up now and then: an order to end, a canary that crashes or is worse, a
region that failover has taken over. Whatever keeps a step from ending well is told as its outcome;
what follows from it, `course.decide` says.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from datetime import datetime

from mlplatform.control.claims import claimed
from mlplatform.control.journal import Kind as Entry
from mlplatform.control.journal import Stream
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.orders import Order
from mlplatform.control.regions import each_region
from mlplatform.core.errors import (
    CheckFailed,
    ConditionFailed,
    DeadlineExceeded,
    Fenced,
    Interrupted,
    MlplatformError,
    NoMajority,
)
from mlplatform.core.plan import JSON, Action, Outcome, Plan, Result
from mlplatform.core.seen import Unknown
from mlplatform.ports.probe import Question
from mlplatform.ports.servers import HOPELESS, Group, Servers
from mlplatform.ports.split import Split
from mlplatform.ports.traffic import check_epoch
from mlplatform.rollout.course.approval import standing as approval_standing
from mlplatform.rollout.course.decide import (
    UNDO,
    Course,
    RegionNow,
    go_on,
    is_back,
)
from mlplatform.rollout.course.windows import Arms, Sample, window_of
from mlplatform.rollout.effects import Sites
from mlplatform.rollout.plan.decide import FEATURE, decide
from mlplatform.rollout.plan.gates import judge as judge_region
from mlplatform.rollout.plan.policy import policy_of
from mlplatform.rollout.plan.seen import Request, Rule, Seen, Standing
from mlplatform.rollout.plan.steps import SEVERE, Kind
from mlplatform.rollout.records import Pin, name_of
from mlplatform.rollout.verdict.fixed_rate import bar, log10_e
from mlplatform.rollout.verdict.judge import Decision, RegionVerdict
from mlplatform.rollout.watching import Watch, evidence_json, scatter_of

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_NEWS_SECONDS = 2.0
"""How often orders are read while a step waits."""
_TOLD_SECONDS = 5.0
"""How long a step waits for the same before it is told, and how often windows are."""
_IN_FORCE_SECONDS = 120.0
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
_GOLDEN_TRIES = 3
"""A wrong answer may be somebody else's; three times the same is not."""
_JSON = {"Content-Type": "application/json"}


class _GoesBack(Exception):
    """Why a step does not end well."""

    def __init__(self, reason: str, *, exit_code: int = 3, verdict: JSON | None = None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.verdict = verdict or {}


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
    plan_name: str = ""
    """Under which it is approved."""
    feature: str = FEATURE
    operation: str = ""
    agreed: Plan | None = None
    going_back: str = ""
    """Why it goes back, once that was decided, or where nothing else is asked."""
    whole: bool = False
    """Whether all regions go back when one does."""
    _done: set[str] = field(default_factory=set)
    _begun: set[str] = field(default_factory=set)
    _failed: dict[str, str] = field(default_factory=dict)
    _decided: Plan | None = None
    _watch: Watch | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _orders: tuple[Order, ...] = ()
    _orders_at: float = float("-inf")

    # --- where it stands ------------------------------------------------------------------------

    def recall(self, stream: Stream) -> None:
        """Take up an operation that another process began."""
        self.operation = stream.operation
        self.agreed = Plan.model_validate(stream.entries[0].payload["plan"])
        self.plan_name = name_of(self.agreed)
        self.going_back = is_back(stream.plan.actions)
        self.whole = bool(is_back(self.agreed.actions))
        for entry in (*stream.entries, *stream.unsettled):
            if entry.kind is Entry.INTENT:
                self._begun.update(entry.payload.get("actions", ()))
        for key, outcome in stream.outcomes().items():
            self._note(outcome.model_copy(update={"action": key}))
        self._opened_watch().recall()

    def observe(self) -> Seen | Course:
        """Before anything is agreed: every region. Then: how far it has come, with every entry
        claimed, so that no older hand writes there any more."""
        if self.agreed is None:
            return self.sites.observe(self.request)
        self._rest_while_paused()
        self.guard()
        model, executor = self.request.subject.model, self.sites.executor
        epoch = self.epoch()
        regions = list(dict.fromkeys(_region_of(a) for a in self.agreed.actions if _region_of(a)))
        found = each_region(
            regions,
            lambda region: self._look(model, region, epoch),
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
            aborted=self._ordered(OrderKind.ABORT, fresh=True),
            regions=now,
            whole=self.whole,
        )

    def _look(self, model: str, region: str, epoch: int) -> RegionNow | _Newer:
        split = self._split(region)
        try:
            state = claimed(split, split.read(), epoch=epoch, writer=self.sites.writer)
        except Fenced as error:
            return _Newer(error)
        return RegionNow(state.weights, self._servers(region).read().groups)

    def decide(self, seen: Seen | Course, now: datetime) -> Plan:
        """See `plan.decide` and `course.decide`."""
        topology = self.sites.topology
        if isinstance(seen, Seen):
            self._decided = decide(topology, seen, now)
            return self._decided
        plan = go_on(topology, seen)
        if not self.going_back and (reason := is_back(plan.actions)):
            self.going_back = reason
            self.told(f"going back: {reason}")
        return plan

    def _note(self, outcome: Outcome) -> None:
        with self._lock:
            self._begun.add(outcome.action)
            if outcome.ok and not outcome.detail.startswith(NOT_WANTED):
                self._done.add(outcome.action)
                self._failed.pop(outcome.action, None)
            elif outcome.result is Result.FAILED:
                self._failed[outcome.action] = outcome.detail

    # --- acting ---------------------------------------------------------------------------------

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """The steps of one batch: one region each, side by side."""
        if self.agreed is None:
            self.agreed = self._decided
        self.operation = operation
        self._begun.update(action.key for action in actions)
        if len(actions) == 1:
            outcome = self._one(actions[0])
            self._note(outcome)
            yield outcome
            return
        waiting: list[Future[Outcome]] = [
            self.sites.executor.submit(self._one, action) for action in actions
        ]
        stopped: BaseException | None = None
        for future in as_completed(waiting):
            try:
                outcome = future.result()
            except (Fenced, Interrupted, NoMajority) as error:
                stopped = stopped or error
                continue
            self._note(outcome)
            yield outcome
        if stopped is not None:
            raise stopped

    def _one(self, action: Action) -> Outcome:
        try:
            if action.kind in SEVERE or action.kind == Kind.PREFLIGHT:
                self._wait_until_open(action)
            return _PERFORM[Kind(action.kind)](self, action)
        except _GoesBack as reason:
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
            return Outcome(
                action=action.key,
                result=Result.FAILED,
                detail=str(error),
                error=type(error).__name__,
                exit_code=error.exit_code,
                hint=error.hint or "",
                finished_at=self.sites.clock.now(),
            )

    def _wait_until_open(self, action: Action) -> None:
        """No step begins where failover is at work. The way back waits for nothing."""
        if _is_undo(action):
            return
        first = not action.parameters["last_good"]

        def closed() -> str:
            orders = self._read_orders(fresh=True)
            locked = [o.reason for o in orders if o.kind is OrderKind.LOCK and o.scope == "all"]
            if locked:
                return f"everything is locked: {locked[0]}"
            found = self.sites.standings(self.request.subject.model).get(action.region)
            if isinstance(found, Unknown) and first:
                return ""
            if isinstance(found, Unknown):
                return f"nobody knows how it stands with failover: {found.reason}"
            shut = found.closed if isinstance(found, Standing) else {}
            for rule, reason in shut.items():
                if rule in _WAITED_FOR and (not first or rule is Rule.MAINTENANCE):
                    return f"{rule.value}: {reason}"
            return ""

        self._wait(action, closed)

    def _approve(self, action: Action) -> Outcome:
        """Wait until somebody who may has said yes to the plan."""
        approvers = [str(each) for each in action.parameters.get("approvers", ())]
        name, records = self.plan_name, self.sites.records
        by = ""

        def missing() -> str:
            nonlocal by
            stands = approval_standing(records.approvals(name), approvers)
            by = stands.by
            return stands.waits and f"{stands.waits}: mlplatform rollout approve {name[:12]}"

        self._wait(action, missing)
        return self._did(action, f"{by} said yes", measured={"approved_by": by})

    def _preflight(self, action: Action) -> Outcome:
        """Look again: what has changed since the plan was made, and stands in the way."""
        sites = self.sites
        seen = sites.observe(Request(self.request.subject, (action.region,)))
        judged = judge_region(sites.topology, seen, action.region, sites.clock.now().date())
        serious = [each for each in judged.findings if each.rule not in _WAITED_FOR]
        if serious:
            raise CheckFailed(
                f"{action.region}: {'; '.join(str(each) for each in serious)}",
                hint="mend that, then plan again",
            )
        return self._did(action, "nothing stands in the way")

    def _pin(self, action: Action) -> Outcome:
        model = self.request.subject.model
        self.sites.records.pin(
            Pin(
                model=model,
                version=str(action.parameters["last_good"]),
                digest=str(action.parameters["last_good_digest"]),
                region=action.region,
                operation=self.operation,
                at=self.sites.clock.now(),
            )
        )
        self._take_over(action)
        return self._did(action, f"{action.parameters['last_good']} stays there")

    def _take_over(self, action: Action) -> None:
        """The servers of the version that serves are behind its door before any share is moved."""
        last_good = str(action.parameters["last_good"])
        group = self._servers(action.region).read().groups.get(last_good)
        if group is None or not group.ready:
            raise CheckFailed(
                f"{action.region}: no server of {last_good} is ready",
                hint="start them first: it is what a rollout goes back to",
            )
        self._admit(action.region, last_good, group.ready)

    def _load(self, action: Action) -> Outcome:
        """Start servers, and wait until they state the version and its digest."""
        undo = _is_undo(action)
        version, digest, wanted = _loads(action, self.request.subject.version)
        servers = self._servers(action.region)
        began = self.sites.clock.monotonic()
        self.guard()
        state = servers.scale(
            version, wanted, digest=digest, epoch=self.epoch(), writer=self.sites.writer
        )
        crashes = state.groups[version].crashes if version in state.groups else 0
        limit = self.sites.topology.rollout.start_seconds_of(self.request.subject.model)

        def missing() -> str:
            group = servers.read().groups.get(version, Group(version))
            if len(group.ready) >= wanted:
                return ""
            _require_hope(action.region, group, crashes)
            return f"{len(group.ready)} of {wanted} servers of {version} are ready"

        self._wait(action, missing, limit_seconds=limit, heeds_orders=not undo)
        seconds = self.sites.clock.monotonic() - began
        return self._did(
            action,
            f"{wanted} server{'s' * (wanted != 1)} of {version} ready after {seconds:.1f} s",
            measured={"seconds": round(seconds, 3), "servers": wanted},
        )

    def _warm_up(self, action: Action) -> Outcome:
        """Golden requests to every server of the version, until answers match at the latency that
        is asked for; then they are let in, still without a share."""
        version, _, _ = _loads(action, self.request.subject.version)
        if not _is_undo(action):
            version = self.request.subject.version
        model = self.request.subject.model
        section = self.sites.topology.rollout
        group = self._servers(action.region).read().groups.get(version, Group(version))
        if not group.ready:
            raise CheckFailed(f"{action.region}: no server of {version} is ready")
        golden = self.sites.golden(model, version)
        if isinstance(golden, Unknown):
            raise CheckFailed(
                f"{action.region}: {golden.reason}", hint="see to the stores, then run again"
            )
        slowest = 0.0
        wrong: dict[str, int] = {}

        def cold() -> str:
            nonlocal slowest
            slowest = 0.0
            for address in group.ready:
                for number, each in enumerate(golden, start=1):
                    url = f"http://{address}/v2/models/{model}/versions/{version}/infer"
                    body = json.dumps(each.request).encode()
                    answer = self.sites.probe.ask(
                        Question(url, "POST", body, _JSON),
                        timeout_seconds=max(1.0, 4 * section.verdict.slow_seconds),
                    )
                    if not answer.good:
                        said = answer.error or f"HTTP {answer.status}"
                        problem = f"{address}: golden request {number}: {said}"
                    else:
                        problem = each.difference(_parsed(answer.body))
                        problem = problem and f"{address}: golden request {number}: {problem}"
                    if problem:
                        wrong[address] = wrong.get(address, 0) + 1
                        if wrong[address] >= _GOLDEN_TRIES:
                            raise _GoesBack(f"{version} does not answer as it must: {problem}")
                        return problem
                    slowest = max(slowest, answer.seconds)
                    if answer.seconds > section.verdict.slow_seconds:
                        return f"{address}: golden request {number} took {answer.seconds:.3f} s"
            return ""

        limit = section.start_seconds_of(model)
        self._wait(action, cold, limit_seconds=limit, heeds_orders=not _is_undo(action))
        self._admit(action.region, version, group.ready)
        asked = len(golden) * len(group.ready)
        return self._did(
            action,
            f"{asked} golden requests answered as they must, {slowest * 1000:.0f} ms at most"
            if golden
            else f"{version} has no golden requests: nothing was asked",
            measured={"golden_requests": asked, "slowest_seconds": round(slowest, 4)},
        )

    def _shrink(self, action: Action) -> Outcome:
        """Fewer servers of one version: out of the door first, then told to end."""
        told = action.parameters
        version, digest = (
            (self.request.subject.version, str(told["digest"]))
            if action.kind == Kind.STOP
            else (str(told["last_good"]), str(told["last_good_digest"]))
        )
        left = int(told["new_servers" if action.kind == Kind.STOP else "old_servers"])
        servers = self._servers(action.region)
        group = servers.read().groups.get(version)
        if group is None:
            if left == 0:
                self._let_out(action, version)
                return self._did(action, f"no server of {version} was there", Result.NOTHING)
            raise CheckFailed(f"{action.region}: no server of {version} is known")
        if left and len(group.ready) > left:
            self._admit(action.region, version, group.ready[:left])
        elif not left:
            self._let_out(action, version)
        self.guard()
        servers.scale(version, left, digest=digest, epoch=self.epoch(), writer=self.sites.writer)

        def there() -> str:
            now = servers.read().groups.get(version)
            if now is None or (not now.leaving and len(now.ready) <= left):
                return ""
            return f"{now.leaving} servers of {version} are still ending"

        limit = self.sites.topology.rollout.start_seconds_of(self.request.subject.model)
        self._wait(action, there, limit_seconds=limit, heeds_orders=False)
        return self._did(action, f"{left} servers of {version} stay" if left else "they have gone")

    def _let_out(self, action: Action, version: str) -> None:
        """Nothing more is sent to a version; where it is the only one, nothing can be done."""
        if action.parameters["last_good"]:
            self._admit(action.region, version, ())

    def _weight(self, action: Action) -> Outcome:
        """A share, then a look at what becomes of it."""
        detail, measured = self._move(action, int(action.parameters["weight"]))
        if _is_undo(action):
            return self._did(action, detail, measured=measured)
        least = float(action.parameters["least_seconds"] or 0.0)
        if least:
            verdict = self._watch_canary(action, least, needs_promotion=False)
            measured["verdict"] = evidence_json(verdict, self._opened_watch().policy)
            detail = f"{detail}; {_said(verdict)}"
        return self._did(action, detail, measured=measured)

    def _promote(self, action: Action) -> Outcome:
        """All requests, once the verdict says so."""
        measured: JSON = {}
        reason = ""
        if "alpha_each" in action.parameters:
            verdict = self._watch_canary(action, 0.0, needs_promotion=True)
            measured["verdict"] = evidence_json(verdict, self._opened_watch().policy)
            by_hand = self._ordered(OrderKind.PROMOTE)
            reason = f"by order: {by_hand}" if by_hand else _said(verdict)
        self._take_in_all(action)
        detail, moved = self._move(action, 100)
        return self._did(
            action, f"{detail}{reason and f'; {reason}'}", measured={**measured, **moved}
        )

    def _take_in_all(self, action: Action) -> None:
        """Servers that became ready since they were let in bear a share as well."""
        version = self.request.subject.version
        group = self._servers(action.region).read().groups.get(version)
        if group is None or not group.ready:
            raise _GoesBack(f"no server of {version} is ready")
        self._admit(action.region, version, group.ready)

    def _observe(self, action: Action) -> Outcome:
        least = float(action.parameters["least_seconds"] or 0.0)
        verdict = self._watch_canary(action, least, needs_promotion=False)
        measured = {"verdict": evidence_json(verdict, self._opened_watch().policy)}
        return self._did(action, _said(verdict), measured=measured)

    def _bake(self, action: Action) -> Outcome:
        """Watch it with all requests, against the bar by which it was promoted."""
        seconds = float(action.parameters["least_seconds"] or 0.0)
        section = self.sites.topology.rollout.verdict
        region, version = action.region, self.request.subject.version
        found = self._opened_watch().verdict(region)
        errors = next((e for e in found.evidence if e.metric.value == "errors"), None)
        rate = (
            bar(
                errors.fleet_requests,
                errors.fleet_failures,
                delta=section.delta_promote,
                epsilon=section.epsilon,
            )
            if errors is not None
            else None
        )
        needed = -math.log10(section.alpha)
        requests = failures = 0.0
        last = self._sample(region)
        begun = self.sites.clock.monotonic()
        down = 0
        while self.sites.clock.monotonic() - begun < seconds:
            self._pause(min(section.window_seconds, seconds), action)
            now = self._sample(region)
            counted = _counted(last, now, version)
            last = now
            if counted is not None:
                requests, failures = requests + counted[0], failures + counted[1]
            ready = not isinstance(now.groups, Unknown) and version in now.groups
            down = 0 if isinstance(now.groups, Unknown) or _is_up(now, version) else down + 1
            if ready and down >= 2:
                raise _GoesBack(f"no server of {version} has been ready for {down} looks")
            if rate is not None and errors is not None:
                e = log10_e(requests, failures, rate, phi=errors.phi)
                if e >= needed:
                    raise _GoesBack(
                        f"{failures:.0f} of {requests:.0f} requests failed since it was promoted, "
                        f"more than {rate:.2%} (e-value 10^{e:.1f})"
                    )
        return self._did(
            action,
            f"{requests:.0f} requests, {failures:.0f} failed",
            measured={"requests": requests, "failures": failures},
        )

    def _retire(self, action: Action) -> Outcome:
        """The old servers go, once nothing is sent to them any more."""
        told, region = action.parameters, action.region
        old = str(told["last_good"])
        last = self._sample(region)

        def still() -> str:
            nonlocal last
            now = self._sample(region)
            counted = _counted(last, now, old)
            last = now
            return (
                f"{counted[0]:.0f} requests still reached {old}" if counted and counted[0] else ""
            )

        self.sites.clock.sleep(_POLL_SECONDS)
        self._wait(action, still, limit_seconds=_IN_FORCE_SECONDS)
        servers = self._servers(region)
        if (group := servers.read().groups.get(old)) is not None:
            self._admit(region, old, ())
            self.guard()
            servers.scale(old, 0, digest=group.digest, epoch=self.epoch(), writer=self.sites.writer)

            def there() -> str:
                now = servers.read().groups.get(old)
                return "" if now is None else f"servers of {old} are still ending"

            limit = self.sites.topology.rollout.start_seconds_of(self.request.subject.model)
            self._wait(action, there, limit_seconds=limit, heeds_orders=False)
        self.sites.records.unpin(self.request.subject.model, region)
        return self._did(action, f"{old} serves there no more; its bytes stay stored")

    def _unpin(self, action: Action) -> Outcome:
        self.sites.records.unpin(self.request.subject.model, action.region)
        return self._did(action, f"{action.parameters['last_good']} serves there alone")

    # --- the canary under watch -----------------------------------------------------------------

    def _watch_canary(
        self,
        action: Action,
        least_seconds: float,
        *,
        needs_promotion: bool,
    ) -> RegionVerdict:
        """Windows until it was looked at for so long and, if that is needed, may be promoted.
        `_GoesBack` as soon as the verdict says so."""
        region, version = action.region, self.request.subject.version
        section = self.sites.topology.rollout.verdict
        watch = self._opened_watch()
        weight = self._opened_weight(region, version)
        begun = self.sites.clock.monotonic()
        last = self._sample(region)
        left_at_zero = False
        said_at = float("-inf")
        while True:
            verdict = watch.verdict(region)
            looked = self.sites.clock.monotonic() - begun
            promoted = bool(self._ordered(OrderKind.PROMOTE))
            if (
                looked >= least_seconds
                and not left_at_zero
                and (not needs_promotion or promoted or verdict.decision is Decision.PROMOTE)
            ):
                return verdict
            self._pause(section.window_seconds, action, until_down=version)
            now = self._sample(region)
            verdict = watch.add(last, now, region, version)
            last = now
            if verdict.decision is Decision.ROLL_BACK:
                raise _GoesBack(
                    "; ".join(verdict.because),
                    verdict={"verdict": evidence_json(verdict, watch.policy)},
                )
            if verdict.weight_zero and not left_at_zero:
                self.told(f"{region}: {'; '.join(verdict.because)}; its weight is 0 meanwhile")
                self._move(action, 0)
                last, left_at_zero = self._sample(region), True
                self._start_again(action)
            elif left_at_zero and not verdict.weight_zero:
                self._move(action, weight)
                last, left_at_zero = self._sample(region), False
            if self.sites.clock.monotonic() - said_at >= _TOLD_SECONDS:
                said_at = self.sites.clock.monotonic()
                self.told(f"{region}: {weight} %: {_said(verdict)}")

    def _start_again(self, action: Action) -> None:
        """Servers that ended are started again, where nobody else does that."""
        told = action.parameters
        self.guard()
        self._servers(action.region).scale(
            self.request.subject.version,
            int(told["new_servers"]),
            digest=str(told["digest"]),
            epoch=self.epoch(),
            writer=self.sites.writer,
        )

    def _opened_weight(self, region: str, version: str) -> int:
        return self._split(region).read().weights.get(version, 0)

    def _opened_watch(self) -> Watch:
        with self._lock:
            if self._watch is None:
                assert self.agreed is not None  # noqa: S101 - nothing is watched before that
                section = self.sites.topology.rollout.verdict
                regions = list(
                    dict.fromkeys(a.region for a in self.agreed.actions if a.kind != Kind.APPROVE)
                )
                model = self.sites.topology.models[self.request.subject.model]
                self._watch = Watch(
                    policy_of(section, regions),
                    scatter_of(section, regions, self.sites.clock.now().date()),
                    section,
                    self.sites.records,
                    self.operation,
                    gpus_a_server=sum(model.gpus.values()) or 1,
                )
            return self._watch

    def _sample(self, region: str) -> Sample:
        at = self.sites.clock.now().timestamp()
        return self._opened_watch().sample(at, self._split(region), self._servers(region))

    # --- writing --------------------------------------------------------------------------------

    def _move(self, action: Action, weight: int) -> tuple[str, JSON]:
        """Give the version that share, and wait until it is in force."""
        last_good, version = str(action.parameters["last_good"]), self.request.subject.version
        split = self._split(action.region)
        epoch = self.epoch()
        state = split.read()
        check_epoch(state, epoch, where=split.url)
        after = {last_good: 100 - weight, version: weight} if last_good else {version: 100}
        if dict(state.weights) != after or state.epoch != epoch:
            self.guard()
            state = split.write(after, epoch=epoch, writer=self.sites.writer, expected=state)
        self._wait(
            action,
            lambda: "" if split.in_force(state) else f"{split.url} does not answer with it yet",
            limit_seconds=_IN_FORCE_SECONDS,
            heeds_orders=False,
        )
        said = (f"{each} {share} %" for each, share in after.items())
        self.told(f"{action.region}: {', '.join(said)}")
        measured: JSON = {"weights": after, "epoch": epoch}
        return f"{version} has {weight} % there", measured

    def _admit(self, region: str, version: str, addresses: Sequence[str]) -> None:
        self.guard()
        self._split(region).admit(version, addresses, epoch=self.epoch(), writer=self.sites.writer)

    def _split(self, region: str) -> Split:
        subject = self.request.subject
        agreed = self.agreed or self._decided
        assert agreed is not None  # noqa: S101 - nothing is written before that
        first = next(a for a in agreed.actions if a.region == region and a.kind != Kind.APPROVE)
        versions = tuple(v for v in (str(first.parameters["last_good"]), subject.version) if v)
        return self.sites.open_split(subject.model, region, versions)

    def _servers(self, region: str) -> Servers:
        return self.sites.open_servers(self.request.subject.model, region)

    # --- waiting --------------------------------------------------------------------------------

    def _wait(
        self,
        action: Action,
        missing: Callable[[], str],
        *,
        limit_seconds: float | None = None,
        heeds_orders: bool = True,
    ) -> None:
        """Until nothing is missing. What cannot be read meanwhile is waited for as well."""
        clock = self.sites.clock
        began, said_at, said = clock.monotonic(), float("-inf"), ""
        pause = 0.02
        while True:
            try:
                why = missing()
            except (Fenced, CheckFailed, ConditionFailed):
                raise
            except MlplatformError as error:
                if not error.retryable:
                    raise
                why = str(error)
            if not why:
                return
            if limit_seconds is not None and clock.monotonic() - began > limit_seconds:
                raise DeadlineExceeded(
                    f"{action.region}: after {limit_seconds:g} s: {why}",
                    hint="see what holds it up; `mlplatform rollout status` shows where it stands",
                )
            if why != said and clock.monotonic() - max(began, said_at) > _TOLD_SECONDS:
                self.told(f"{action.region}: {action.key.rpartition('/')[2]} waits: {why}")
                said, said_at = why, clock.monotonic()
            self._stop_if_asked(action, heeds_orders=heeds_orders)
            clock.sleep(pause)
            pause = min(_POLL_SECONDS, 2 * pause)

    def _pause(self, seconds: float, action: Action, *, until_down: str = "") -> None:
        """So long, but for an order to end; or until no server of a version is ready."""
        clock = self.sites.clock
        end = clock.monotonic() + seconds
        while (left := end - clock.monotonic()) > 0:
            self._stop_if_asked(action, heeds_orders=True)
            clock.sleep(min(left, _POLL_SECONDS))
            if until_down and end - clock.monotonic() > _NEWS_SECONDS:
                try:
                    group = self._servers(action.region).read().groups.get(until_down)
                except MlplatformError:
                    continue
                if group is None or not group.ready:
                    return

    def _stop_if_asked(self, action: Action, *, heeds_orders: bool) -> None:
        if self.sites.stop():
            raise Interrupted(
                f"operation {self.operation}: interrupted at {action.key.rpartition('/')[2]} in "
                f"{action.region}",
                hint="weights and servers are as they were written; "
                f"`mlplatform rollout resume {self.operation}` goes on",
            )
        heeds_orders &= not _is_undo(action)
        if heeds_orders and (reason := self._ordered(OrderKind.ABORT)):
            raise _GoesBack(f"aborted: {reason}")

    def _ordered(self, kind: OrderKind, *, fresh: bool = False) -> str:
        """The reason of an order about this operation, if one stands."""
        for order in self._read_orders(fresh=fresh):
            if order.kind is kind and order.scope == self.operation:
                return order.reason or f"by {order.by}"
        return ""

    def _read_orders(self, *, fresh: bool = False) -> tuple[Order, ...]:
        clock = self.sites.clock
        with self._lock:
            if not fresh and clock.monotonic() - self._orders_at < _NEWS_SECONDS:
                return self._orders
            self._orders_at = clock.monotonic()
        try:
            found = self.sites.orders.read()
        except MlplatformError as error:  # what stood then stands
            log.info("orders cannot be read: %s", error)
            return self._orders
        self._orders = found
        return found

    def _rest_while_paused(self) -> None:
        reason = self._ordered(OrderKind.PAUSE, fresh=True)
        said = ""
        while reason and not self._ordered(OrderKind.ABORT):
            if said != reason:
                self.told(f"paused: {reason}")
                said = reason
            if self.sites.stop():
                raise Interrupted(
                    f"operation {self.operation} is paused: {reason}",
                    hint=f"`mlplatform rollout resume {self.operation}` goes on with it",
                )
            self.sites.clock.sleep(_POLL_SECONDS)
            self.guard()
            reason = self._ordered(OrderKind.PAUSE, fresh=True)

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


NOT_WANTED = "no longer decided"
"""Begins what `control.reconcile` says of a step that the way back has made needless."""


@dataclass(frozen=True, slots=True)
class _Newer:
    """An entry knows a newer epoch: not unknown, but the end."""

    error: Fenced


def _is_undo(action: Action) -> bool:
    return f"/{UNDO}/" in action.key


def _region_of(action: Action) -> str:
    return "" if action.kind == Kind.APPROVE else action.region


def _loads(action: Action, new: str) -> tuple[str, str, int]:
    """Version, digest and number of what is to be there after the step."""
    told = action.parameters
    if _is_undo(action):
        return str(told["last_good"]), str(told["last_good_digest"]), int(told["old_servers"])
    return new, str(told["digest"]), int(told["new_servers"])


def _require_hope(region: str, group: Group, crashes: int) -> None:
    """`_GoesBack` where waiting does not help."""
    ill = [each for each in group.ailing if each.state in HOPELESS]
    if group.crashes - crashes >= 2 or (group.crashes > crashes and not group.ready):
        ill = list(group.ailing) or ill
    if ill:
        said = "; ".join(
            f"{e.server}: {e.state.value}{e.reason and f': {e.reason}'}" for e in ill[:2]
        )
        raise _GoesBack(f"{region}: {group.version} does not start: {said}")


def _counted(before: Sample, after: Sample, version: str) -> tuple[float, float] | None:
    """Requests and failures of a version between two looks; None: not known."""
    window = window_of(before, after, Arms("", version), window_seconds=float("inf"))
    if isinstance(window.canary, Unknown):
        return None
    return window.canary.requests, window.canary.errors


def _is_up(sample: Sample, version: str) -> bool:
    return (
        not isinstance(sample.groups, Unknown)
        and version in sample.groups
        and bool(sample.groups[version].ready)
    )


def _said(verdict: RegionVerdict) -> str:
    """A verdict in a line."""
    parts = [
        f"{each.metric.value} {each.failures:.0f}/{each.requests:.0f}, fleet "
        f"{each.fleet_failures:.0f}/{each.fleet_requests:.0f}, "
        f"e-value 10^{each.log10_e:.1f} of 10^{each.log10_e_needed:.1f}"
        for each in verdict.evidence
    ]
    return f"{verdict.decision.value}: {'; '.join(parts)}"


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


_PERFORM: Mapping[Kind, Callable[[Roller, Action], Outcome]] = {
    Kind.APPROVE: Roller._approve,
    Kind.PREFLIGHT: Roller._preflight,
    Kind.PIN: Roller._pin,
    Kind.SHRINK: Roller._shrink,
    Kind.LOAD: Roller._load,
    Kind.WARM_UP: Roller._warm_up,
    Kind.WEIGHT: Roller._weight,
    Kind.OBSERVE: Roller._observe,
    Kind.PROMOTE: Roller._promote,
    Kind.BAKE: Roller._bake,
    Kind.RETIRE: Roller._retire,
    Kind.STOP: Roller._shrink,
    Kind.RELOAD: Roller._load,
    Kind.UNPIN: Roller._unpin,
}
