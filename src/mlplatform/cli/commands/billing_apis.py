"""Bills that are asked for and not delivered: OpenCost's, AWS Cost Explorer's. What asking costs is
said first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from mlplatform.cli.costs import open_pricing
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.topology import Topology
    from mlplatform.cost.cost_analyzer import Office
    from mlplatform.cost.importing import Source
    from mlplatform.ports.billing import BillingApi


def sources_of(
    session: Session, office: Office, places: Sequence[str], *, yes: bool
) -> list[Source]:
    """Everything that is to be imported: exports as they lie there, and the answers of APIs, asked
    for now. `UsageError` where asking costs money and nobody agreed to it."""
    from mlplatform import wiring

    named = list(places) or [url.text for url in office.topology.cost.exports]
    apis = [text for text in named if wiring.is_billing(text)]
    rest = [text for text in named if text not in apis]
    found = office.sources(rest) if rest or not apis else []
    opened = [wiring.open_billing(text) for text in apis]
    today = datetime.now(UTC).date()
    for api in opened:
        _agree(session, office.topology, api, today, yes=yes)
    for number, api in enumerate(opened, start=1):
        found.append(_asked(session, office, api, today, number))
    return found


def _agree(
    session: Session, topology: Topology, api: BillingApi, today: date, *, yes: bool
) -> None:
    from mlplatform.core.errors import UsageError
    from mlplatform.core.money import Price

    if api.charged is None:
        return
    count = api.requests(today)
    price = open_pricing(topology).prices.find(*api.charged, today)
    cost = f"{price.of(count)} at least" if isinstance(price, Price) else "unknown"
    what = f"{api.url}: {count} requests, and one more for each further page: {cost}"
    session.say(what)
    if yes:
        return
    if not session.console.interactive:
        raise UsageError(
            f"not agreed to, and nobody to ask: {what}", hint="add --yes, if that is what you want"
        )
    if session.console.ask("Ask it? [y/N]").lower() not in {"y", "yes"}:
        raise UsageError(f"{api.url}: not asked; nothing was imported")


def _asked(session: Session, office: Office, api: BillingApi, today: date, number: int) -> Source:
    from mlplatform import wiring
    from mlplatform.core.store_url import StoreURL
    from mlplatform.cost.importing import Source

    folder = office.scratch / "asked" / str(number)
    folder.mkdir(parents=True)

    def put(name: str, body: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    session.say(f"asking {api.url}")
    count = api.fetch(today, put)
    session.say(f"{api.url}: answered {count} requests")
    return Source(api.url, wiring.open_store(StoreURL.parse(folder.as_uri())), folder)
