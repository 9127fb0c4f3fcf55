"""Whom to tell of an alarm: what is new to them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from mlplatform.cost.anomalies.records import Alarm

Told = Collection[tuple[str, int]]
"""Alarms by id, and how much of their stories somebody has been told."""


def news(alarms: Iterable[Alarm], told: Told, answered: Callable[[Alarm], bool]) -> list[Alarm]:
    """Those of which somebody has yet to be told. One that stands, unless somebody has answered it
    or it is over the alarm budget; and what became of one that was told, even if it is answered: a
    page that nobody takes back is one that nobody believes next time."""
    known = {name for name, _ in told}
    return [
        alarm
        for alarm in alarms
        if (alarm.id, len(alarm.story)) not in told
        and (
            alarm.id in known
            or (alarm.state.stands and not alarm.held_back and not answered(alarm))
        )
    ]
