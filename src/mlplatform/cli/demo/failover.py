"""The chapter `failover`: a region is lost while clients are served, and comes back."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

from mlplatform.cli.demo.client import Client
from mlplatform.cli.demo.models import GOLDEN, MAGIKA, magika
from mlplatform.cli.demo.stage import REGIONS, Process, Stage, program_named, wait_for
from mlplatform.cli.demo.world import Ports, caddy_config, server_line
from mlplatform.core.errors import MlplatformError
from mlplatform.core.placement import ModelVersion

LOST, STANDBY = "us-east-1", "ap-southeast-1"
WEIGHTS = {"us-east-1": 50, "eu-west-1": 50, "ap-southeast-1": 0}
VANTAGES = ("frankfurt", "ashburn", "singapore")

TRAFFIC = """\
traffic:
  routes:
    api:
      actuator: "caddy://127.0.0.1:{admin}/api"    # the router's admin endpoint, and its route
      front_door: "http://127.0.0.1:{front}"
      models: [magika]
      weights: {{us-east-1: 50, eu-west-1: 50, ap-southeast-1: 0}}
      mode: auto                                   # the default is advise
      peak: {{requests_per_second: 40, measured_on: {today}, expires_on: {expiry}}}
  vantages:
    frankfurt: {{references: "http://127.0.0.1:{elsewhere}"}}
    ashburn: {{references: "http://127.0.0.1:{elsewhere}"}}
    singapore: {{references: "http://127.0.0.1:{elsewhere}"}}
  # What one server can do, where nobody measures it.
  capacity:
    us-east-1: &server
      magika: {{requests_per_second: 60, measured_on: {today}, expires_on: {expiry}}}
    eu-west-1: *server
    ap-southeast-1: *server
  # A night in a minute. By default probes are 10 s apart, a region that was left is well for
  # half an hour before it gets anything back, and each step of that holds for a minute.
  probe: {{interval_seconds: 0.5, timeout_seconds: 2, slow_seconds: 1, fall: 3, rise: 3}}
  safety: {{hold_off_seconds: 4, step_seconds: 1, cooldown_seconds: 1, drill_percent: 5}}
"""


def tell(stage: Stage) -> None:
    """The chapter."""
    program_named("caddy")
    stage.heading("Servers in three regions, behind a router")
    ports = Ports.found(REGIONS)
    publish_magika(stage)
    _start_all(stage, ports)
    client = Client(
        f"http://127.0.0.1:{ports.front}/v2/models/magika/infer",
        (GOLDEN / "magika.ndjson").read_bytes().splitlines()[0],
    )
    client.body = json.dumps(json.loads(client.body)["request"]).encode()
    stage.until("mlplatform failover ready", lambda code, said: code == 0 and " no " not in said)
    client.start()
    try:
        stage.tell(
            f"A client sends {client.per_second:.0f} requests a second to the front door,\n"
            "from here to the end."
        )
        stage.run("mlplatform regions")
        stage.run("mlplatform failover status")
        _before_the_night(stage, client)
        operation = _in_the_night(stage, client, ports)
    finally:
        client.stop()
    stage.heading("What stands now, and how it came to be so")
    stage.run("mlplatform failover status")
    stage.run("mlplatform status magika")
    stage.run(f"mlplatform history --operation {operation}")


def publish_magika(stage: Stage) -> None:
    """The model in three regions, unless an earlier chapter has brought it there."""
    if stage.set_up():
        stage.run(f"mlplatform publish {magika(stage.folder).name} --model magika --version v3.3.0")
        stage.run("mlplatform replicate magika")


def _start_all(stage: Stage, ports: Ports) -> None:
    today = datetime.now(UTC).date()
    traffic = TRAFFIC.format(
        admin=ports.admin,
        front=ports.front,
        elsewhere=ports.elsewhere,
        today=today,
        expiry=today + timedelta(days=90),
    )
    endpoints = {region: f"http://127.0.0.1:{port}" for region, port in ports.regions.items()}
    (stage.folder / "topology.yaml").write_text(stage.topology(endpoints=endpoints) + traffic)
    stage.tell(
        "To the topology are added where the regions' servers answer, and the traffic:\n\n"
        + traffic.rstrip()
    )
    (stage.folder / "caddy.json").write_text(json.dumps(caddy_config(ports, WEIGHTS), indent=2))
    stage.tell(
        "A model server in each region, which serves the version from the region's own\n"
        "store, verified; a Caddy, with the weights in its route `api`; and three vantages,\n"
        "which look at all regions, and at the front door:"
    )
    for region in REGIONS:
        _start(stage, region, _server(stage, region, ports))
    _start(stage, "caddy", "caddy run --config caddy.json --resume")
    for vantage in VANTAGES:
        _start(stage, vantage, f"mlplatform probe --vantage {vantage}")


def _server(stage: Stage, region: str, ports: Ports) -> str:
    model, _, version = MAGIKA.partition("@")
    subject = ModelVersion(model, version)
    return server_line(subject, region, ports.regions[region], stage.store(region))


def _start(stage: Stage, name: str, line: str) -> Process:
    stage.session.console.data(f"$ {line} &\n")
    return stage.start(name, line)


def _before_the_night(stage: Stage, client: Client) -> None:
    stage.heading("Before the night: a drill")
    stage.tell(
        "A route acts by itself only if a drill was passed: real requests, a trickle of\n"
        f"them, answered by the standby. {STANDBY} has no weight so far."
    )
    began = time.monotonic()
    stage.run(f"mlplatform failover drill --to {STANDBY} --confirm {STANDBY}")
    _meanwhile(stage, client, began)
    stage.run("mlplatform failover ready")


def _in_the_night(stage: Stage, client: Client, ports: Ports) -> str:
    """The operation that moved the traffic."""
    stage.heading(f"The night: {LOST} is lost")
    stage.tell(
        "The controller goes round by itself. Anybody may run one, in any region:\n"
        "the lease elects, and the epoch in the route keeps a deposed one out."
    )
    heard = _Heard(stage)
    watch = "mlplatform failover watch --interval 0.5 --metrics 127.0.0.1:0"
    stage.session.console.data(f"\n$ {watch} &\n")
    watching = stage.start("watch", watch, heard=heard)
    time.sleep(2)  # clients are served for a moment, as on any evening

    lost = heard.began = time.monotonic()
    stage.processes[LOST].kill()
    there = stage.folder / LOST
    away = there.rename(stage.folder / f"{LOST}.lost")
    stage.tell(
        f"Now {LOST} is gone: its servers (kill -9), its models' store, and the control\n"
        "store that stood there, one of three. What the controller says:"
    )
    _until_said(watching, "api: unplanned is over")
    operation = heard.operation
    time.sleep(1)
    _count(stage, client, lost)
    stage.tell("The three clocks, and the beginning of the post-mortem:")
    stage.run(f"mlplatform failover report {operation}")
    stage.run(f"mlplatform failover explain {LOST}", expect=3)
    stage.run("mlplatform status magika", expect=5)

    stage.heading(f"{LOST} comes back, and gets its traffic back by steps")
    returned = heard.began = time.monotonic()
    away.rename(there)
    stage.start(LOST, _server(stage, LOST, ports))
    stage.tell(
        "Its stores and its servers are there again. Nothing is done until it has been well\n"
        "for the hold-off; then 1, 5, 25, 50 and 100 % of what it is to have, each gated:"
    )
    _until_said(watching, "api: failback is over")
    _meanwhile(stage, client, returned)
    return operation


class _Heard:
    """Prints what the controller says, with the seconds since something happened."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.began = time.monotonic()
        self.operation = ""

    def __call__(self, line: str) -> None:
        if "operation " in line:
            self.operation = line.rpartition(" ")[2]
        self._stage.session.console.data(f"  +{time.monotonic() - self.began:4.1f} s  {line}\n")


def _until_said(process: Process, text: str, *, seconds: float = 90) -> None:
    if not wait_for(lambda: process.has_said(text), seconds):
        said = "\n".join(process.said)
        raise MlplatformError(f"demo: after {seconds:g} s, `{process.line}` had only said:\n{said}")


def _meanwhile(stage: Stage, client: Client, began: float) -> None:
    tally = client.since(began)
    text = f"Meanwhile: {tally}."
    if any(not each.answer.startswith("HTTP") for each in tally.failed):
        text += (
            "\nWhen Caddy takes a new configuration it hangs up on a connection now and then; a\n"
            "client that asks again, as this one does not, never notices."
        )
    stage.tell(text)


def _count(stage: Stage, client: Client, lost: float) -> None:
    tally = client.since(lost)
    text = f"Since then: {tally}."
    if failed := tally.failed:
        text += (
            f"\nThe first that failed was sent {failed[0].at - lost:.1f} s after the region was "
            f"lost, the last {failed[-1].at - lost:.1f} s after."
        )
    stage.tell(text)
