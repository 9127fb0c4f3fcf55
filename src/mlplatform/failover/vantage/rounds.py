"""What a vantage asks in a round, and what its record says afterwards. Pure.

The record is all that a prober remembers, so that one which is started anew, or run by cron, goes
on where the last one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mlplatform.core.golden import GoldenRequest
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import canonical
from mlplatform.core.topology import Topology
from mlplatform.core.traffic import Probing
from mlplatform.failover.evidence.record import (
    GOLDEN_KEPT,
    SAMPLES_KEPT,
    GoldenAnswer,
    Path,
    Sample,
    Series,
    VantageRecord,
)
from mlplatform.failover.verdict.opinion import opinion_before
from mlplatform.ports.probe import Answer

HEALTH_PATHS = ("/health", "/v2/health/ready")
"""What runbooks ask, and what the Open Inference Protocol has where servers know no /health."""
NOT_THERE = frozenset({404, 405, 501})
"""A server that answers so does not know the path."""
REGION_HEADER = "x-mlplatform-region"
"""By which an answer through the front door says whose it is."""


# --- what is due --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for its health: a region, or the front door of a route."""

    region: str
    path: Path
    route: str | None
    url: str

    def __str__(self) -> str:
        return self.region or f"{self.route} (front door)"


def targets_of(topology: Topology) -> tuple[Target, ...]:
    """Every region that has an endpoint, then every route that has a front door."""
    regions = [
        Target(name, Path.DIRECT, None, region.endpoint)
        for name, region in topology.regions.items()
        if region.endpoint is not None
    ]
    routes = [
        Target("", Path.FRONT_DOOR, name, route.front_door)
        for name, route in topology.traffic.routes.items()
        if route.front_door is not None
    ]
    return (*regions, *routes)


class Rotation:
    """In which order the models of each region get their golden requests."""

    def __init__(self, topology: Topology, load: Mapping[str, float]) -> None:
        """`load` by model, where it is known: the busiest come first, the others as they stand in
        the topology."""
        order: dict[str, list[ModelVersion]] = {name: [] for name in topology.regions}
        for name in sorted(topology.models, key=lambda model: -load.get(model, 0.0)):
            model = topology.models[name]
            if model.version is not None:
                for region in model.regions:
                    order[region].append(ModelVersion(name, model.version))
        self._order = order
        self._place = {
            region: {subject.model: place for place, subject in enumerate(subjects)}
            for region, subjects in order.items()
        }

    def due(
        self,
        region: str,
        last: str | None,
        budget: int,
        without: Collection[ModelVersion] = frozenset(),
    ) -> tuple[ModelVersion, ...]:
        """Whose turn it is in `region` after `last`: `budget` models at the most, each once, those
        `without` golden requests left out."""
        subjects = self._order[region]
        start = self._place[region].get(last, -1) + 1 if last is not None else 0
        found: list[ModelVersion] = []
        for step in range(len(subjects)):
            if len(found) == budget:
                break
            subject = subjects[(start + step) % len(subjects)]
            if subject not in without:
                found.append(subject)
        return tuple(found)


# --- what an answer says ------------------------------------------------------------------------


def sample_of(answer: Answer, *, seconds_ago: float) -> Sample:
    """An answer to a question of health."""
    error, detail = answer.error, answer.detail
    if not error and not answer.good:
        error, detail = "status", f"HTTP {answer.status}"
    return Sample(
        seconds_ago=_short(seconds_ago),
        ok=answer.good,
        region=answer.headers.get(REGION_HEADER),
        seconds=_short(answer.seconds),
        dns_seconds=_short(answer.dns_seconds),
        connect_seconds=_short(answer.connect_seconds),
        tls_seconds=_short(answer.tls_seconds),
        first_byte_seconds=_short(answer.first_byte_seconds),
        status=answer.status,
        error=error,
        detail=detail,
    )


def served_version(body: bytes) -> tuple[str | None, str | None]:
    """Version and digest that a model's metadata names: of the `version` that answers when none is
    asked for, or of the only one. None for what it does not say."""
    told = _object(body)
    versions, digest = told.get("versions"), told.get("digest")
    only = versions[0] if isinstance(versions, list) and len(versions) == 1 else None
    one = told.get("version") or only
    return (
        one if isinstance(one, str) else None,
        digest if isinstance(digest, str) and digest else None,
    )


def golden_answer(
    region: str,
    subject: ModelVersion,
    golden: GoldenRequest,
    answer: Answer,
    *,
    digest: str | None,
) -> GoldenAnswer:
    """What an inference that was to answer `golden` says of a region."""
    told = _object(answer.body)
    version = told.get("model_version")
    if answer.error:
        detail = f"{answer.error}: {answer.detail}"
    elif not answer.good:
        said = told.get("error")
        detail = f"HTTP {answer.status}" + (f": {said[:200]}" if isinstance(said, str) else "")
    else:
        detail = golden.difference(told)
    return GoldenAnswer(
        region=region,
        model=subject.model,
        version=version if isinstance(version, str) and version else subject.version,
        digest=digest,
        seconds_ago=0.0,
        ok=not detail,
        seconds=_short(answer.seconds),
        detail=detail,
    )


def blindness(answers: Mapping[str, Answer]) -> str:
    """Why a vantage that got these answers of its references does not trust its own eyes; empty if
    it does. Any one that answers at all will do. One without references never knows."""
    if not answers or any(answer.status is not None for answer in answers.values()):
        return ""
    url, answer = next(iter(answers.items()))
    others = f", and {len(answers) - 1} more" if len(answers) > 1 else ""
    return f"no reference could be reached: {url}: {answer.error}: {answer.detail}{others}"


# --- the record ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Met:
    """What was met since the last record; ages are as of this one."""

    samples: tuple[tuple[Target, Sample, datetime | None], ...] = ()
    """With the certificate's end, where one was in order."""
    golden: tuple[GoldenAnswer, ...] = ()
    blind: str = ""
    turns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heading:
    """What a record says of itself."""

    vantage: str
    round: int
    at: datetime
    interval_seconds: float
    writer: str


def next_record(
    before: VantageRecord | None,
    elapsed_seconds: float,
    heading: Heading,
    met: Met,
    targets: Sequence[Target],
    probing: Probing,
) -> VantageRecord:
    """The record after a round: what the one `before` said, `elapsed_seconds` older, and what was
    met. What is no longer a target is forgotten."""
    old = aged(before, elapsed_seconds) if before is not None else None
    series = {(each.region, each.path, each.route): each for each in old.series} if old else {}
    grown = []
    for target in targets:
        key = (target.region, target.path, target.route)
        was = series.get(key) or Series(region=target.region, path=target.path, route=target.route)
        new = [(sample, end) for where, sample, end in met.samples if where == target]
        ends = [end for _, end in new if end is not None]
        grown.append(
            trimmed(
                was.model_copy(
                    update={
                        "samples": (*was.samples, *(sample for sample, _ in new)),
                        "certificate_expires_at": ends[-1] if ends else was.certificate_expires_at,
                    }
                ),
                SAMPLES_KEPT,
                probing,
            )
        )
    regions = {target.region for target in targets}
    answers: dict[str, list[GoldenAnswer]] = {}
    for answer in (*(old.golden if old else ()), *met.golden):
        if answer.region in regions:
            answers.setdefault(answer.region, []).append(answer)
    turns = {**(old.turns if old else {}), **met.turns}
    return VantageRecord(
        vantage=heading.vantage,
        round=heading.round,
        at=heading.at,
        interval_seconds=heading.interval_seconds,
        writer=heading.writer,
        blind=met.blind,
        series=tuple(grown),
        golden=tuple(each for one in answers.values() for each in one[-GOLDEN_KEPT:]),
        turns={region: model for region, model in turns.items() if region in regions},
    )


def aged(record: VantageRecord, seconds: float) -> VantageRecord:
    """The same record, `seconds` later. A clock that went back makes nothing younger."""
    if seconds <= 0:
        return record

    def older(each: Sample | GoldenAnswer) -> dict[str, float]:
        return {"seconds_ago": round(each.seconds_ago + seconds, 3)}

    def older_series(each: Series) -> dict[str, object]:
        samples = tuple(sample.model_copy(update=older(sample)) for sample in each.samples)
        if each.up_seconds_ago is None:
            return {"samples": samples}
        return {"samples": samples, "up_seconds_ago": round(each.up_seconds_ago + seconds, 3)}

    return record.model_copy(
        update={
            "series": tuple(each.model_copy(update=older_series(each)) for each in record.series),
            "golden": tuple(each.model_copy(update=older(each)) for each in record.golden),
        }
    )


def trimmed(series: Series, kept: int, probing: Probing) -> Series:
    """The newest `kept` samples. What the others amounted to is left behind as the opinion before
    them, so that who counts from there comes to the same end."""
    surplus, samples = series.samples[:-kept], series.samples[-kept:]
    if not surplus:
        return series
    held = opinion_before(series).after_all(
        ((sample.ok, -sample.seconds_ago) for sample in surplus),
        rise=probing.rise,
        fall=probing.fall,
    )
    return series.model_copy(
        update={
            "samples": samples,
            "up": held.up,
            "up_seconds_ago": None if held.since is None else round(-held.since, 3),
            "run": held.run,
        }
    )


def encoded(record: VantageRecord) -> bytes:
    """The record as it is stored; what is as usual is left out."""
    return canonical(record.model_dump(mode="json", exclude_defaults=True))


def newest(bodies: Iterable[bytes]) -> VantageRecord | None:
    """The newest record among copies, some of which may be old or broken. `ValueError` if all are
    broken, None if there are none."""
    found: VantageRecord | None = None
    broken: ValueError | None = None
    for body in bodies:
        try:
            record = VantageRecord.model_validate_json(body)
        except ValueError as error:
            broken = error
            continue
        if found is None or record.round > found.round:
            found = record
    if found is None and broken is not None:
        raise broken
    return found


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _short(seconds: float | None) -> float | None:
    """Microseconds are plenty."""
    return None if seconds is None else round(seconds, 6)
