"""The `cost` section of `topology.yaml`, owned by cost: where bills are delivered, and how they are
read. Relative paths start at the topology's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from mlplatform.core.section import OneOrMore, Section, Store

TagName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
"""What reports call a tag: `--by team`."""


class Cost(Section):
    """Owned by cost."""

    exports: Annotated[tuple[Store, ...], OneOrMore] = ()
    """Folders that bills are delivered to. Their shape is recognised by their columns."""
    ledger: Store | None = None
    """Where deliveries are kept; `cost` in the first control store, unless given."""
    prices: str | None = None
    """A table of prices: provider,region,sku,unit,price,currency,valid_from,source."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """The currency of reports, by ISO 4217."""
    rates: str | None = None
    """A table of exchange rates: from,to,rate,valid_from. Without it no currency is converted."""
    tags: Mapping[TagName, Annotated[tuple[str, ...], OneOrMore]] = Field(default_factory=dict)
    """By what reports call it: the tags that say it, the first one that a charge has."""
    resources: bool = True
    """Whether the ledger keeps resources apart; without them it is a fraction of its size, and
    waste cannot be found."""
