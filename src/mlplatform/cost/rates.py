"""Exchange rates, as a table that the operator gives: `cost.rates`. None is ever assumed.

from,to,rate,valid_from
EUR,USD,1.0842,2026-10-01
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

from mlplatform.core.errors import UsageError

COLUMNS = ("from", "to", "rate", "valid_from")


@dataclass(frozen=True, slots=True)
class Rates:
    """By the two currencies, what one is worth in the other from a day on."""

    steps: Mapping[tuple[str, str], Sequence[tuple[date, Decimal]]] = field(default_factory=dict)

    def rate(self, currency: str, wanted: str, day: date) -> Decimal | None:
        """What one unit of `currency` is worth on a day; None if the table does not say."""
        if currency == wanted:
            return Decimal(1)
        steps = self.steps.get((currency, wanted), ())
        place = bisect_right([since for since, _ in steps], day)
        return steps[place - 1][1] if place else None


def read_rates(path: Path) -> Rates:
    """Read a table. `UsageError` names the line and what is wrong with it."""
    steps: dict[tuple[str, str], list[tuple[date, Decimal]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise UsageError(
                    f"{path}: no column {', '.join(sorted(missing))}",
                    hint=f"the first line is: {','.join(COLUMNS)}",
                )
            for row in reader:
                day, rate = _step(row, path, reader.line_num)
                steps.setdefault((row["from"].strip(), row["to"].strip()), []).append((day, rate))
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}", hint="`cost.rates` in the topology names it"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="save it as CSV in UTF-8") from error
    return Rates({pair: sorted(several) for pair, several in steps.items()})


def _step(row: Mapping[str, str | None], path: Path, line: int) -> tuple[date, Decimal]:
    try:
        day = date.fromisoformat((row["valid_from"] or "").strip())
        rate = Decimal((row["rate"] or "").strip())
    except (ValueError, InvalidOperation) as error:
        raise UsageError(
            f"{path}: line {line}: no rate and no day",
            hint="write EUR,USD,1.0842,2026-10-01",
        ) from error
    if not rate.is_finite() or rate <= 0:
        raise UsageError(f"{path}: line {line}: {rate} is no rate", hint="rates are above 0")
    return day, rate
