"""`load-test` on the real server, and its arithmetic."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from mlplatform_serving.tools.load.arrivals import Bursts, poisson, with_bursts
from mlplatform_serving.tools.load.client import Target
from mlplatform_serving.tools.load.drive import open_loop
from mlplatform_serving.tools.load.plot import svg
from mlplatform_serving.tools.load.report import TIMEOUT, Report, Sample, percentile
from mlplatform_serving.tools.load_test import main
from tests.serving.rig import ServerProcess, environment, identity, layers, publish, running
from tests.serving.safety.test_tls import write_pair

SCRIPT = Path(__file__).parents[3] / "serving" / "benchmarks" / "load_test.py"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two models, one that takes 20 ms and one that takes none."""
    folder = tmp_path_factory.mktemp("models")
    publish(folder, "slow", "v1", identity("FP32", delay_ms=20))
    publish(folder, "quick", "v1", layers())
    (folder / "token").write_text("may\n")
    with running(folder, MAX_BATCH_SIZE=1, INFER_TOKEN_FILE=folder / "token") as server:
        yield server


def asked(server: ServerProcess, tmp_path: Path, *line: str, code: int = 0) -> str:
    """What the tool prints about this server."""
    (tmp_path / "token").write_text("may\n")
    token = ["--token-file", str(tmp_path / "token")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--url", server.url, *token, *line],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


# ------------------------------------------------------------------------------- on the real server


def test_an_open_loop_asks_what_was_planned(busy: ServerProcess, tmp_path: Path) -> None:
    line = ["--model", "quick", "--rate", "50", "--burst", "20@0.5", "--duration", "2"]
    files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.svg")]
    told = json.loads(asked(busy, tmp_path, *line, *files, "--seed", "3", "--output", "json"))
    assert told == json.loads((tmp_path / "r.json").read_text())
    assert told["planned"] == told["sent"] == len(poisson(50, 2, 3)) + 60
    assert told["statuses"] == {"200": told["sent"]}
    assert told["loop"] == "open loop, Poisson, 50/s and 20 at once every 0.5 s for 2 s, seed 3"
    assert told["models"] == ["quick@v1"]
    latency = told["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert ET.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")


def test_an_overload_is_seen_as_its_users_see_it(busy: ServerProcess, tmp_path: Path) -> None:
    """A server that takes 20 ms for each, asked for 100 a second, is behind by as much at the end:
    an open loop says so. A closed one asks for less, and cannot."""
    line = ["--model", "slow", "--duration", "2", "--output", "json", "--slo-ms", "200"]
    opened = json.loads(asked(busy, tmp_path, *line, "--rate", "100"))
    closed = json.loads(asked(busy, tmp_path, *line, "--concurrent", "1"))
    behind_ms = 20 * opened["sent"] - 2000
    assert opened["sent"] == opened["planned"] > 150
    assert opened["latency_ms"]["max"] >= behind_ms > 1000
    assert opened["good_share"] <= 2200 / 20 / opened["sent"]
    assert closed["sent"] <= 100
    assert closed["loop"].startswith("closed loop, 1 who wait for answers")
    assert closed["planned"] is None


def test_with_a_deadline_what_would_be_late_is_refused(busy: ServerProcess, tmp_path: Path) -> None:
    line = ["--model", "slow", "--rate", "100", "--duration", "2", "--slo-ms", "200", "--deadline"]
    told = json.loads(asked(busy, tmp_path, *line, "--output", "json"))
    assert "503" in told["statuses"].keys() <= {"200", "503"}
    assert told["refused_ms"]["p50"] is not None
    said = asked(busy, tmp_path, *line, "--good-min", "0.99", code=3)
    assert said.startswith("error: ")
    assert "were good, and 99.00% are wanted" in said


def test_the_runbook_s_line_asks_all_models_by_turns(busy: ServerProcess, tmp_path: Path) -> None:
    told = asked(busy, tmp_path, "--concurrent", "100", "--duration", "1")
    first, sent, ended, *_ = told.splitlines()
    assert first.startswith("closed loop, 100 who wait for answers")
    assert first.endswith(": quick@v1, slow@v1")
    assert ended.split() == ["ended", "200:", sent.split()[1].rstrip(";")]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ([], 2, "nothing is to be sent"),
        (["--rate", "1", "--concurrent", "1"], 2, "it is one or the other"),
        (["--burst", "many"], 2, "--burst many: no burst"),
        (["--rate", "1e6", "--duration", "60"], 2, "more than 10000000 requests"),
        (["--rate", "1", "--model", "resnet50"], 1, "resnet50 is not loaded there"),
        (["--rate", "1", "--golden", "nowhere"], 1, "nowhere: "),
        (["--rate", "1", "--url", "ftp://x"], 2, "no http(s) URL"),
        (["--rate", "1", "--url", "http://127.0.0.1:1"], 5, "Connection refused"),
        (["--rate", "nan"], 2, "invalid"),
    ],
)
def test_what_cannot_be_asked(
    busy: ServerProcess, tmp_path: Path, line: list[str], code: int, said: str
) -> None:
    assert said in asked(busy, tmp_path, *line, code=code)


def test_a_token_that_is_missing(busy: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", busy.url, "--rate", "1"]) == 5
    told = capsys.readouterr().err
    assert "answers 401" in told
    assert "hint: --token-file FILE" in told


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_verified(tmp_path: Path, *, trusted: bool) -> None:
    publish(tmp_path / "models", "quick", "v1", layers())
    cert_file, key_file = write_pair(tmp_path, "server")
    with running(tmp_path / "models", TLS_CERT_FILE=cert_file, TLS_KEY_FILE=key_file) as server:
        url = server.url.replace("http:", "https:")
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--url", url, "--rate", "20", "--duration", "1"],
            env=environment(**({"SSL_CERT_FILE": cert_file} if trusted else {})),
            capture_output=True,
            text=True,
            check=False,
        )
    if trusted:
        assert done.returncode == 0, done.stderr
        assert "ended     200: " in done.stdout
    else:
        assert done.returncode == 5
        assert "self-signed certificate" in done.stderr


def test_who_is_never_answered_is_charged_for_as_long_as_they_waited() -> None:
    """A server that answers the first and then no one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            with listening.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                while connection.recv(4096):
                    pass

        answering = threading.Thread(target=once)
        answering.start()
        target = Target("127.0.0.1", listening.getsockname()[1], "", tls=False)
        samples = asyncio.run(
            open_loop(
                target, [b"GET / HTTP/1.1\r\n\r\n"], [0, 0.1, 0.1], connections_max=1,
                timeout_seconds=1.5,
            )
        )  # fmt: skip
        answering.join()
    report = Report("open loop", ("m@v1",), 1, 0.1, 3, tuple(samples))
    assert report.statuses() == {"200": 1, TIMEOUT: 2}
    told = report.as_json()["latency_ms"]
    assert told["p99"] >= 1500
    assert report.good <= 1


# ----------------------------------------------------------------------------------- its arithmetic


def test_due_times_are_the_same_again_and_random_as_they_should_be() -> None:
    due = poisson(1000, 60, 7)
    assert due == poisson(1000, 60, 7) != poisson(1000, 60, 8)
    gaps = [after - before for before, after in pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(1 / 1000, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(1 / 1000, rel=0.05)  # of the exponential
    assert all(0 < each < 60 for each in due)


def test_bursts_come_after_each_interval() -> None:
    assert with_bursts([0.1, 1.5], Bursts(2, 1), 2.5) == [0.1, 1.0, 1.0, 1.5, 2.0, 2.0]
    assert with_bursts([0.1], None, 9) == [0.1]
    assert with_bursts([], Bursts(3, 5), 5) == []


@pytest.mark.parametrize(
    ("values", "quantile", "found"),
    [
        ([1, 2, 3, 4], 0.5, 2),
        ([1, 2, 3, 4], 0.75, 3),
        ([1, 2, 3, 4], 0.76, 4),
        ([7], 0.999, 7),
        (range(1, 1001), 0.99, 990),
        (range(1, 1001), 0.999, 999),
        ([], 0.5, None),
    ],
)
def test_percentiles_are_exact(values: list[float], quantile: float, found: float | None) -> None:
    assert percentile(list(values), quantile) == found


def test_a_stall_is_charged_to_all_who_came_meanwhile() -> None:
    """One answer takes a second; a hundred who were due in it were sent after it, and answered at
    once. Who asks how long those took from when they were sent sees one slow request."""
    stalled = Sample(due=0, sent=0, done=1, status=200)
    after = [Sample(each / 100, 1, 1.001, 200) for each in range(1, 101)]
    told = Report("open loop", ("m@v1",), 2, 0.1, 101, (stalled, *after)).as_json()
    assert told["service_ms"]["p95"] == 1
    assert told["latency_ms"]["p50"] == pytest.approx(501)
    assert told["good_share"] == pytest.approx(10 / 101, abs=0.001)


def test_what_was_due_and_never_sent_is_not_good() -> None:
    assert Report("open loop", ("m@v1",), 1, 1, 4, (Sample(0, 0, 0.1, 200),)).good_share == 0.25
    assert Report("open loop", ("m@v1",), 1, 1, 0, ()).good_share is None


@pytest.mark.parametrize(
    "samples",
    [
        (),
        (Sample(0, 0, 0, 200),),
        (Sample(0, 0, 5000, 503), Sample(0.5, 0.5, 30.5, TIMEOUT)),
        tuple(Sample(each / 100, each / 100, each / 50 + 0.001, 200) for each in range(500)),
    ],
)
def test_there_is_a_picture_of_anything(samples: tuple[Sample, ...]) -> None:
    report = Report("open loop, <&>", ("m@v1",), 5, 0.1, len(samples), samples)
    root = ET.fromstring(svg(report))
    numbers = [
        float(each.attrib[name]) for each in root.iter() for name in ("x", "y", "height")
        if name in each.attrib
    ]  # fmt: skip
    assert all(0 <= each <= 860 for each in numbers)
    assert root[0].text == "open loop, <&>: m@v1"


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://a", "a", ""),
        ("https://a", "a", ""),
        ("http://a:80/x/", "a", "/x"),
        ("http://[::1]:8000", "[::1]:8000", ""),
        ("https://a:8443", "a:8443", ""),
    ],
)
def test_where_requests_go(url: str, authority: str, path: str) -> None:
    target = Target.parse(url)
    assert (target.authority, target.path) == (authority, path)
    assert target.post("/p", b"body", {"A": "b"}).endswith(
        f"POST {path}/p HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 4\r\nA: b\r\n\r\nbody"
        .encode()
    )  # fmt: skip
