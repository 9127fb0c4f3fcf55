"""`mlplatform probe` and `mlplatform regions`, as they are typed: real processes, real servers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CLEAN, PROGRAM, Run
from tests.features.failover import peers
from tests.features.failover.authority import Authority
from tests.features.failover.peers import Peer
from tests.real.servers.launch import free_port
from tests.responder import RESPONDER
from tests.waiting import wait_until

GOLDEN = {
    "request": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2]}]},
    "expect": {"outputs": [{"name": "y", "datatype": "FP64", "shape": [1], "data": [0.5]}]},
}


class Site:
    """Two regions with a server each, in a folder."""

    def __init__(self, folder: Path, mlplatform: Run) -> None:
        self.folder = folder
        self._run = mlplatform
        self.servers: dict[str, subprocess.Popen[str]] = {}
        self.endpoints: dict[str, str] = {}
        for region in ("us", "eu"):
            (folder / region).mkdir()
            self.start(region)
        (folder / "disk").mkdir()
        (folder / "control").symlink_to("disk")
        self.write()

    def start(self, region: str) -> None:
        """Let the region's servers run."""
        port = free_port()  # nobody else's, even when they are gone
        server = subprocess.Popen(
            [
                *(sys.executable, RESPONDER, "--port", str(port)),
                *("--region", region, "--model", "m=v1=blake3:aa"),
                *("--store", str(self.folder / region)),
            ],
            env=CLEAN,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        self.endpoints[region] = server.stdout.readline().split()[1]
        self.servers[region] = server

    def kill(self, region: str) -> None:
        server = self.servers.pop(region)
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()

    def ail(self, region: str, **told: Any) -> None:
        """Tell the region's server what ails it."""
        request = urllib.request.Request(
            f"{self.endpoints[region]}/admin", data=json.dumps(told).encode(), method="POST"
        )
        with urllib.request.urlopen(request):
            pass

    def write(self, *, references: str = "[]", probe: str = "{}") -> None:
        """Write the topology."""
        regions = "".join(
            f'  {name}: {{store: "file://{self.folder}/{name}", endpoint: "{url}"}}\n'
            for name, url in self.endpoints.items()
        )
        (self.folder / "topology.yaml").write_text(
            f"control: file://{self.folder}/control\nregions:\n{regions}"
            "models:\n  m: {version: v1, home: us, replicate_to: [eu]}\n"
            "traffic:\n  routes:\n"
            f'    api: {{actuator: "memory://api", front_door: "{self.endpoints["us"]}"}}\n'
            f"  vantages:\n    fra: {{references: {references}}}\n    lon: {{}}\n"
            f"  probe: {probe}\n"
        )

    def publish(self) -> None:
        """Publish the model everywhere, with a golden request."""
        model = self.folder / "model"
        model.mkdir()
        (model / "weights").write_bytes(b"weights")
        (model / "golden.ndjson").write_text(json.dumps(GOLDEN) + "\n")
        for line in (("publish", "model", "--model", "m", "--version", "v1"), ("replicate",)):
            assert self.run(*line).returncode == 0

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self._run(*arguments, env={"XDG_CACHE_HOME": str(self.folder / "cache"), **env})

    def probe(self, *arguments: str, **env: str) -> tuple[int, Any, str]:
        """One round as JSON: exit code, what was printed, what was said."""
        line = ("probe", "--vantage", "fra", "--once", "--output", "json", *arguments)
        ran = self.run(*line, **env)
        return ran.returncode, json.loads(ran.stdout) if ran.stdout else None, ran.stderr


@pytest.fixture
def site(tmp_path: Path, mlplatform: Run) -> Iterator[Site]:
    made = Site(tmp_path, mlplatform)
    yield made
    for region in list(made.servers):
        made.kill(region)


def record(site: Site, vantage: str = "fra") -> Any:
    path = site.folder / "control/observations/vantages" / f"{vantage}.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_healthy_world_for_cron(site: Site) -> None:
    site.publish()
    code, told, said = site.probe()
    assert code == 0, said
    assert [(each["region"], each["path"], each["ok"]) for each in told["probes"]] == [
        *(("us", "direct", True), ("eu", "direct", True)),
        ("us", "front-door", True),
    ]
    assert all(each["seconds"] >= each["first_byte_seconds"] > 0 for each in told["probes"])
    assert [(each["region"], each["ok"], each["digest"]) for each in told["golden"]] == [
        *(("us", True, "blake3:aa"), ("eu", True, "blake3:aa")),
    ]
    assert said == "warning: vantage fra names no references: it cannot know when it is blind\n"
    site.probe()
    assert [len(series["samples"]) for series in record(site)["series"]] == [2, 2, 2]


def test_a_region_that_is_gone_and_one_that_is_wrong(site: Site) -> None:
    site.publish()
    site.kill("eu")
    site.ail("us", models={"m": "wrong"})
    code, told, said = site.probe()
    assert code == 3
    assert {each["region"]: each["error"] for each in told["probes"]} == {"us": "", "eu": "refused"}
    assert "warning: m in us: output 'y': value 0 is 0.0 instead of 0.5, within 0\n" in said
    table = site.run("probe", "--vantage", "fra", "--once").stdout
    assert "refused: Connection refused" in table


def test_600_ms_are_slow_and_not_down(site: Site) -> None:
    site.ail("us", delay_seconds=0.6)
    code, _, said = site.probe()
    assert code == 0, said
    shown = site.run("regions")
    assert shown.returncode == 0
    assert "ms slow" in next(line for line in shown.stdout.splitlines() if line.startswith("us"))
    assert "slow" not in next(line for line in shown.stdout.splitlines() if line.startswith("eu"))


def test_the_table_of_all_vantages(site: Site) -> None:
    assert site.run("regions").returncode == 5
    for _ in range(3):
        site.probe()
    site.kill("eu")
    for _ in range(2):
        site.probe()
    shown = site.run("regions")
    assert shown.returncode == 3
    assert shown.stdout.splitlines()[0].split() == ["REGION", "fra", "lon"]
    us, eu, door = (line.split() for line in shown.stdout.splitlines()[1:])
    assert (us[0], us[2:]) == ("us", ["ms", "unknown"])
    assert eu == ["eu", "failing", "(refused)", "unknown"]
    assert door[:3] == ["api", "(front", "door)"]
    assert "warning: lon has never written a record" in shown.stderr
    site.probe()
    told = json.loads(site.run("regions", "--output", "json").stdout)["regions"]
    cells = {(each["region"], each["vantage"]): each for each in told}
    assert cells["eu", "fra"]["state"] == "down"
    assert cells["eu", "fra"]["error"] == "refused"
    assert cells["us", "fra"]["state"] == "up"
    assert cells["us", "lon"]["state"] == "unknown"
    assert cells[None, "fra"]["answered_by"] == "us"


def rewrite(site: Site, **told: Any) -> None:
    """Change the record, as another clock would have it."""
    path = site.folder / "control/observations/vantages/fra.json"
    path.write_text(json.dumps({**record(site), **told}))


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (timedelta(hours=-1), "stale, 1\u00a0h\u00a0ago"),
        (timedelta(hours=1), "stale"),
    ],
    ids=["an hour ago", "in an hour"],
)
def test_a_record_that_is_not_of_now(site: Site, at: timedelta, said: str) -> None:
    site.probe()
    rewrite(site, at=(datetime.now(UTC) + at).isoformat())
    shown = site.run("regions")
    assert shown.returncode == 5
    row = next(line for line in shown.stdout.splitlines() if line.startswith("us"))
    assert said.replace("\u00a0", " ") in row
    assert "clock" in shown.stderr


def test_a_vantage_that_sees_nothing(site: Site) -> None:
    site.write(references='["http://127.0.0.1:1/"]')
    site.kill("eu")
    code, told, said = site.probe()
    assert (code, told["probes"]) == (5, [])
    assert "warning: blind: no reference could be reached: http://127.0.0.1:1/: refused" in said
    shown = site.run("regions")
    assert shown.returncode == 5
    assert shown.stdout.splitlines()[1].split() == ["us", "blind", "unknown"]


def test_a_record_that_cannot_be_written(site: Site) -> None:
    (site.folder / "control").unlink()
    (site.folder / "control").write_text("no folder")
    code, told, said = site.probe()
    assert code == 5
    assert told["unwritten"]
    assert "could not be written" in said
    site.kill("eu")
    assert site.probe()[0] == 3  # what is wrong outranks what could not be written


def test_over_https_with_an_authority_of_one_s_own(site: Site, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, expired = (
        authority.identity("127.0.0.1", begins=-timedelta(days=9), ends=ends)
        for ends in (timedelta(days=3), -timedelta(days=1))
    )
    with (
        Peer(peers.answers(), tls=good.server()) as us,
        Peer(peers.answers(), tls=expired.server()) as eu,
    ):
        site.endpoints |= {"us": us.url, "eu": eu.url}
        site.write()
        code, told, _ = site.probe(SSL_CERT_FILE=str(authority.path))
    us_told, eu_told, _ = told["probes"]
    assert code == 3
    assert (us_told["ok"], us_told["certificate_expires_at"]) == (True, good.expires_at.isoformat())
    assert us_told["tls_seconds"] > 0
    assert (eu_told["error"], eu_told["detail"]) == ("certificate", "certificate has expired")


def test_it_goes_on_for_ever_over_everything_and_ends_well(site: Site) -> None:
    """A region dies, the control store goes and comes back, /metrics are read; then Ctrl-C."""
    site.publish()
    port = free_port()
    where = 'path="direct",region="{}",route="",vantage="fra"'
    measured = (
        f"mlplatform_probe_success{{{where.format('us')}}} 1.0",
        f"mlplatform_probe_success{{{where.format('eu')}}} 0.0",
        'mlplatform_vantage_blind{vantage="fra"} 0.0',
        'mlplatform_probe_golden_success{model="m",region="us",vantage="fra"} 1.0',
        'mlplatform_probe_duration_seconds{path="direct",phase="first_byte",region="us"',
        'mlplatform_probe_last_written_timestamp_seconds{vantage="fra"}',
    )
    log = site.folder / "log"
    with log.open("w") as sink:
        vantage = subprocess.Popen(
            [
                *(*PROGRAM, "probe", "--vantage", "fra", "--interval", "0.2"),
                *("--metrics", f"127.0.0.1:{port}", "--cache", str(site.folder / "kept")),
            ],
            cwd=site.folder,
            env=CLEAN,
            stdin=subprocess.DEVNULL,
            stderr=sink,
        )
    control, gone, back = (site.folder / name for name in ("control", "gone", "back"))
    gone.write_text("no folder")
    back.symlink_to("disk")
    try:
        wait_until(lambda: record(site) is not None)
        site.kill("eu")
        wait_until(lambda: "eu: down: refused: Connection refused" in log.read_text())
        before = record(site)
        gone.replace(control)  # in one step, else the vantage may make a folder there first
        wait_until(lambda: "the record could not be written" in log.read_text())
        back.replace(control)
        wait_until(lambda: "the record is written again" in log.read_text())
        after = record(site)
        wait_until(lambda: all(line in _metrics(port) for line in measured))
    finally:
        vantage.send_signal(signal.SIGINT)
        vantage.wait(timeout=60)
    said = log.read_text()
    assert after["round"] > before["round"]
    assert len(after["series"][0]["samples"]) > len(before["series"][0]["samples"])
    assert vantage.returncode == 0, said
    assert "Traceback" not in said
    assert said.count("the record could not be written; it is kept until it can") == 1
    assert list((site.folder / "kept/golden").rglob("*.ndjson"))


def _metrics(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vantage", "nowhere", "--once"), "nowhere: no such vantage"),
        (("--once",), "Missing option '--vantage'"),
        (("--vantage", "fra", "--metrics", "here"), "--metrics here: not HOST:PORT"),
        (("--vantage", "fra", "--metrics", "127.0.0.1:99999"), "--metrics 127.0.0.1:99999: not"),
        (("--vantage", "fra", "--interval", "0"), "Invalid value for '--interval'"),
    ],
)
def test_bad_input(site: Site, arguments: tuple[str, ...], said: str) -> None:
    ran = site.run("probe", *arguments)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "hint: " in ran.stderr
    assert "Traceback" not in ran.stderr


def test_nobody_looks(site: Site) -> None:
    text = (site.folder / "topology.yaml").read_text().partition("traffic:")[0]
    (site.folder / "topology.yaml").write_text(text)
    ran = site.run("regions")
    assert ran.returncode == 2
    assert "hint: name one under traffic.vantages" in ran.stderr


def test_golden_requests_survive_the_loss_of_every_store(site: Site) -> None:
    site.publish()
    assert len(site.probe()[1]["golden"]) == 2
    for region in ("us", "eu"):
        shutil.rmtree(site.folder / region)
    code, told, said = site.probe()
    assert (code, len(told["golden"])) == (0, 2), said
