"""What each vantage says of each region: its record, read as a witness's statement. Pure.

All times are ages on the vantage's own clock, to which the reader adds how old the record is by its
own. No two machines' clocks are compared: a vantage whose clock is wrong is stale, never mistaken.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise

from mlplatform.core.seen import Unknown
from mlplatform.core.traffic import Probing, Traffic, Vantage
from mlplatform.failover.evidence.record import (
    GOLDEN_KEPT,
    Path,
    Sample,
    Series,
    Sighting,
    VantageRecord,
)
from mlplatform.failover.verdict.opinion import Opinion, opinion_after
from mlplatform.failover.verdict.phi import SUSPICION, phi


class Vote(StrEnum):
    """What a vantage, or a failure domain, holds of a region."""

    UP = "up"
    DOWN = "down"
    DIVIDED = "divided"
    """Both at once: its voters differ, or the region answers on one path and not on the other."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one vantage's golden requests to one region came to."""

    right: frozenset[str] = frozenset()
    """Models that answer as they should."""
    wrong: Mapping[str, float] = field(default_factory=dict)
    """Models that do not, and for how many seconds, at least."""
    mended: Mapping[str, float] = field(default_factory=dict)
    """Those of `right` that have failed lately, and how many seconds they have been right since."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How many wrong answers each model in `wrong` gave."""


@dataclass(frozen=True, slots=True)
class Witness:
    """One vantage's record, read once for all regions."""

    vantage: str
    domain: str
    region: str | None
    """Where it stands."""
    silence: str = ""
    """Why it says nothing of any region; empty when it may vote."""
    age_seconds: float = 0.0
    interval_seconds: float = 0.0
    at: datetime | None = None
    """By its own clock, as a certificate's expiry is read."""
    direct: Mapping[str, Series] = field(default_factory=dict)
    opinions: Mapping[str, Opinion] = field(default_factory=dict)
    """Of each region that it probes directly."""
    front_doors: Mapping[str, bool | None] = field(default_factory=dict)
    """By route: whether it gets through, by rise and fall."""
    answered_at_front: Mapping[str, float] = field(default_factory=dict)
    """By region: seconds before the record was written that it last answered at a front door."""
    asked: Mapping[str, Asked] = field(default_factory=dict)

    def stands_in(self, region: str) -> bool:
        """Whether it fails together with `region`, and so has no vote on it."""
        return region in (self.region, self.domain)


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one vantage says of one region. Seconds are infinite where nothing bounds them."""

    vantage: str
    domain: str
    vote: Vote | None = None
    silence: str = ""
    """Why there is no vote."""
    trouble: str = ""
    """What went wrong last."""
    slow: bool = False
    """It answers, and too slowly."""
    suspicion: float = 0.0
    """Phi of the silence since its last answer, while it is still called up."""
    answers: bool = False
    """Whether any of its newest probes got any answer at all."""
    sick_seconds: float = 0.0
    well_seconds: float = 0.0
    quick_seconds: float = math.inf
    """How long it has not been slow."""
    expires_in_days: float | None = None
    """Its certificate."""

    @property
    def suspects(self) -> bool:
        return self.suspicion >= SUSPICION


def read_witness(name: str, vantage: Vantage, sighting: Sighting | None, probe: Probing) -> Witness:
    """What there is in one vantage's record, or why it counts for nothing."""
    domain = vantage.domain_of(name)

    def silent(why: str) -> Witness:
        return Witness(name, domain, vantage.region, silence=why)

    if sighting is None:
        return silent("has no record")
    record = sighting.record
    if isinstance(record, Unknown):
        return silent(record.reason)
    if sighting.stale:
        if sighting.age_seconds < 0:
            return silent(f"its record is {-sighting.age_seconds:.0f} s from the future")
        return silent(
            f"no word for {sighting.age_seconds:.0f} s, a round takes {record.interval_seconds:g} s"
        )
    if record.vantage != name:
        return silent(f"its record is signed by {record.vantage}")
    if record.blind:
        return silent(f"blind: {record.blind}")
    direct = {series.region: series for series in record.series if series.path is Path.DIRECT}
    fronts = [series for series in record.series if series.path is Path.FRONT_DOOR]
    return Witness(
        name,
        domain,
        vantage.region,
        age_seconds=max(sighting.age_seconds, 0.0),
        interval_seconds=record.interval_seconds,
        at=record.at,
        direct=direct,
        opinions={
            region: opinion_after(series, rise=probe.rise, fall=probe.fall)
            for region, series in direct.items()
        },
        front_doors={
            series.route or "": opinion_after(series, rise=probe.rise, fall=probe.fall).up
            for series in fronts
            if series.samples
        },
        answered_at_front=_last_answers(fronts),
        asked=_asked(record, max(sighting.age_seconds, 0.0), probe),
    )


def read_witnesses(sightings: Mapping[str, Sighting], traffic: Traffic) -> list[Witness]:
    """Every declared vantage, by name."""
    return [
        read_witness(name, traffic.vantages[name], sightings.get(name), traffic.probe)
        for name in sorted(traffic.vantages)
    ]


def testify(
    witness: Witness, region: str, probe: Probing, *, excused: Collection[str]
) -> Testimony:
    """What a vantage says of a region. Models that are `excused` fail elsewhere too: what they
    answer is not held against the region."""

    def silent(why: str, *, answers: bool = False) -> Testimony:
        return Testimony(witness.vantage, witness.domain, silence=why, answers=answers)

    if witness.silence:
        return silent(witness.silence)
    series = witness.direct.get(region)
    if series is None or not series.samples:
        return silent("has not probed it")
    samples = series.samples
    newest = samples[-1]
    age = witness.age_seconds
    # A blind round leaves no sample, and a clock that jumps leaves one from the future.
    if not -5.0 <= newest.seconds_ago + age <= 3 * witness.interval_seconds + 5.0:
        return silent(f"its last probe is {newest.seconds_ago + age:.0f} s old")
    opinion = witness.opinions[region]
    answers = any(sample.ok or sample.status is not None for sample in samples[-probe.fall :])
    if opinion.up is None:
        word = "good" if opinion.run > 0 else "bad"
        return silent(
            f"no opinion yet: {abs(opinion.run)} {word} in a row, "
            f"of {probe.rise if opinion.run > 0 else probe.fall}",
            answers=answers,
        )
    since_seconds = age + max(
        samples[0].seconds_ago if opinion.since is None else -opinion.since, 0.0
    )
    expires_in_days = _expires_in_days(series, witness.at)
    if opinion.up is False:
        failed = [sample for sample in samples if not sample.ok]
        trouble = _trouble(failed[-1]) if failed else "down"
        if newest.ok:
            trouble = f"{trouble}; now {opinion.run} good in a row, of {probe.rise}"
        vote = Vote.DOWN
        answered_ago = witness.answered_at_front.get(region)
        tried_ago = (failed or samples)[-min(probe.fall, len(failed or samples))].seconds_ago
        if answered_ago is not None and answered_ago <= tried_ago:
            # Clients go in by the front door. Whoever still answers there is not down.
            vote, answers = Vote.DIVIDED, True
            trouble = f"{trouble}, yet it answers at the front door"
        return Testimony(
            witness.vantage,
            witness.domain,
            vote,
            trouble=trouble,
            answers=answers,
            sick_seconds=since_seconds,
            expires_in_days=expires_in_days,
        )
    asked = witness.asked.get(region, Asked())
    wrong = [model for model in asked.wrong if model not in excused]
    if wrong and not asked.right and sum(asked.failures[model] for model in wrong) >= probe.fall:
        return Testimony(
            witness.vantage,
            witness.domain,
            Vote.DOWN,
            trouble="answers, but no golden request is answered right",
            answers=answers,
            sick_seconds=min(asked.wrong[model] for model in wrong),
            expires_in_days=expires_in_days,
        )
    mended = [asked.mended.get(model, math.inf) for model in asked.right]
    slow, quick_seconds, slow_seconds = _slowness(samples, age, probe)
    suspicion, silence_seconds = _suspicion(samples, witness.interval_seconds)
    return Testimony(
        witness.vantage,
        witness.domain,
        Vote.UP,
        trouble="" if newest.ok else _trouble(newest),
        slow=slow,
        suspicion=suspicion,
        answers=answers,
        sick_seconds=max(
            slow_seconds if slow else 0.0, silence_seconds if suspicion >= SUSPICION else 0.0
        ),
        well_seconds=min(since_seconds, max(mended, default=math.inf)),
        quick_seconds=quick_seconds,
        expires_in_days=expires_in_days,
    )


def _last_answers(fronts: Iterable[Series]) -> dict[str, float]:
    last: dict[str, float] = {}
    for series in fronts:
        for sample in series.samples:
            if sample.ok and sample.region is not None:
                ago = last.get(sample.region)
                if ago is None or sample.seconds_ago < ago:
                    last[sample.region] = sample.seconds_ago
    return last


def _asked(record: VantageRecord, age_seconds: float, probe: Probing) -> dict[str, Asked]:
    """By region. Where models take turns, many have one answer only: then that one counts. A model
    that was right at times is right or wrong by rise and fall."""
    oldest = GOLDEN_KEPT * record.interval_seconds - age_seconds
    answers = [answer for answer in record.golden if answer.seconds_ago <= oldest]
    right: dict[str, set[str]] = {}
    failed: dict[str, dict[str, list[float]]] = {}
    for answer in answers:
        if answer.ok:
            right.setdefault(answer.region, set()).add(answer.model)
        else:
            failed.setdefault(answer.region, {}).setdefault(answer.model, []).append(
                answer.seconds_ago
            )
    mixed: dict[tuple[str, str], list[tuple[bool, float]]] = {
        (region, model): []
        for region, models in failed.items()
        for model in models
        if model in right.get(region, ())
    }
    if mixed:
        for answer in answers:
            told = mixed.get((answer.region, answer.model))
            if told is not None:
                told.append((answer.ok, -answer.seconds_ago))
    mended: dict[str, dict[str, float]] = {}
    for (region, model), told in mixed.items():
        opinion = Opinion().after_all(told, rise=probe.rise, fall=probe.fall)
        since = opinion.run_since if opinion.since is None else opinion.since
        if opinion.up is False:
            right[region].discard(model)
            agos = failed[region][model]
            failed[region][model] = [ago for ago in agos if ago <= -(since or 0.0)]
        else:
            del failed[region][model]
            mended.setdefault(region, {})[model] = age_seconds - (since or 0.0)
    return {
        region: Asked(
            frozenset(right.get(region, ())),
            {model: age_seconds + agos[0] for model, agos in failed.get(region, {}).items()},
            mended.get(region, {}),
            {model: len(agos) for model, agos in failed.get(region, {}).items()},
        )
        for region in right.keys() | failed.keys()
    }


def _slowness(
    samples: tuple[Sample, ...], age_seconds: float, probe: Probing
) -> tuple[bool, float, float]:
    """Whether it is slow, by fall and rise over what was answered; how long it has been quick, and
    how long slow."""
    pace = [
        (sample.seconds <= probe.slow_seconds, -sample.seconds_ago)
        for sample in samples
        if sample.ok and sample.seconds is not None
    ]
    if all(quick for quick, _ in pace):
        return False, math.inf, 0.0
    held = Opinion(up=True).after_all(pace, rise=probe.rise, fall=probe.fall)
    if held.up:
        return False, math.inf if held.since is None else age_seconds - held.since, 0.0
    return True, 0.0, age_seconds - (held.since or 0.0)


def _suspicion(samples: tuple[Sample, ...], interval_seconds: float) -> tuple[float, float]:
    """Phi of the silence at the moment of writing, by the vantage's clock alone: how long the
    record then took to be read says nothing of the region."""
    newest = samples[-1]
    if newest.ok and newest.seconds_ago <= interval_seconds:
        return 0.0, 0.0
    answered = [sample.seconds_ago for sample in samples if sample.ok]
    if not answered:
        return 0.0, 0.0
    intervals = [older - newer for older, newer in pairwise(answered) if older > newer]
    return phi(answered[-1], intervals, at_least=interval_seconds), answered[-1]


def _trouble(sample: Sample) -> str:
    if sample.error == "status" and sample.status is not None:
        return f"status {sample.status}"
    if sample.error == "certificate" and sample.detail:
        return f"certificate: {sample.detail}"
    return sample.error or "failed"


def _expires_in_days(series: Series, at: datetime | None) -> float | None:
    if series.certificate_expires_at is None or at is None:
        return None
    return (_aware(series.certificate_expires_at) - _aware(at)).total_seconds() / 86_400


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
