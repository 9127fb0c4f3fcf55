"""Who it is that approves. A name is proven by somebody else, or it is only what was typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlplatform.core.errors import MlplatformError
from mlplatform.ports.identity import Identity, Voucher


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody, and why others did not vouch for them."""

    identity: Identity
    doubts: tuple[str, ...] = ()


def who_is_it(vouchers: Iterable[Voucher], approvers: Sequence[str], typed: Identity) -> Who:
    """The first name that is proven and may approve, else the first that is proven, else what was
    `typed`. Nobody is asked after one is found who may."""
    proven: Identity | None = None
    doubts: list[str] = []
    for voucher in vouchers:
        try:
            found = voucher.vouch()
        except MlplatformError as error:
            told = f"{error}; {error.hint}" if error.hint else str(error)
            doubts.append(told if voucher.name in told else f"{voucher.name}: {told}")
            continue
        if found is None:
            continue
        if not approvers or found.by in approvers:
            return Who(found, tuple(doubts))
        proven = proven or found
    return Who(proven or typed, tuple(doubts))
