"""Tables of list prices: the one that comes with the product, and the operator's own.

The shipped table holds what providers' public lists say, each line with the page that says it and
the day from which that is known; what has no such page is not in it. It ages: `cost.prices` in the
topology names a table of one's own, which goes before it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mlplatform.core.errors import UsageError
from mlplatform.core.money import Price, Prices, parse_prices

_SHIPPED = "list_prices.csv"


def open_prices(own: Path | None) -> Prices:
    """The shipped table, and the operator's before it. `UsageError` if that cannot be read."""
    return Prices(own=read_table(own) if own is not None else (), listed=shipped())


def shipped() -> list[Price]:
    """The table that comes with the product."""
    text = files("mlplatform.adapters").joinpath(_SHIPPED).read_text(encoding="utf-8")
    return parse_prices(text, _SHIPPED)


def read_table(path: Path) -> list[Price]:
    """A table out of a file."""
    try:
        return parse_prices(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8", hint="save it as CSV in UTF-8") from error
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}", hint="`cost.prices` in the topology names it"
        ) from error
