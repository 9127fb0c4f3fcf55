"""One seed, and what is said of it when it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from tests.simulation.judge import Violation, spell
from tests.simulation.world import World


def run_seed(seed: int, *, tell: Callable[[str], None] | None = None) -> World:
    """Run a world. `AssertionError` with the last steps, and the line that replays it."""
    world = World(seed, tell=tell)
    logging.disable()
    try:
        world.run()
    except Violation as violation:
        steps = "\n".join(spell(step) for step in list(world.judge.steps)[-40:])
        raise AssertionError(
            f"seed {seed}: {violation}\n{steps}\n"
            f"replay: python -m tests.simulation --seed {seed} --trace"
        ) from violation
    finally:
        logging.disable(logging.NOTSET)
    return world


def first_failure(seeds: Iterable[int]) -> tuple[int, str] | None:
    """The first world that fails, and what it says."""
    for seed in seeds:
        try:
            run_seed(seed)
        except AssertionError as failure:
            return seed, str(failure)
    return None
