"""Whether somebody who may has said yes, and to what. Pure.

A yes is to one operation. A plan's name has no date: one whose version was returned may be planned
again to the byte, and whoever agreed to it last week was not asked today. So what is agreed to is a
plan and an occasion: how often it was carried out before. An operation that is gone on with, by
whomever, is the same occasion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlplatform.core.plan import Action, Plan
from mlplatform.rollout.plan.steps import Kind


class Said(Protocol):
    """A yes, whoever keeps it."""

    @property
    def by(self) -> str: ...

    @property
    def verified(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What has become of the question."""

    by: str = ""
    """Whose yes counts; empty: nobody's so far."""
    waits: str = ""
    """What is still needed, for people."""


def occasion(plan: str, before: int) -> str:
    """Under which name a plan is agreed to, when so many operations with it are over: its own the
    first time, `<name>-2` the second."""
    return f"{plan}-{before + 1}" if before else plan


def asked_of(plan: Plan) -> list[Action]:
    """Steps of a plan that wait for a yes."""
    return [action for action in plan.actions if action.kind == Kind.APPROVE]


def standing_of(asked: Action, plan: str, approvals: Sequence[Said], before: int = 0) -> Standing:
    """Where the yes that a step of the plan of this name waits for stands, and how it is given."""
    approvers = [str(each) for each in asked.parameters.get("approvers", ())]
    stands = standing(approvals, approvers, before)
    if not stands.waits:
        return stands
    return Standing(waits=f"{stands.waits}: mlplatform rollout approve {plan[:12]}")


def is_named(who: Said, approvers: Sequence[str]) -> bool:
    """Whether somebody may do what approvers may: anybody, where none is named."""
    return not approvers or bool(who.verified and who.by in approvers)


def standing(approvals: Sequence[Said], approvers: Sequence[str], before: int = 0) -> Standing:
    """Where approvers are named, one of them has to be who says yes, and it has to be proven: a
    name that somebody typed is nobody's. Where none is named, anybody's yes will do. `before`: how
    many operations with the plan are over, to which people may have said yes."""
    for each in approvals:
        if not approvers:
            return Standing(by=each.by if each.verified else f"{each.by} (unverified)")
        if is_named(each, approvers):
            return Standing(by=each.by)
    again = " to its being applied again" if before else ""
    if not approvers:
        return Standing(waits=f"nobody has said yes yet{again}")
    others = [
        f"{each.by}, who is not named" if each.verified else f"{each.by}, whom nobody verified"
        for each in approvals
    ]
    said = f"; {', '.join(others)} did" if others else ""
    return Standing(waits=f"{' or '.join(approvers)} has not said yes yet{again}{said}")
