"""Which weights a rollout itself may have left in a region. Pure.

What else is found there, another hand has written: GitOps that reverts, a person in a hurry. On the
way there it is never written over; the rollout goes back, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlplatform.core.plan import Action, Plan
from mlplatform.rollout.plan.steps import Kind


def before(agreed: Plan, action: Action) -> Action | None:
    """The step that comes before `action` in its region."""
    last: Action | None = None
    for each in agreed.actions:
        if each.kind == Kind.APPROVE or each.region != action.region:
            continue
        if each.key == action.key:
            return last
        last = each
    return None


def share_before(agreed: Plan, action: Action) -> int:
    """Per cent that the version on trial has when `action` begins."""
    last = before(agreed, action)
    return int(last.parameters["weight"]) if last is not None else 0


def servers_before(agreed: Plan, action: Action) -> int:
    """Servers of the version on trial when `action` begins."""
    last = before(agreed, action)
    return int(last.parameters["new_servers"]) if last is not None else 0


def share_meanwhile(agreed: Plan, action: Action) -> int:
    """Per cent that the version on trial has while servers are replaced: what those that stay bear,
    before any go."""
    was, new = share_before(agreed, action), servers_before(agreed, action)
    serving = new + int(action.parameters["old_servers"])
    return max(was, 100 * new // serving) if serving else was


def may_have_left(
    agreed: Plan, action: Action, *, begun: bool = False, at_zero: bool = False
) -> frozenset[int]:
    """Per cent of the version on trial, any of which the rollout may have left there when `action`
    is taken up. `begun`: by somebody who did not end it, and may have done any part. `at_zero`: it
    crashed, and was given nothing until it is well."""
    found = {share_before(agreed, action)}
    last = before(agreed, action)
    if last is not None and last.kind == Kind.REPLACE:
        found = {share_meanwhile(agreed, last)}
    if begun:
        found |= {0, int(action.parameters["weight"])}
        if action.kind == Kind.REPLACE:
            found.add(share_meanwhile(agreed, action))
    if at_zero:
        found.add(0)
    return frozenset(found)


def by_another_hand(
    weights: Mapping[str, int], last_good: str, version: str, shares: frozenset[int]
) -> str:
    """What another hand has made of the weights; empty where they are as they were left."""
    there = {each: weight for each, weight in weights.items() if weight}
    left = [
        {each: weight for each, weight in ((last_good, 100 - s), (version, s)) if weight}
        for s in sorted(shares)
    ]
    if there in left:
        return ""
    said = ", ".join(f"{each} {weight} %" for each, weight in sorted(there.items())) or "nothing"
    ours = " or ".join(str(share) for share in sorted(shares))
    return f"weights there are {said}, and this rollout had left {version} {ours} %"
