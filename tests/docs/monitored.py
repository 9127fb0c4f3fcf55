"""The stage of the page about prices and waste: the bill of the page about cost, and a Prometheus
that has watched GPUs in its three regions for two days."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.docs.billed import bill
from tests.features.cost.gpus.two_days import World
from tests.real.servers.catalogue import prometheus
from tests.real.servers.launch import running

ROUTE = """\
traffic:
  routes:
    api:
      actuator: "caddy://127.0.0.1:2019/api"
      models: [resnet50]
      weights: {us-east-1: 100, eu-west-1: 0}
"""
PRICES = """\
provider,region,sku,unit,price,currency,valid_from,source
aws,eu-west-1,gpu/NVIDIA-L4,hour,0.98,USD,2026-01-01,contract 4711
"""


@contextmanager
def monitored(folder: Path) -> Iterator[None]:
    """Prepare the folder, and keep a Prometheus running."""
    bill(folder)
    (folder / "prices.csv").write_text(PRICES)
    history = World().text(datetime.now(UTC))
    with running("prometheus", start=partial(prometheus, history=history)) as endpoint:
        topology = folder / "topology.yaml"
        text = topology.read_text().replace('/eu-west-1"}', '/eu-west-1", price_zone: eu-west-1}')
        text += f'  prices: prices.csv\n{ROUTE}prometheus: {{url: "{endpoint.url}"}}\n'
        topology.write_text(text)
        yield
