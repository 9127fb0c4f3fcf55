"""The stage of the page about cost: bills as a cloud would have delivered them this morning, what
it delivers once more, what the servers counted, and a journal that knows of a rollout."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from mlplatform.cli.demo.bill import SERVERS, Cloud, Day
from mlplatform.cli.demo.cost import AFTER, BEFORE, HOUR, MINUTES, MODEL, SCALED, write_rollout

COST = """\
cost:
  exports: ["file://{folder}/bills"]
  tags: {{model: [mlplatform-model, model], team: [team]}}
  budgets:
    platform: {{amount: 20000}}
    ireland: {{amount: 2000, region: eu-west-1}}
"""
REQUESTS = 1_200_000
"""A day, of each model in each region."""


def bill(folder: Path, today: date | None = None) -> None:
    """Prepare the folder."""
    now = datetime.now(UTC)
    yesterday = (today or now.date()) - timedelta(days=1)
    topology = folder / "topology.yaml"
    topology.write_text(
        topology.read_text().replace('us-east-1"}', 'us-east-1", price_zone: aws/us-east-1}')
        + COST.format(folder=folder)
    )
    cloud = Cloud.until(yesterday, dict.fromkeys(SERVERS, 9_000_000_000), (SCALED,))
    for name, hours in (("bills", 24.0 - HOUR), ("restated", MINUTES / 60)):
        days = {yesterday: Day({(SCALED, MODEL): hours * (AFTER - BEFORE)})}
        cloud.deliver(folder / name, yesterday, days, now)
    at = datetime.combine(yesterday, time(HOUR, tzinfo=UTC))
    write_rollout(topology, at, MINUTES)
    counted = ["day,model,region,requests,tokens"]
    for place in range(30):
        day = yesterday - timedelta(days=place)
        counted += [f"{day},{model},{region},{REQUESTS}," for region, model in SERVERS]
    (folder / "counts.csv").write_text("\n".join(counted) + "\n")
