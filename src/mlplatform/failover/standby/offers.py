"""What regions offer for the models of routes: which servers hold which bytes, whether these are
what the region's store holds verified, and how the last golden request was answered.

Reading is `Standbys`; joining what was read is `standby_of`, which is pure.

Which versions are **allowed** in a region: the one that the topology declares for it and, until a
rollout has brought that one, its **last verified good**: the version that was stored there last
before the declared one was, whose bytes are verified there still. A version that was withdrawn is
neither. That a version lies ready for the next rollout does not make it good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from mlplatform.control.regions import each_region
from mlplatform.core.errors import UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import Golden, Rate, Standby
from mlplatform.failover.evidence.record import Evidence, GoldenAnswer
from mlplatform.failover.standby.stock import Kept, Stock
from mlplatform.ports.fleet import Fleet, Served

_SIBLINGS = 64
"""Of a model with more versions than that, the last good one is not looked for."""

Answers = Sequence[tuple[GoldenAnswer, float]] | Unknown
"""Golden answers of a region for a model, with their age in seconds; unknown when no vantage could
tell."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What was read of one model in one region."""

    served: Served | Unknown
    declared: str | None = None
    """What the topology declares for that region."""
    kept: Mapping[str, Kept | Unknown] = field(default_factory=dict)
    """What its store holds, by version."""
    golden: Answers = ()


def standby_of(offer: Offer) -> Standby | Unknown:
    """What follows from it."""
    served = offer.served
    if isinstance(served, Unknown):
        return served
    kept = offer.kept
    allowed = allowed_versions(offer.declared, kept)
    serving = sorted(served.versions.keys() - {served.canary})
    # Where an update is under way, a request may meet either version: the worst one counts.
    serving.sort(key=lambda version: (version in allowed, bool(served.versions[version])))
    version = serving[0] if serving else None
    digest = served.versions[version] or None if version is not None else None
    rate = served.requests_per_second
    return Standby(
        version=version,
        digest=digest,
        allowed=allowed,
        stored=_stored(kept.get(version)) if version is not None else None,
        golden=last_golden(offer.golden, version, digest),
        servers=served.servers,
        rate=Rate(rate, "measured") if rate is not None else None,
        canary=served.canary,
    )


def _stored(kept: Kept | Unknown | None) -> str | Unknown | None:
    if kept is None:
        return None  # a name that nothing could be published under
    return kept if isinstance(kept, Unknown) else kept.digest


def allowed_versions(declared: str | None, kept: Mapping[str, Kept | Unknown]) -> frozenset[str]:
    """What policy allows in a region, by what its store holds; see above. While any version of the
    model could not be read, no other can be called the last good one."""
    wanted = kept.get(declared) if declared is not None else None
    allowed = set()
    if declared is not None and not (isinstance(wanted, Kept) and wanted.withdrawn):
        allowed.add(declared)
    found = {version: each for version, each in kept.items() if isinstance(each, Kept)}
    if len(found) == len(kept):
        before = wanted.stored_at if isinstance(wanted, Kept) else None
        good = [
            (each.stored_at, version)
            for version, each in found.items()
            if version != declared
            and each.digest is not None
            and each.stored_at is not None
            and not each.withdrawn
            and (before is None or each.stored_at < before)
        ]
        if good:
            allowed.add(max(good)[1])
    return frozenset(allowed)


def last_golden(
    answers: Answers,
    version: str | None,
    digest: str | None,
) -> Golden | Unknown | None:
    """The newest answer that speaks of these bytes; one that states no version may."""
    if isinstance(answers, Unknown):
        return answers
    ours = [
        (age_seconds, answer)
        for answer, age_seconds in answers
        if (answer.version or version) == version and (answer.digest or digest) == digest
    ]
    if not ours:
        return None
    age_seconds, answer = min(ours, key=lambda each: each[0])
    return Golden(answer.ok, answer.seconds, age_seconds, answer.detail)


def golden_answers(
    evidence: Evidence,
) -> dict[tuple[str, str], list[tuple[GoldenAnswer, float]]] | Unknown:
    """Every golden answer with its age, by region and model. A vantage that is blind, or has not
    written of late, is not heard."""
    found: dict[tuple[str, str], list[tuple[GoldenAnswer, float]]] = {}
    silent: dict[str, str] = {}
    for name, sighting in evidence.vantages.items():
        record = sighting.record
        if isinstance(record, Unknown):
            silent[name] = record.reason
        elif sighting.stale:
            silent[name] = f"{name}: {sighting.why_stale}"
        elif record.blind:
            silent[name] = f"{name} is blind: {record.blind}"
        else:
            for answer in record.golden:
                age_seconds = max(0.0, sighting.age_seconds) + answer.seconds_ago
                found.setdefault((answer.region, answer.model), []).append((answer, age_seconds))
    if silent and len(silent) == len(evidence.vantages):
        return Unknown("; ".join(dict.fromkeys(silent.values())))
    return found


class Standbys:
    """Reads what regions offer, all at once. One object remembers what stores hold: keep it."""

    def __init__(
        self,
        topology: Topology,
        fleets: Callable[[str], Fleet],
        stock: Stock,
        *,
        executor: Executor,
        timeout_seconds: float | None = 10.0,
    ) -> None:
        """`fleets` by region."""
        self._topology = topology
        self._fleets = fleets
        self._stock = stock
        self._executor = executor
        self._timeout_seconds = timeout_seconds
        self._declared = {
            (region, subject.model): subject.version for subject, region in topology.wanted()
        }
        """What the topology declares, by region and model."""

    def __call__(
        self, evidence: Evidence, routes: Sequence[str]
    ) -> dict[str, dict[str, Standby | Unknown]]:
        """By region, then by model: all that the routes named have there. A region's servers are
        asked once, and its store for what they hold, not for all that there is."""
        models = models_by_region(self._topology, routes)
        fleets = each_region(
            models,
            lambda region: self._fleets(region).served(models[region]),
            executor=self._executor,
            timeout_seconds=self._timeout_seconds,
        )
        served: dict[tuple[str, str], Served | Unknown] = {}
        for region, wanted in models.items():
            answer = fleets[region]
            for model in sorted(wanted):
                served[region, model] = (
                    answer
                    if isinstance(answer, Unknown)
                    else answer.get(model, Unknown(f"{region}: nothing was said of {model}"))
                )
        subjects = self._of_interest(served)
        kept = self._stock.look(
            {
                region: [each for model in wanted for each in subjects[region, model].values()]
                for region, wanted in models.items()
            }
        )
        golden = golden_answers(evidence)
        found: dict[str, dict[str, Standby | Unknown]] = {region: {} for region in models}
        for (region, model), here in served.items():
            versions = subjects[region, model]
            found[region][model] = standby_of(
                Offer(
                    here,
                    self._declared.get((region, model)),
                    {version: kept[region][each] for version, each in versions.items()},
                    golden if isinstance(golden, Unknown) else golden.get((region, model), ()),
                )
            )
        return found

    def _of_interest(
        self, served: Mapping[tuple[str, str], Served | Unknown]
    ) -> dict[tuple[str, str], dict[str, ModelVersion]]:
        """By region and model, the versions that its store is asked for: those that are served and,
        only where that is not what the topology declares, those that may be its last good one."""
        subjects: dict[tuple[str, str], dict[str, ModelVersion]] = {}

        def named(model: str, versions: Iterable[str]) -> dict[str, ModelVersion]:
            found: dict[str, ModelVersion] = {}
            for version in versions:
                if (model, version) not in subjects:
                    subjects[model, version] = _subject(model, version)
                found |= subjects[model, version]
            return found

        found: dict[tuple[str, str], dict[str, ModelVersion]] = {}
        others: list[tuple[str, str]] = []
        for (region, model), here in served.items():
            if isinstance(here, Unknown):
                found[region, model] = {}
                continue
            found[region, model] = named(model, here.versions)
            declared = self._declared.get((region, model))
            if any(version not in (declared, here.canary) for version in here.versions):
                found[region, model] |= named(model, [declared] if declared else ())
                others.append((region, model))
        published = self._stock.versions(model for _, model in others) if others else {}
        for region, model in others:
            siblings = published[model]
            if not isinstance(siblings, Unknown) and len(siblings) <= _SIBLINGS:
                found[region, model] |= named(model, siblings)
        return found


def models_by_region(topology: Topology, routes: Iterable[str]) -> dict[str, frozenset[str]]:
    """What the routes named serve in each of their regions."""
    found: dict[str, set[str]] = {}
    for name in routes:
        route = topology.traffic.routes[name]
        for region in (*route.weights, *route.targets):
            found.setdefault(region, set()).update(route.models)
    return {region: frozenset(models) for region, models in found.items()}


def _subject(model: str, version: str) -> dict[str, ModelVersion]:
    """By its version. What a server calls one may be none that could ever have been published."""
    try:
        return {version: ModelVersion(model, version)}
    except UsageError:
        return {}
