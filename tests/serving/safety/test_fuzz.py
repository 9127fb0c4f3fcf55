"""The fuzzer's target: on its seeds, on what Hypothesis makes of them, and, where atheris is built,
guided by coverage for a while. A longer run: `python -m fuzz -max_total_time=3600 …`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import inference
from mlplatform_serving.protocol import infer

ROOT = Path(__file__).parents[3]
CORPUS = ROOT / "fuzz/corpus/inference"
SEEDS = sorted(CORPUS.iterdir())
RUNS = 50_000


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.name)
def test_a_seed(seed: Path) -> None:
    inference.one_input(seed.read_bytes())


def test_the_seeds_reach_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most are right requests, of every datatype and form: what is refused at once is no seed."""
    read: list[object] = []
    refused = set()
    monkeypatch.setattr(inference, "_check", lambda *told: read.append(told))
    for seed in SEEDS:
        read.clear()
        inference.one_input(seed.read_bytes())
        if not read:
            refused.add(seed.name)
    assert refused == {"deep", "huge-shape"}


def test_a_parser_that_believes_a_shape_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target finds what it is there to find."""
    seed = (CORPUS / "binary-int8").read_bytes()
    monkeypatch.setattr(infer, "decode_binary", lambda *_: _Liar())
    with pytest.raises(AssertionError):
        inference.one_input(seed)


class _Liar:
    dtype = np.dtype(np.int8)
    shape = (1, 2)
    size = 10**9


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(SEEDS), st.data())
def test_what_hypothesis_makes_of_the_seeds(seed: Path, data: st.DataObject) -> None:
    body = bytearray(seed.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        cut = data.draw(st.integers(0, 8))
        body[at : at + cut] = data.draw(st.binary(max_size=8))
    inference.one_input(bytes(body))


def test_guided_by_coverage(atheris: Path, tmp_path: Path) -> None:
    (packages,) = atheris.parents[1].glob("lib/python*/site-packages")
    shutil.copytree(CORPUS, tmp_path / "corpus")
    command = [sys.executable, "-m", "fuzz", f"-runs={RUNS}", "-seed=20261121"]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(tmp_path / "corpus")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr
