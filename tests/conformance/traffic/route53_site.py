"""Sites of the Route 53 actuator: a hosted zone of its own for each, on our strict fake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.session import Session

from mlplatform.adapters.route53 import Route53Traffic, open_traffic
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import Weights
from tests.features.route53_traffic.strict_route53 import (
    ZONE_ID,
    Record,
    StrictRoute53,
    strict_route53,
)

from .site import REGIONS, Site

NAME = "api.example.com."
HEALTH_CHECK = "11111111-2222-3333-4444-555555555555"
TARGETS = {region: (f"192.0.2.{number}",) for number, region in enumerate(REGIONS, start=1)}


def weighted(region: str, weight: int, **changed: object) -> Record:
    """A region's record set, as its operator made it."""
    record: Record = {
        "Name": NAME,
        "Type": "A",
        "SetIdentifier": region,
        "Weight": weight,
        "TTL": 30,
        "ResourceRecords": [{"Value": TARGETS.get(region, ("192.0.2.99",))[0]}],
        "HealthCheckId": HEALTH_CHECK,
    }
    record |= changed
    return {name: value for name, value in record.items() if value is not None}


def opened_on(
    service: StrictRoute53, *, options: str = "", secret: str | None = None
) -> Route53Traffic:
    """An adapter of its own, with the credentials of the service, or with wrong ones."""
    session = Session()
    session.set_credentials(service.access_key, secret or service.secret_key)
    text = f"route53://{ZONE_ID}/{NAME}?endpoint={service.url}&stall_seconds=5{options}"
    return open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS, session=session)


class Route53Site(Site):
    """`api` in the zone, with a weighted record for each region."""

    def __init__(self, service: StrictRoute53) -> None:
        self.service = service
        service.health_checks.add(HEALTH_CHECK)
        service.put(*(weighted(region, 10) for region in REGIONS))

    def open(self, *, options: str = "", secret: str | None = None) -> Route53Traffic:
        return opened_on(self.service, options=options, secret=secret)

    def change_by_hand(self, weights: Weights) -> None:
        self.service.put(*(weighted(region, weight) for region, weight in weights.items()))

    def remove(self) -> None:
        self.service.records.clear()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.service.cut = True
        yield
        self.service.cut = False

    @contextmanager
    def answers_lost(self) -> Iterator[None]:
        self.service.loses_answers = True
        yield
        self.service.loses_answers = False


@contextmanager
def route53(_: Path) -> Iterator[Site]:
    with strict_route53() as service:
        yield Route53Site(service)
