"""How a region is: judged from a quorum of vantages and from what callers met, and explained.

Who votes. A vantage's opinion of a region follows its direct probes, by rise and fall. A region
that answers, but answers no golden request right, is down for whoever came to have a model
answered. A vantage that is stale, unreadable, blind or undecided has no vote; nor has one on the
region that it stands in. Votes are counted by failure domain: within one, the majority of its
voters, else the domain is divided.

What they decide is `ballot.rule`. Phi and slowness only ever make a region suspect.

What the front door counts for. A front door that fails cannot say which region failed, and one that
is broken for all is no region's fault: failures there are told, and count for nothing. An answer
there names the region that gave it, and clients come by that way: a vantage that calls a region
down by the direct path, and was answered by it at the front door since, is of two minds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.core.traffic import Objective, Traffic
from mlplatform.failover.evidence.record import Evidence, Outside
from mlplatform.failover.verdict.ballot import (
    Change,
    Ground,
    Health,
    Outlook,
    Standing,
    Tally,
    changes,
    rule,
)
from mlplatform.failover.verdict.phi import SUSPICION
from mlplatform.failover.verdict.testimony import (
    Asked,
    Testimony,
    Vote,
    Witness,
    read_witnesses,
    testify,
)

__all__ = ["Health", "Verdict", "judge", "judge_all"]

EXPIRES_SOON_DAYS = 14.0
"""A certificate that has so many days left is told of: renewals are due with a third of a
certificate's life left (Let's Encrypt: 30 of 90 days), so that one was missed."""
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is held of one region, why, and what would change it."""

    region: str
    health: Health
    because: tuple[str, ...] = ()
    """What decided, most weighty first; one line each."""
    would_change: tuple[str, ...] = ()
    """What would have to be seen for another verdict, all else being as it is."""
    sick_seconds: float | None = None
    """How long it has been going wrong, at least, by the vantages' own clocks; None while well."""
    well_seconds: float | None = None
    """How long every voting domain has seen it well; None while it is not."""
    serves_nothing: bool = False
    """It is unhealthy, and no vantage that may vote got any answer at all: there is nothing left to
    protect there."""
    called_down: bool = False
    """Most domains that vote call it down, and callers do not contradict them; they may be too few
    for the worst verdict, or not of one mind."""
    models: Mapping[str, Health] = field(default_factory=dict)
    """Of those whose golden requests were sent lately. A model that is not here was not asked: it
    is as well as its region."""


def judge(region: str, evidence: Evidence, traffic: Traffic) -> Verdict:
    """The verdict on one region. What is not in the evidence is unknown."""
    return _judge(region, _Court(evidence, traffic))


def judge_all(evidence: Evidence, topology: Topology) -> Mapping[str, Verdict]:
    """The verdict on every region of the topology; each record is read once."""
    court = _Court(evidence, topology.traffic)
    return {region: _judge(region, court) for region in topology.regions}


def would_change(region: str, evidence: Evidence, traffic: Traffic) -> Sequence[Change]:
    """`Verdict.would_change` as values, which can be tried."""
    return _Case(region, _Court(evidence, traffic)).changes


class _Court:
    """The evidence, read once for all regions."""

    def __init__(self, evidence: Evidence, traffic: Traffic) -> None:
        self.evidence = evidence
        self.traffic = traffic
        self.witnesses = read_witnesses(evidence.vantages, traffic)
        self._wrong = self._wrong_models()
        self._asked = Counter(model for told in self._wrong.values() for model in told)
        self._failing = Counter(
            model for told in self._wrong.values() for model, fails in told.items() if fails
        )

    def eligible(self, region: str) -> list[Witness]:
        """Who may vote on `region`, had they something to say."""
        return [witness for witness in self.witnesses if not witness.stands_in(region)]

    def excused(self, region: str) -> frozenset[str]:
        """Models wrong here that fail in every other region that was asked, at least one: their own
        fault, not this region's."""
        here = {
            model
            for witness in self.witnesses
            if (asked := witness.asked.get(region)) is not None
            for model in asked.wrong
        }
        told = self._wrong.get(region, {})
        return frozenset(
            model
            for model in here
            if (others := self._asked[model] - (model in told)) > 0
            and self._failing[model] - told.get(model, False) == others
        )

    def _wrong_models(self) -> dict[str, dict[str, bool]]:
        """By region that answers at all: of each model that fails in some region, whether it fails
        there."""
        suspected = {
            model
            for witness in self.witnesses
            for asked in witness.asked.values()
            for model in asked.wrong
        }
        found: dict[str, dict[str, bool]] = {}
        if not suspected:
            return found
        for region in {name for witness in self.witnesses for name in witness.asked}:
            witnesses = [
                witness
                for witness in self.eligible(region)
                if witness.opinions.get(region) is None or witness.opinions[region].up is not False
            ]
            told = _models_by_domain(region, witnesses, suspected)
            needed = _enough(self.eligible(region))
            found[region] = {
                model: wrong >= needed and 2 * wrong > right + wrong
                for model, (right, wrong) in told.items()
            }
        return found


@dataclass(frozen=True, slots=True)
class _Domain:
    """What the voters of one failure domain hold together."""

    name: str
    standing: Standing
    testimonies: tuple[Testimony, ...]
    slow: bool = False
    suspects: bool = False
    sick_seconds: float = 0.0
    well_seconds: float = 0.0
    quick_seconds: float = math.inf

    @property
    def trouble(self) -> str:
        """What went wrong, in the words of the first of those who saw it."""
        worst = [told for told in self.testimonies if told.vote is Vote.DOWN] or [
            told for told in self.testimonies if told.vote is Vote.DIVIDED
        ]
        return next((told.trouble for told in worst if told.trouble), "")


class _Case:
    """One region's domains, counted."""

    def __init__(self, region: str, court: _Court) -> None:
        self.region = region
        self.court = court
        self.traffic = court.traffic
        self.witnesses = court.eligible(region)
        self.excused = court.excused(region)
        by_domain: dict[str, list[Testimony]] = {}
        for witness in self.witnesses:
            by_domain.setdefault(witness.domain, []).append(
                testify(witness, region, court.traffic.probe, excused=self.excused)
            )
        self.domains = [_domain(name, by_domain[name]) for name in sorted(by_domain)]
        self.needed = court.traffic.safety.domains
        self.models, self.failing = self._models()
        outside = court.evidence.outside.get(region)
        self.metrics = outside is not None
        self.outside = outside
        self.tally = Tally(
            eligible=len(self.domains),
            up=len(self.of(Standing.UP, Standing.WEAK)),
            weak=len(self.of(Standing.WEAK)),
            divided=len(self.of(Standing.DIVIDED)),
            down=len(self.of(Standing.DOWN)),
            outside=_outlook(outside, court.traffic.objective),
            slow_outside=_slow_outside(outside, court.traffic.objective),
            models_fail=self.models_fail,
        )

    def of(self, *standings: Standing) -> list[_Domain]:
        return [domain for domain in self.domains if domain.standing in standings]

    @property
    def voting(self) -> list[_Domain]:
        return [domain for domain in self.domains if domain.standing is not Standing.SILENT]

    @property
    def changes(self) -> Sequence[Change]:
        return changes(
            [(domain.name, domain.standing) for domain in self.domains],
            self.tally,
            self.needed,
            metrics=self.metrics,
        )

    def _models(self) -> tuple[dict[str, Health], list[str]]:
        """What golden requests say of each model here, whosever fault it is; and the models that
        fail here by enough domains, and not elsewhere."""
        asked = [witness.asked.get(self.region, Asked()) for witness in self.witnesses]
        right = {model for told in asked for model in told.right}
        wrong = {model for told in asked for model in told.wrong}
        counted = _models_by_domain(self.region, self.witnesses, wrong)
        health = dict.fromkeys(sorted(right | wrong), Health.HEALTHY)
        for model, (for_it, against_it) in counted.items():
            total = for_it + against_it
            if 2 * against_it > total >= self.needed:
                health[model] = Health.UNHEALTHY
            elif against_it > 1 or 2 * against_it >= total:
                health[model] = Health.SUSPECT
        failing = sorted(
            model
            for model, (for_it, against_it) in counted.items()
            if model not in self.excused and for_it < against_it >= _enough(self.witnesses)
        )
        return health, failing

    @property
    def models_fail(self) -> bool:
        asked = self.models.keys() - self.excused
        return bool(self.failing) and 2 * len(self.failing) >= len(asked)


def _judge(region: str, court: _Court) -> Verdict:
    case = _Case(region, court)
    health, ground = rule(case.tally, case.needed)
    return Verdict(
        region,
        health,
        because=tuple(_because(case, ground)),
        would_change=tuple(_changes_told(case)),
        sick_seconds=_sick_seconds(case, health),
        well_seconds=_well_seconds(case, health),
        serves_nothing=health is Health.UNHEALTHY
        and not any(told.answers for domain in case.domains for told in domain.testimonies),
        called_down=ground in (Ground.DOWN, Ground.TOO_FEW, Ground.NOT_UNANIMOUS),
        models=case.models,
    )


def _domain(name: str, testimonies: Sequence[Testimony]) -> _Domain:
    voters = [told for told in testimonies if told.vote is not None]
    if not voters:
        return _Domain(name, Standing.SILENT, tuple(testimonies))
    half = len(voters) // 2
    down = sorted((told.sick_seconds for told in voters if told.vote is Vote.DOWN), reverse=True)
    up = sorted((told.well_seconds for told in voters if told.vote is Vote.UP), reverse=True)
    if len(down) > half:
        return _Domain(name, Standing.DOWN, tuple(testimonies), sick_seconds=down[half])
    if len(up) <= half:
        sick = [told.sick_seconds for told in voters if told.vote is not Vote.UP]
        return _Domain(name, Standing.DIVIDED, tuple(testimonies), sick_seconds=min(sick))
    slow = sum(told.slow for told in voters) > half
    suspects = sum(told.suspects for told in voters) > half
    weak = [told.sick_seconds for told in voters if told.slow or told.suspects]
    return _Domain(
        name,
        Standing.WEAK if len(weak) > half else Standing.UP,
        tuple(testimonies),
        slow=slow,
        suspects=suspects,
        sick_seconds=max(weak, default=0.0),
        well_seconds=up[half],
        quick_seconds=sorted(told.quick_seconds for told in voters)[half],
    )


def _enough(witnesses: Iterable[Witness]) -> int:
    """How many domains must find a model wrong: two, where there are two."""
    return min(2, len({witness.domain for witness in witnesses}))


def _models_by_domain(
    region: str, witnesses: Sequence[Witness], models: AbstractSet[str]
) -> dict[str, tuple[int, int]]:
    """Of each of `models` that was asked: how many domains find it right, and how many wrong. A
    domain that is of two minds counts as right."""
    balances: dict[str, dict[str, int]] = {}
    if not models:
        return {}
    for witness in witnesses:
        asked = witness.asked.get(region, Asked())
        for named, vote in ((asked.right & models, 1), (asked.wrong.keys() & models, -1)):
            for model in named:
                domains = balances.setdefault(model, {})
                domains[witness.domain] = domains.get(witness.domain, 0) + vote
    return {
        model: (
            sum(balance >= 0 for balance in domains.values()),
            sum(balance < 0 for balance in domains.values()),
        )
        for model, domains in balances.items()
    }


# What callers met.


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _outlook(outside: Outside | Unknown | None, objective: Objective) -> Outlook:
    if outside is None or isinstance(outside, Unknown):
        return Outlook.NONE
    ratio, rate = _number(outside.success_ratio), _number(outside.requests_per_second)
    if ratio is None or rate == 0:
        return Outlook.NONE
    if ratio < objective.success_ratio:
        return Outlook.BAD
    # Praise needs requests that were counted: silence divided by silence is a fine ratio too.
    return Outlook.GOOD if rate is not None and rate > 0 else Outlook.NONE


def _slow_outside(outside: Outside | Unknown | None, objective: Objective) -> bool:
    if outside is None or isinstance(outside, Unknown):
        return False
    latency, rate = _number(outside.latency_seconds), _number(outside.requests_per_second)
    return latency is not None and rate != 0 and latency > objective.latency_seconds


# How long.


def _sick_seconds(case: _Case, health: Health) -> float | None:
    """What a majority confirms, of an unhealthy region; of a suspect one, what two domains do, so
    that one wrong clock makes nothing older."""
    if health is Health.UNHEALTHY:
        down = sorted((domain.sick_seconds for domain in case.of(Standing.DOWN)), reverse=True)
        return down[len(case.voting) // 2]
    if health is Health.SUSPECT:
        sick = sorted(
            (
                domain.sick_seconds
                for domain in case.of(Standing.DOWN, Standing.DIVIDED, Standing.WEAK)
            ),
            reverse=True,
        )
        return sick[min(1, len(sick) - 1)] if sick else 0.0
    return None


def _well_seconds(case: _Case, health: Health) -> float | None:
    """None also while one domain that is outvoted sees it down: traffic goes back only when nobody
    objects. Slow is what a majority finds slow; a far vantage finds everything slow."""
    voting = case.voting
    if health is not Health.HEALTHY or case.of(Standing.DOWN, Standing.DIVIDED):
        return None
    quick = sorted(domain.quick_seconds for domain in voting)[len(voting) // 2]
    return min(quick, *(domain.well_seconds for domain in voting))


# In words.


def _because(case: _Case, ground: Ground) -> Iterable[str]:
    yield from _decisive(case, ground)
    yield from _outvoted(case, ground)
    if ground is not Ground.MODELS and case.failing:
        yield _models_told(case)
    if blamed := sorted(model for model in case.models if _is_blamed(case, model)):
        yield (
            f"{_names(blamed)} {_verb(blamed, 'fails', 'fail')} golden requests in every region "
            f"that was asked: {_verb(blamed, 'its', 'their')} own fault, not this region's"
        )
    yield from _not_voting(case)
    yield from _front_doors(case)
    yield from _certificates(case)


def _decisive(case: _Case, ground: Ground) -> Iterable[str]:
    voting = len(case.voting)
    outside = _outside_told(case)
    down = case.of(Standing.DOWN)
    match ground:
        case Ground.BLIND:
            if not case.domains:
                yield "no vantage outside it is declared: nobody may vote"
            elif all(witness.silence for witness in case.court.witnesses):
                yield "all dark: no vantage can vote on any region, we are blind"
            else:
                yield "no vantage can vote on it"
            yield from outside
        case Ground.TOO_QUIET:
            up = case.of(Standing.UP, Standing.WEAK)
            yield (
                f"{len(up)} of {len(case.domains)} domains {_verb(up, 'sees', 'see')} it up "
                f"({_names(domain.name for domain in up)}), the others say nothing: "
                f"{len(case.domains) // 2 + 1} are needed"
            )
            yield from outside
        case Ground.DOWN:
            yield _down_told(down, voting)
            if case.tally.outside is Outlook.BAD:
                yield f"callers agree: {outside[0]}"
            else:
                yield from outside
                yield "nothing from callers contradicts it, and every domain that votes agrees"
        case Ground.TOO_FEW:
            yield _down_told(down, voting)
            votes = _verb(case.voting, "votes", "vote")
            yield f"{_domains(voting)} {votes}, {case.needed} are needed to call it unhealthy"
            yield from outside
        case Ground.CONTRADICTED:
            yield _down_told(down, voting)
            yield f"gray failure: callers contradict: {outside[0]}"
        case Ground.NOT_UNANIMOUS:
            yield _down_told(down, voting)
            yield from outside
            yield "while callers say nothing, every domain that votes would have to agree"
        case Ground.DISSENT:
            sick = case.of(Standing.DOWN, Standing.DIVIDED)
            yield f"gray failure: {_down_told(sick, voting)}"
            yield from outside
        case Ground.OUTSIDE:
            yield f"gray failure: {_up_told(case)}, but callers do not: {outside[0]}"
        case Ground.WEAK:
            yield f"gray failure: {_weak_told(case)}"
            yield from outside
        case Ground.MODELS:
            yield f"gray failure: {_models_told(case)}"
            yield from outside
        case Ground.SLOW_OUTSIDE:
            yield f"gray failure: {_up_told(case)}, but callers wait: {outside[0]}"
        case Ground.WELL:
            yield _up_told(case)
            yield from outside


def _outvoted(case: _Case, ground: Ground) -> Iterable[str]:
    """Those who hold otherwise than the verdict does."""
    up = case.of(Standing.UP, Standing.WEAK)
    divided = case.of(Standing.DIVIDED)
    match ground:
        case Ground.DOWN | Ground.TOO_FEW | Ground.CONTRADICTED | Ground.NOT_UNANIMOUS:
            if divided:
                yield f"of two minds: {_troubles(divided)}"
            if up:
                yield _named_up(up)
        case Ground.DISSENT:
            if up:
                yield _named_up(up)
        case Ground.BLIND | Ground.TOO_QUIET:
            pass
        case _:
            if dissent := case.of(Standing.DOWN, Standing.DIVIDED):
                yield f"outvoted: {_down_told(dissent, len(case.voting))}"
            if ground is not Ground.WEAK and case.of(Standing.WEAK):
                yield f"outvoted: {_weak_told(case)}"


def _not_voting(case: _Case) -> Iterable[str]:
    silent = [told for domain in case.domains for told in domain.testimonies if told.vote is None]
    for told in silent:
        yield f"{told.vantage} does not vote: {told.silence}"
    own = [witness.vantage for witness in case.court.witnesses if witness.stands_in(case.region)]
    if own:
        yield (
            f"{_names(own)} {_verb(own, 'stands in it and does', 'stand in it and do')} not vote"
        )
    for name in sorted(case.court.evidence.vantages.keys() - case.traffic.vantages.keys()):
        yield f"{name} does not vote: the topology declares no such vantage"


def _front_doors(case: _Case) -> Iterable[str]:
    for name, route in sorted(case.traffic.routes.items()):
        if route.weights and case.region not in route.weights:
            continue
        seen: dict[str, list[bool]] = {}
        for witness in case.court.witnesses:
            up = witness.front_doors.get(name)
            if not witness.silence and up is not None:
                seen.setdefault(witness.domain, []).append(up)
        shut = [domain for domain, ups in seen.items() if 2 * sum(ups) < len(ups)]
        if 2 * len(shut) > len(seen):
            yield (
                f"the front door of {name} is shut to {len(shut)} of {_domains(len(seen))} "
                f"({_names(sorted(shut))}); that is held against no region"
            )


def _certificates(case: _Case) -> Iterable[str]:
    days = [
        told.expires_in_days
        for domain in case.domains
        for told in domain.testimonies
        if told.expires_in_days is not None
    ]
    if days and min(days) < EXPIRES_SOON_DAYS:
        left = min(days)
        yield (
            f"its certificate expires in {left:.0f} days"
            if left > 1
            else f"its certificate expires in {max(left, 0) * 24:.0f} h"
        )


def _outside_told(case: _Case) -> list[str]:
    """One line, or none where no Prometheus is asked."""
    objective = case.traffic.objective
    outside = case.outside
    if outside is None:
        return []
    if isinstance(outside, Unknown):
        return [f"Prometheus could not be read: {outside.reason}"]
    ratio, rate = _number(outside.success_ratio), _number(outside.requests_per_second)
    if rate == 0:
        return ["Prometheus counts no requests there"]
    if ratio is None:
        return ["Prometheus has no sample of it"]
    of = "requests" if rate is None else f"{rate:.3g} requests/s"
    line = f"{_percent(ratio)} of {of} succeed (objective {_percent(objective.success_ratio)})"
    if case.tally.slow_outside and outside.latency_seconds is not None:
        line += f", in {outside.latency_seconds:.2g} s (objective {objective.latency_seconds:g} s)"
    if case.tally.outside is Outlook.NONE:
        line += ", but how many were made is not known"
    return [line]


def _down_told(domains: Sequence[_Domain], voting: int) -> str:
    down = [domain for domain in domains if domain.standing is Standing.DOWN]
    if len(down) < len(domains):
        verb = _verb(domains, "finds fault with it", "find fault with it")
    elif any(told.answers for domain in domains for told in domain.testimonies):
        verb = _verb(domains, "sees it down", "see it down")
    else:
        verb = _verb(domains, "gets no answer", "get no answer")
    return f"{len(domains)} of {_domains(voting)} {verb}: {_troubles(domains)}"


def _up_told(case: _Case) -> str:
    up = case.of(Standing.UP, Standing.WEAK)
    return f"{len(up)} of {_domains(len(case.voting))} {_verb(up, 'sees', 'see')} it up"


def _named_up(up: Sequence[_Domain]) -> str:
    return f"{_names(domain.name for domain in up)} {_verb(up, 'sees', 'see')} it up"


def _weak_told(case: _Case) -> str:
    weak = case.of(Standing.WEAK)
    slow = [domain.name for domain in weak if domain.slow]
    waiting = [domain.name for domain in weak if domain.name not in slow]
    voting = _domains(len(case.voting))
    said = []
    if slow:
        said.append(
            f"{len(slow)} of {voting} {_verb(slow, 'finds', 'find')} it slower than "
            f"{case.traffic.probe.slow_seconds:g} s ({_names(slow)})"
        )
    if waiting:
        said.append(
            f"{len(waiting)} of {voting} {_verb(waiting, 'waits', 'wait')} for an answer longer "
            f"than is usual ({_names(waiting)}; phi over {SUSPICION:g})"
        )
    return "; ".join(said)


def _models_told(case: _Case) -> str:
    failing = case.failing
    asked = [model for model in case.models if model not in case.excused]
    return (
        f"{len(failing)} of {len(asked)} models {_verb(failing, 'fails', 'fail')} golden requests "
        f"here: {_names(failing)}"
    )


def _is_blamed(case: _Case, model: str) -> bool:
    return model in case.excused and case.models[model] is not Health.HEALTHY


def _changes_told(case: _Case) -> Iterable[str]:
    for change in case.changes:
        yield _change_told(change, case)
    if len(case.domains) < case.needed:
        yield (
            f"never unhealthy: {_domains(len(case.domains))} can vote on it, {case.needed} are "
            "needed; declare more under traffic.vantages"
        )


def _change_told(change: Change, case: _Case) -> str:
    clauses = []
    if change.domains:
        *first, last = change.domains
        names = f"{', '.join(first)} and {last}" if first else last
        what = {
            Standing.DOWN: "saw it down",
            Standing.UP: "saw it up and quick",
            Standing.SILENT: "fell silent",
        }[change.standing]
        clauses.append(f"{names} {what}")
    objective = case.traffic.objective
    if change.outside is Outlook.GOOD:
        clauses.append(
            f"Prometheus counted requests of which {_percent(objective.success_ratio)} succeeded "
            f"within {objective.latency_seconds:g} s"
        )
    elif change.outside is Outlook.BAD:
        clauses.append(
            f"Prometheus saw fewer than {_percent(objective.success_ratio)} of requests succeed"
        )
    if change.models_right:
        clauses.append("its models answered their golden requests right")
    return f"{change.health} if {', and '.join(clauses)}"


def _troubles(domains: Iterable[_Domain]) -> str:
    """Each domain with what it met; those that met the same, together."""
    met: dict[str, list[str]] = {}
    for domain in domains:
        met.setdefault(domain.trouble or "voters differ", []).append(domain.name)
    return "; ".join(f"{_names(names)} ({trouble})" for trouble, names in met.items())


def _names(names: Iterable[str], shown: int = NAMES_SHOWN) -> str:
    listed = list(names)
    rest = len(listed) - shown
    return ", ".join(listed[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _verb(subjects: Sequence[object], one: str, many: str) -> str:
    return one if len(subjects) == 1 else many


def _domains(number: int) -> str:
    return f"{number} domain" if number == 1 else f"{number} domains"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"
