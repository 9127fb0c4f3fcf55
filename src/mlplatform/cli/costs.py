"""What things cost by list prices, beside whatever is shown of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlplatform.cli.session import Session
from mlplatform.core.errors import UsageError

if TYPE_CHECKING:
    from mlplatform.core.money import Cost, Pricing
    from mlplatform.core.topology import Topology

_LEFT_OUT_SHOWN = 5


def open_pricing(topology: Topology) -> Pricing:
    """List prices over a topology, as they are today. `UsageError` for a table that cannot be
    read."""
    from mlplatform import wiring
    from mlplatform.core.money import Pricing

    return Pricing(wiring.open_prices(topology), topology, datetime.now(UTC).date())


def pricing_of(session: Session, topology: Topology) -> Pricing | None:
    """The same, where money is beside the point: who leaves a region at night must not be stopped
    by a table of prices."""
    try:
        return open_pricing(topology)
    except UsageError as error:
        session.console.warn(f"nothing is priced: {error}")
        return None


def tell_cost(session: Session, cost: Cost | None) -> None:
    """The total for people, and what it leaves out."""
    from mlplatform.core.money import Basis

    if cost is None or not cost.items:
        return
    if any(cost.total(basis) for basis in Basis):
        session.say(f"cost by list prices: {cost}")
        tell_left_out(session, cost.left_out)
    else:
        first, *more = cost.left_out
        others = f" (and {len(more)} more)" if more else ""
        session.say(f"cost by list prices: unknown: {first}{others}")


def tell_left_out(session: Session, left_out: tuple[str, ...]) -> None:
    """Why something is in no total."""
    for reason in left_out[:_LEFT_OUT_SHOWN]:
        session.say(f"left out: {reason}")
    if (more := len(left_out) - _LEFT_OUT_SHOWN) > 0:
        session.say(f"left out: {more} more; --output json has them all")
