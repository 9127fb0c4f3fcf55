"""Who it is that approves a rollout, or orders something of it. A name is proven by somebody else,
or it is only what was typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlplatform.core.errors import Denied, MlplatformError
from mlplatform.ports.identity import Identity, Voucher
from mlplatform.rollout.course.approval import is_named


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody, and why others did not vouch for them."""

    identity: Identity
    doubts: tuple[str, ...] = ()


def who_is_it(
    vouchers: Iterable[Callable[[], Voucher]], approvers: Sequence[str], typed: Identity
) -> Who:
    """The first name that is proven and may approve, else the first that is proven, else what was
    `typed`. Nobody is asked after one is found who may. A voucher that cannot be opened is one that
    does not vouch."""
    proven: Identity | None = None
    doubts: list[str] = []
    for opened in vouchers:
        name = ""
        try:
            voucher = opened()
            name = voucher.name
            found = voucher.vouch()
        except MlplatformError as error:
            told = f"{error}; {error.hint}" if error.hint else str(error)
            doubts.append(told if name in told else f"{name}: {told}")
            continue
        if found is None:
            continue
        if not approvers or found.by in approvers:
            return Who(found, tuple(doubts))
        proven = proven or found
    return Who(proven or typed, tuple(doubts))


def require_named(who: Identity, approvers: Sequence[str], what: str) -> None:
    """`Denied` for somebody who may not do what approvers alone may, where any are named."""
    if not is_named(who, approvers):
        raise Denied(
            f"{who.by}{'' if who.verified else ' (unverified)'} may not {what}: "
            f"rollout.waves.approvers names {', '.join(approvers)}",
            hint="let one of them run this, where it can be proven who they are",
        )
