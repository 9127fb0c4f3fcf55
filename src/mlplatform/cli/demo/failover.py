"""The chapter `failover`: a region is lost while clients are served, and comes back."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, date, datetime, timedelta

from mlplatform.cli.demo.client import Client
from mlplatform.cli.demo.models import MAGIKA, beyond_ascii, magika, requests
from mlplatform.cli.demo.stage import REGIONS, Process, Stage, program_named, wait_for
from mlplatform.cli.demo.world import (
    Ports,
    caddy_config,
    entry_config,
    entry_id,
    server_settings,
)
from mlplatform.core.errors import MlplatformError
from mlplatform.core.placement import ModelVersion

PER_SECOND = 40.0
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
      peak: {{requests_per_second: 100, measured_on: {today}, expires_on: {expiry}}}
  vantages:
    frankfurt: {{references: "http://127.0.0.1:{elsewhere}"}}
    ashburn: {{references: "http://127.0.0.1:{elsewhere}"}}
    singapore: {{references: "http://127.0.0.1:{elsewhere}"}}
  # What one server can do, where nobody measures it.
  capacity:
    us-east-1: &server
      magika: {{requests_per_second: 200, measured_on: {today}, expires_on: {expiry}}}
    eu-west-1: *server
    ap-southeast-1: *server
  # A night in a minute. By default probes are 10 s apart, a region that was left is well for
  # half an hour before it gets anything back, and each step of that holds for a minute.
  probe: {{interval_seconds: 0.5, timeout_seconds: 2, slow_seconds: 1, fall: 3, rise: 3,
    golden_per_round: 1}}
  safety: {{hold_off_seconds: 4, step_seconds: 1, cooldown_seconds: 1, drill_percent: 5}}
"""

ROLLOUT = """\
rollout:
  # An hour in seconds: by default a canary gets 1, 5, 25 and 50 %, five minutes each, windows
  # are a minute long, and what was promoted is watched for half an hour.
  strategy: {{weights: [20, 50], step_seconds: 2}}
  waves: {{order: [eu-west-1, us-east-1, ap-southeast-1], bake_seconds: 1}}
  verdict:
    metrics: [errors]
    window_seconds: 0.5
    epsilon: 0.05                                  # little traffic proves little: 5 points, not 0.5
    # How errors scatter where nothing is wrong: measured before, or declared until it expires.
    dispersion: {{errors: {{phi: 1, measured_on: {today}, expires_on: {expiry}}}}}
  models:
    magika:
      first_servers: 1                             # where none serves
      load_seconds: 10
      regions:                                     # no clients there: golden requests decide
        ap-southeast-1: {{kind: blue_green}}
      servers:                                     # who starts and stops them
{servers}
      actuators:                                   # the region's own router, and its route
{actuators}
"""


def tell(stage: Stage) -> None:
    """The chapter."""
    stage.heading("Servers in three regions, behind routers")
    set_up(stage)
    client = client_of(stage, PER_SECOND)
    client.start()
    try:
        stage.tell(
            f"A client sends {client.per_second:.0f} requests a second to the front door,\n"
            "from here to the end."
        )
        stage.run("mlplatform regions")
        stage.run("mlplatform failover status")
        _before_the_night(stage, client)
        operation = _in_the_night(stage, client)
    finally:
        client.stop()
    stage.heading("What stands now, and how it came to be so")
    stage.run("mlplatform failover status")
    stage.run("mlplatform status magika")
    stage.run(f"mlplatform history --operation {operation}")


def set_up(stage: Stage) -> None:
    """Servers of the model in three regions, routers and vantages that see them well."""
    program_named("caddy")
    ports = Ports.found(REGIONS)
    publish_magika(stage)
    _start_all(stage, ports)
    stage.front_door = f"http://127.0.0.1:{ports.front}/v2/models/magika/infer"
    stage.until("mlplatform failover ready", lambda code, said: code == 0 and " no " not in said)


def client_of(stage: Stage, per_second: float) -> Client:
    """A client at the front door, with files in several languages; it has not begun to send."""
    asked = requests(MAGIKA.partition("@")[0])
    bodies = [json.dumps(each).encode() for each in (*asked, beyond_ascii(asked[0]))]
    return Client(stage.front_door, bodies, per_second)


def publish_magika(stage: Stage) -> None:
    """The model in three regions, unless an earlier chapter has brought it there."""
    if stage.set_up():
        stage.run(f"mlplatform publish {magika(stage.folder).name} --model magika --version v3.3.0")
        stage.run("mlplatform replicate magika")


def _start_all(stage: Stage, ports: Ports) -> None:
    sections = _traffic(ports) + rollout_section(stage, ports)
    endpoints = {region: f"http://127.0.0.1:{port}" for region, port in ports.regions.items()}
    (stage.folder / "topology.yaml").write_text(stage.topology(endpoints=endpoints) + sections)
    stage.tell(
        "To the topology are added where requests enter each region, the traffic, and who\n"
        "starts servers:\n\n" + sections.rstrip()
    )
    (stage.folder / "caddy.json").write_text(json.dumps(caddy_config(ports, WEIGHTS), indent=2))
    stage.tell(
        "A Caddy for the world, with the weights between regions in its route `api`; one in\n"
        "each region, with the weights between versions; and three vantages, which look at\n"
        "all regions, and at the front door:"
    )
    model, _, version = MAGIKA.partition("@")
    for region in REGIONS:
        config = entry_config(ports, region, ModelVersion(model, version))
        (stage.folder / region / "caddy.json").write_text(json.dumps(config, indent=2))
        servers = stage.folder / region / "servers"
        servers.mkdir()
        (servers / "server.toml").write_text(server_settings(ports, region, stage.store(region)))
        start_entry(stage, region)
    _start(stage, "caddy", "caddy run --config caddy.json --resume")
    for vantage in VANTAGES:
        _start(stage, vantage, f"mlplatform probe --vantage {vantage}")
    stage.tell(
        "Nothing serves yet. A first rollout starts a server in each region, which takes the\n"
        "version from the region's own store, verified, and lets it in when it has answered\n"
        "golden requests:"
    )
    stage.run(f"mlplatform rollout apply {MAGIKA} --yes")


def start_entry(stage: Stage, region: str) -> Process:
    """The router of a region, which goes on with what it had."""
    keeps = f"XDG_CONFIG_HOME={region}/config"
    return _start(stage, region, f"{keeps} caddy run --config {region}/caddy.json --resume")


def _traffic(ports: Ports) -> str:
    return TRAFFIC.format(
        admin=ports.admin, front=ports.front, elsewhere=ports.elsewhere, **_dates()
    )


def _dates() -> dict[str, date]:
    today = datetime.now(UTC).date()
    return {"today": today, "expiry": today + timedelta(days=90)}


def rollout_section(stage: Stage, ports: Ports) -> str:
    """The topology's section `rollout`: who starts servers, and where weights lie."""
    servers = {r: f"processes://{stage.folder}/{r}/servers" for r in REGIONS}
    actuators = {r: f"caddy://127.0.0.1:{ports.entries[r]}/{entry_id(ports, r)}" for r in REGIONS}
    return ROLLOUT.format(
        servers="\n".join(f'        {r}: "{url}"' for r, url in servers.items()),
        actuators="\n".join(f'        {r}: "{url}"' for r, url in actuators.items()),
        **_dates(),
    )


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


def _in_the_night(stage: Stage, client: Client) -> str:
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
    for server in stage.servers(LOST):
        os.kill(server, signal.SIGKILL)
    there = stage.folder / LOST
    away = there.rename(stage.folder / f"{LOST}.lost")
    stage.tell(
        f"Now {LOST} is gone: its router and its server (kill -9), its models' store, and\n"
        "the control store that stood there, one of three. What the controller says:"
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
    start_entry(stage, LOST)
    stage.run(f"mlplatform rollout apply {MAGIKA} --region {LOST} --yes")
    stage.tell(
        "Its stores, its router and its server are there again. Nothing is done until it has\n"
        "been well for the hold-off; then 1, 5, 25, 50 and 100 % of what it is to have, each\n"
        "gated:"
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
