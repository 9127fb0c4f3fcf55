"""Which models leave so that another fits: least recently used first, by bytes, decided purely.

A model that a request runs on never leaves, nor one that is pinned, nor one that was used a moment
ago: where the models in use do not fit together, taking turns would load for ever (thrashing), and
a refusal says it better. Nothing leaves in vain: if all that may leave is not enough, all stay.

ModelMesh keeps its models so too, as a cache by bytes with the least recently used leaving first
(github.com/kserve/modelmesh).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

Key = tuple[str, str]
"""A model and a version."""


class Where(Enum):
    """Which memory is meant."""

    HOST = "host"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Held:
    """A version in memory, or on its way there. `used_at` in seconds, on any clock."""

    key: Key
    host_bytes: int
    used_at: float = 0.0
    gpu_bytes: int = 0
    busy: bool = False
    pinned: bool = False

    def bytes_of(self, where: Where) -> int:
        """What it takes there."""
        return self.host_bytes if where is Where.HOST else self.gpu_bytes


@dataclass(frozen=True, slots=True)
class Room:
    """What is to leave. Where `lacking_bytes` is above zero it would not be enough, nobody leaves,
    and `reason` says who stays and why."""

    leave: tuple[Key, ...] = ()
    lacking_bytes: int = 0
    reason: str = ""


def make_room(
    need_bytes: int,
    held: Sequence[Held],
    *,
    budget_bytes: int | None,
    free_bytes: int | None,
    now: float,
    idle_seconds_min: float,
) -> Room:
    """Who leaves so that `need_bytes` more fit into the budget for models and into what the host
    has free. None: there is no such limit, or it is not known, and then it forbids nothing."""
    over_budget = (
        0 if budget_bytes is None else sum(each.host_bytes for each in held) + need_bytes
    ) - (budget_bytes or 0)
    over_free = 0 if free_bytes is None else need_bytes - free_bytes
    wanted = max(over_budget, over_free, 0)
    if not wanted:
        return Room()
    if budget_bytes is not None and need_bytes > budget_bytes:
        return Room((), need_bytes - budget_bytes, f"all models together may take {budget_bytes}")
    leave, freed = _chosen(wanted, _may_leave(held, now, idle_seconds_min), Where.HOST)
    if freed >= wanted:
        return Room(leave)
    return Room((), wanted - freed, _who_stays(held, now, idle_seconds_min))


def relieve(
    excess_bytes: int,
    held: Sequence[Held],
    *,
    where: Where,
    now: float,
    idle_seconds_min: float,
) -> tuple[Key, ...]:
    """Who leaves when memory has become tight: as many as it takes, or as many as may."""
    return _chosen(excess_bytes, _may_leave(held, now, idle_seconds_min), where)[0]


def _may_leave(held: Iterable[Held], now: float, idle_seconds_min: float) -> list[Held]:
    """Least recently used first; the names settle a tie, so that a decision can be repeated."""
    return sorted(
        (
            each
            for each in held
            if not each.busy and not each.pinned and now - each.used_at >= idle_seconds_min
        ),
        key=lambda each: (each.used_at, each.key),
    )


def _chosen(
    wanted_bytes: int, candidates: Sequence[Held], where: Where
) -> tuple[tuple[Key, ...], int]:
    """The least recently used until it is enough; then whoever, the most recently used first, is
    not needed for that after all. So small old ones stay where one large one must go anyway."""
    chosen: list[Held] = []
    freed = 0
    for each in candidates:
        if freed >= wanted_bytes:
            break
        if each.bytes_of(where) > 0:
            chosen.append(each)
            freed += each.bytes_of(where)
    for each in reversed(chosen.copy()):
        if freed - each.bytes_of(where) >= wanted_bytes:
            chosen.remove(each)
            freed -= each.bytes_of(where)
    return tuple(each.key for each in chosen), freed


def _who_stays(held: Iterable[Held], now: float, idle_seconds_min: float) -> str:
    counts = {"pinned": 0, "busy": 0, "used a moment ago": 0}
    for each in held:
        if each.pinned:
            counts["pinned"] += 1
        elif each.busy:
            counts["busy"] += 1
        elif now - each.used_at < idle_seconds_min:
            counts["used a moment ago"] += 1
    told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    return f"of the models there, {told} stay" if told else "no model is there that could leave"
