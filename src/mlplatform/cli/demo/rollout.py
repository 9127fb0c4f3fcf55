"""The chapter `rollout`: a good version goes through three regions; a bad one is caught in the
first, and taken back."""

from __future__ import annotations

import re
import time
from pathlib import Path

from mlplatform.cli.demo.failover import client_of, set_up
from mlplatform.cli.demo.models import magika_again, magika_for_ascii
from mlplatform.cli.demo.stage import Stage
from mlplatform.core.errors import MlplatformError

GOOD, BAD = "v3.3.1", "v3.4.0"
PER_SECOND = 100.0


def tell(stage: Stage) -> None:
    """The chapter."""
    if not stage.front_door:
        set_up(stage)
    client = client_of(stage, PER_SECOND)
    stage.heading("Two new versions of magika")
    _publish(stage, magika_again(stage.folder, GOOD), GOOD)
    _publish(stage, magika_for_ascii(stage.folder, BAD), BAD)
    stage.run(f"mlplatform replicate magika@{GOOD}")
    stage.run(f"mlplatform replicate magika@{BAD}")
    client.start()
    try:
        _good(stage)
        began = time.monotonic()
        _bad(stage)
        tally = client.since(began)
    finally:
        client.stop()
    stage.tell(f"What clients noticed of {BAD}: {tally}.")
    status = "mlplatform status magika"
    stage.until(status, lambda code, said: said.count("SERVING") == 2)
    stage.run(status)


def _publish(stage: Stage, folder: Path, version: str) -> None:
    stage.run(f"mlplatform publish {folder.name} --model magika --version {version}")


def _good(stage: Stage) -> None:
    stage.heading(f"{GOOD}: planned, agreed to, and rolled out")
    topology = stage.folder / "topology.yaml"
    before, after = (f"magika: {{version: {version}" for version in ("v3.3.0", GOOD))
    topology.write_text(topology.read_text().replace(before, after))
    stage.tell(
        f"The topology says by now that {GOOD} is wanted, and a client sends\n"
        f"{PER_SECOND:.0f} requests a second to the front door. The plan says what would be done,\n"
        "what each step waits for, and how it is undone:"
    )
    said = stage.run("mlplatform rollout plan magika")
    found = re.search(r"^plan ([0-9a-f]{12}):", said, re.MULTILINE)
    if found is None:
        raise MlplatformError(f"demo: no plan was made:\n{said}")
    stage.run(f'mlplatform rollout approve {found[1]} --reason "reviewed"')
    stage.tell("Now it is done, exactly as it was planned:")
    stage.run(f"mlplatform rollout apply magika@{GOOD} --plan {found[1]}")


def _bad(stage: Stage) -> None:
    stage.heading(f"{BAD}: caught, and taken back")
    stage.tell(
        f"{BAD} was exported with a vocabulary that knows ASCII alone. Its golden requests are\n"
        "ASCII, and so right; one in four of our client's files is not. Nobody knows that yet:"
    )
    stage.run(f"mlplatform rollout apply magika@{BAD} --yes", expect=3)
    stage.run("mlplatform rollout history")
    stage.run(f"mlplatform rollout report magika@{BAD} --html rollout.html")
