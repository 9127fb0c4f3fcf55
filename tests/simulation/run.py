"""One seed, and what is said of it when it fails."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tests.simulation.failover import guards as failover_guards
from tests.simulation.failover import world as failover
from tests.simulation.guards import Guards
from tests.simulation.judge import Violation, spell
from tests.simulation.memo import remembering
from tests.simulation.replication import guards as replication_guards
from tests.simulation.replication import world as replication
from tests.simulation.world import World


@dataclass(frozen=True)
class Kind:
    """A kind of world."""

    make: Callable[[int, Callable[[str], None] | None], World]
    guards: Guards


KINDS: Mapping[str, Kind] = {
    "replication": Kind(
        lambda seed, tell: replication.World(seed, tell=tell), replication_guards.GUARDS
    ),
    "failover": Kind(lambda seed, tell: failover.World(seed, tell=tell), failover_guards.GUARDS),
}


def run_seed(seed: int, *, kind: str, tell: Callable[[str], None] | None = None) -> World:
    """Run a world. `AssertionError` with the last steps, and the line that replays it."""
    world = KINDS[kind].make(seed, tell)
    logging.disable()
    gc.disable()  # once a world is enough: a sixth of the time goes into it else
    try:
        with remembering():
            world.run()
    except Violation as violation:
        steps = "\n".join(spell(step) for step in list(world.judge.steps)[-40:])
        raise AssertionError(
            f"seed {seed}: {violation}\n{steps}\n"
            f"replay: python -m tests.simulation --world {kind} --seed {seed} --trace"
        ) from violation
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
    return world


def first_failure(seeds: Iterable[int], *, kind: str) -> tuple[int, str] | None:
    """The first world that fails, and what it says."""
    for seed in seeds:
        try:
            run_seed(seed, kind=kind)
        except AssertionError as failure:
            return seed, str(failure)
    return None
