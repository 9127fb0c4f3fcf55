"""Thousands of worlds of each kind, each from its seed. `python -m tests.simulation` says how to
replay one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.failover import world as failover
from tests.simulation.guards import without
from tests.simulation.line import Fate
from tests.simulation.replication import world as replication
from tests.simulation.replication.guards import GUARDS
from tests.simulation.run import KINDS, first_failure, run_seed

SEEDS = {"replication": 2000, "failover": 5000}
CHUNK = 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first"), [(kind, first) for kind in SEEDS for first in range(0, SEEDS[kind], CHUNK)]
)
def test_the_invariants_hold_in_every_world(kind: str, first: int) -> None:
    for seed in range(first, first + CHUNK):
        run_seed(seed, kind=kind)


ERRORS = {
    "replication": "ConditionFailed ContainerMissing Denied DigestMismatch Fenced Interrupted "
    "LeaseHeld NoMajority StoreFull Unavailable UsageError VersionConflict",
    "failover": "ConditionFailed ContainerMissing Denied DeadlineExceeded Fenced Interrupted "
    "LeaseHeld NoMajority StalePlan Unavailable UsageError",
}


TROUBLE = (*failover.KINDS, Fate.EMPTY, Fate.BY_HAND)


@pytest.mark.parametrize("kind", KINDS)
def test_worlds_meet_every_kind_of_trouble(kind: str) -> None:
    crashes = {Fate.CRASH_BEFORE, Fate.CRASH_AFTER}  # told in words
    fates = {"replication": replication.KINDS, "failover": TROUBLE}[kind]
    not_met = {fate.value for fate in fates if fate not in crashes} | {*ERRORS[kind].split()}
    seed = 0
    while not_met and seed < SEEDS[kind]:
        not_met -= run_seed(seed, kind=kind).judge.met.keys()
        seed += 1
    assert not not_met


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_the_same_world_everywhere(kind: str) -> None:
    def told(hash_seed: str) -> list[str]:
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.simulation",
                "--world",
                kind,
                "--seeds",
                "0-19",
                "--trace",
            ],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.splitlines()[:-1]  # the last line says how long it took

    first = told("1")
    assert len(first) > 300
    assert first == told("2")


def test_a_failing_seed_tells_its_last_steps_and_how_to_replay_it() -> None:
    with without(GUARDS, "guard-before-what-shows"):
        failure = first_failure(range(100), kind="replication")
    assert failure is not None
    seed, said = failure
    assert "without holding the lease" in said
    assert said.endswith(
        f"replay: python -m tests.simulation --world replication --seed {seed} --trace"
    )
    assert len(said.splitlines()) > 10
