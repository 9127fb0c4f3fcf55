"""A topology's budgets, held against the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from mlplatform.core.cost import Budget
from mlplatform.core.errors import UsageError
from mlplatform.cost.budgets.judging import Judgement, furthest, judge
from mlplatform.cost.cube import Measure
from mlplatform.cost.daily import costs_by_day
from mlplatform.cost.ledger import Delivery, standing
from mlplatform.cost.outlook import HISTORY_DAYS, look_ahead
from mlplatform.cost.spending import Spender, covered_until


def judge_all(
    budgets: Mapping[str, Budget],
    spender: Spender,
    deliveries: Sequence[Delivery],
    partial: Collection[date] = (),
) -> list[Judgement]:
    """Every budget; none if the deliveries hold nothing. `partial`: days of which charges are still
    to come. `UsageError` names the budget whose currency no rate leads to."""
    ends = covered_until(standing(deliveries))
    if not ends:
        return []
    last = max(ends.values())
    found = []
    for name, budget in budgets.items():
        currency = budget.currency or spender.currency
        scope = budget.scope
        try:
            daily = costs_by_day(
                replace(spender, currency=currency),
                deliveries,
                list(scope),
                last - timedelta(days=HISTORY_DAYS - 1),
                last,
                Measure(budget.cost),
                only=[tuple(scope.values())] if scope else None,
            )
        except UsageError as error:
            raise UsageError(f"cost.budgets.{name}: {error}", hint=error.hint) from error
        keys = tuple(scope.values())
        # What nothing was ever charged for has cost nothing, on each day that a bill has.
        costs = daily.rows.get(keys, daily.total())
        (outlook,) = look_ahead(daily, {keys: costs}, furthest(budget, last), partial)
        found.append(judge(name, budget, currency, last, outlook))
    return found
