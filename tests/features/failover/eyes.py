"""What vantages saw of a region, drawn: a line for each vantage, a sign for each round, the newest
on the right, 10 s apart.

    fra        .....xxx
    lon/a      .....xxx      resnet=..  bert=xx     front=.x
    sin        blind
    us         ........      stands in the region `us`: it has no vote on it

`.` answered · `s` answered slowly · `x` timeout · `r` refused · `c` certificate · `5` status 503
`_` no probe that round. In front, `+` or `-`: what it held before. `name/domain` where vantages
fail together; else a vantage is a domain of its own. Instead of rounds, why there are none:
`absent`, `unreadable`, `blind`, `stale`, `behind` and `ahead` (its clock, by an hour).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from mlplatform.core.seen import Unknown
from mlplatform.core.traffic import Probing, Route, Safety, Traffic, Vantage
from mlplatform.failover.evidence.record import (
    Evidence,
    GoldenAnswer,
    Outside,
    Path,
    Sample,
    Series,
    Sighting,
    VantageRecord,
)

INTERVAL_SECONDS = 10.0
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
REGION = "us"

SIGNS: Mapping[str, Mapping[str, object]] = {
    ".": {"ok": True, "seconds": 0.08, "status": 200},
    "s": {"ok": True, "seconds": 0.9, "status": 200},
    "x": {"ok": False, "error": "timeout"},
    "r": {"ok": False, "error": "refused"},
    "c": {"ok": False, "error": "certificate", "detail": "expired on 2026-02-28"},
    "5": {"ok": False, "error": "status", "status": 503, "seconds": 0.05},
}


@dataclass(frozen=True)
class Row:
    """One vantage's line."""

    name: str
    domain: str = ""
    rounds: str = ""
    """Signs, or a word."""
    golden: Mapping[str, str] = field(default_factory=dict)
    front: str | None = None

    @property
    def own(self) -> bool:
        return self.name == REGION

    @property
    def vantage(self) -> Vantage:
        return Vantage(region=REGION if self.own else None, domain=self.domain)


def rows(picture: str) -> list[Row]:
    drawn = []
    for line in filter(None, (line.strip() for line in picture.splitlines())):
        who, rounds, *more = line.split()
        name, _, domain = who.partition("/")
        told = dict(entry.split("=") for entry in more)
        drawn.append(Row(name, domain, rounds, told, told.pop("front", None)))
    return drawn


def samples(signs: str, region: str | None = None) -> tuple[Sample, ...]:
    last = len(signs) - 1
    return tuple(
        Sample.model_validate(
            {"seconds_ago": INTERVAL_SECONDS * (last - n), "region": region, **SIGNS[sign]}
        )
        for n, sign in enumerate(signs)
        if sign != "_"
    )


def direct(signs: str, region: str = REGION) -> Series:
    before = {"+": True, "-": False}.get(signs[:1])
    return Series(region=region, path=Path.DIRECT, samples=samples(signs.lstrip("+-")), up=before)


def record(row: Row, *, region: str = REGION, round_: int = 1) -> VantageRecord:
    series = [direct(row.rounds, region)]
    if row.front is not None:
        series.append(
            Series(
                region="",
                path=Path.FRONT_DOOR,
                route="api",
                samples=samples(row.front, region),
            )
        )
    golden = [
        GoldenAnswer(
            region=region,
            model=model,
            version="v1",
            seconds_ago=INTERVAL_SECONDS * (len(signs) - 1 - n),
            ok=sign == ".",
        )
        for model, signs in row.golden.items()
        for n, sign in enumerate(signs)
        if sign != "_"
    ]
    return VantageRecord(
        vantage=row.name,
        round=round_,
        at=AT,
        interval_seconds=INTERVAL_SECONDS,
        series=tuple(series),
        golden=tuple(sorted(golden, key=lambda answer: -answer.seconds_ago)),
    )


def sighting(row: Row) -> Sighting:
    match row.rounds:
        case "absent":
            return Sighting(Unknown("no record"))
        case "unreadable":
            return Sighting(Unknown("control store: timed out"))
        case "blind":
            blind = record(replace(row, rounds="........")).model_copy(
                update={"blind": "none of its 3 references answers"}
            )
            return Sighting(blind, 3.0)
        case "stale":
            return Sighting(record(replace(row, rounds="xxxxxxxx")), 60.0)
        case "behind":
            return Sighting(record(replace(row, rounds="xxxxxxxx")), 3600.0)
        case "ahead":
            return Sighting(record(replace(row, rounds="xxxxxxxx")), -3600.0)
    return Sighting(record(row), 3.0)


def traffic_of(drawn: list[Row], *, fall: int = 3, rise: int = 5, domains: int = 3) -> Traffic:
    return Traffic(
        vantages={row.name: row.vantage for row in drawn},
        routes={"api": Route(actuator="memory://api", weights={REGION: 50, "eu": 50})},
        probe=Probing(interval_seconds=INTERVAL_SECONDS, fall=fall, rise=rise),
        safety=Safety(domains=domains),
    )


def outside(words: str | None) -> dict[str, Outside | Unknown]:
    """`99.9% 120/s 0.1s`, any of them; `nan`, `empty`, `unknown`; None: there is no Prometheus."""
    if words is None:
        return {}
    if words == "unknown":
        return {REGION: Unknown("http://prometheus: 503")}
    if words == "empty":
        return {REGION: Outside()}
    if words == "nan":
        nan = float("nan")
        return {REGION: Outside(nan, nan, nan)}
    said: dict[str, float] = {}
    for word in words.split():
        if word.endswith("%"):
            said["success_ratio"] = float(word[:-1]) / 100
        elif word.endswith("/s"):
            said["requests_per_second"] = float(word[:-2])
        else:
            said["latency_seconds"] = float(word[:-1])
    return {REGION: Outside(**said)}


def seen(picture: str, callers: str | None = None) -> Evidence:
    return Evidence(
        vantages={row.name: sighting(row) for row in rows(picture)}, outside=outside(callers)
    )


def expiring(evidence: Evidence, vantage: str, days: float) -> Evidence:
    """The same, with a certificate that has so many days left."""
    held = evidence.vantages[vantage]
    assert isinstance(held.record, VantageRecord)
    at = AT + timedelta(days=days)
    series = tuple(
        each.model_copy(update={"certificate_expires_at": at}) for each in held.record.series
    )
    told = replace(held, record=held.record.model_copy(update={"series": series}))
    return replace(evidence, vantages={**evidence.vantages, vantage: told})
