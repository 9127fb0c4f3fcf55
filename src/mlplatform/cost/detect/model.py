"""What the model takes for granted before it has seen anything. Pure.

All sizes are in logarithms of cost: 0.1 is about 10 %. The figures were chosen on generated series
(benchmarks/cost_detect.py, the seeds for tuning), of several kinds so that they fit no single one;
docs/adr/ has what they come to on seeds that were not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mlplatform.cost.detect.calendar import HOURS_A_DAY


@dataclass(frozen=True, slots=True)
class Bump:
    """A share of a mixture of normal distributions."""

    mean: float
    deviation: float
    share: float


@dataclass(frozen=True, slots=True)
class Model:
    """Prior beliefs. Chances and rates are those of one step."""

    weekday_deviation: float = 0.3
    """How far weekdays (and hours) lie apart before any was seen. It is what shrinks them."""
    month_deviation: float = 0.22
    """The same for the first of the month; half of it for the second and the third."""
    cell_deviation: float = 0.1
    """How far an hour of a weekday lies from what that weekday and that hour come to."""
    level_walk: float = 0.005
    """How far the level moves in a step."""
    level_walk_of_noise: float = 0.01
    """And how far in shares of the noise."""
    effect_walk: float = 0.002
    """How far an effect moves from one of its steps to the next: it forgets within about a year."""
    noise: float = 0.1
    noise_steps: float = 8.0
    """As many steps seen would weigh as much as the belief in `noise`."""
    noise_memory: float = 260.0
    noise_least: float = 0.012
    clip: float = 3.5
    """A residual counts towards the noise up to so many deviations."""
    distrust: float = 0.3
    """How much a residual that is no ordinary one counts towards the noise all the same."""
    freedom: float = 60.0
    """Degrees of freedom of ordinary noise, once enough of it was seen."""

    spike_chance: float = 0.022
    fall_chance: float = 0.002
    stay: float = 0.36
    """The chance that a spike or a fall goes on for another step."""
    shift_chance: float = 0.0053
    shift_deviation: float = 0.5
    ramp_chance: float = 0.0028
    ramp_stay: float = 0.922
    ramp_slope: float = 0.04
    ramp_slope_deviation: float = 0.036
    return_chance: float = 0.005
    return_steps: int = 60
    recur_chance: float = 0.05
    """The chance that what stood out a week or a month ago is a habit."""
    fall_weight: float = 0.2
    """How much a fall counts in the score, beside a rise: it costs nobody money."""
    unrest_memory: float = 45.0
    unrest_allowed: float = 0.05
    """A series that stands out more often than this is taken to be like that."""

    run_steps: int = 12
    """The longest run that is told from others by its length."""
    agreeing_steps: int = 3
    """So many residuals that agree are a new level."""
    shift_belief: float = 0.69
    """How sure of it one must be."""

    rises: tuple[Bump, ...] = (
        Bump(0.2, 0.1, 0.35),
        Bump(0.45, 0.2, 0.4),
        Bump(1.0, 0.5, 0.2),
        Bump(2.0, 2.0, 0.05),
    )
    """How large rises are; few are below 10 %, for those are nobody's alarm."""
    falls: tuple[Bump, ...] = (Bump(-0.3, 0.15, 0.5), Bump(-1.0, 0.8, 0.45), Bump(-3.0, 2.5, 0.05))

    @property
    def shifts(self) -> tuple[Bump, ...]:
        """How far new levels are from the old; some far away."""
        return (Bump(0.0, self.shift_deviation, 0.95), Bump(0.0, 3.0, 0.05))


DAILY = Model()


def hourly(model: Model = DAILY) -> Model:
    """The same beliefs where a step is an hour: things last as long, in more steps."""
    return replace(
        model,
        level_walk=model.level_walk / math.sqrt(HOURS_A_DAY),
        level_walk_of_noise=model.level_walk_of_noise / math.sqrt(HOURS_A_DAY),
        noise_steps=model.noise_steps * 2,
        noise_memory=model.noise_memory * 6,
        spike_chance=model.spike_chance / 6,
        fall_chance=model.fall_chance / 6,
        stay=0.85,
        shift_chance=model.shift_chance / 6,
        ramp_chance=model.ramp_chance / 6,
        ramp_stay=0.97,
        ramp_slope=model.ramp_slope / 4,
        ramp_slope_deviation=model.ramp_slope_deviation / 4,
        return_chance=model.return_chance / 3,
        return_steps=model.return_steps * HOURS_A_DAY,
        unrest_memory=model.unrest_memory * HOURS_A_DAY,
        run_steps=24,
        agreeing_steps=12,
    )
