"""The verdict's policy, from the topology's own words."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.core.rollout import Judging
from mlplatform.rollout.verdict.policy import Metric, Policy, Thresholds


def policy_of(section: Judging, regions: Sequence[str]) -> Policy:
    """What is asked of the canaries of a rollout through `regions`, among which alpha is shared."""
    simple = section.thresholds
    return Policy(
        regions=tuple(regions),
        metrics=tuple(Metric(name) for name in section.metrics),
        alpha=section.alpha,
        delta=section.delta,
        delta_promote=section.delta_promote,
        epsilon=section.epsilon,
        bake_seconds=section.bake_seconds,
        soak_seconds=section.soak_seconds,
        promote_on_time=section.promote_on_time,
        thresholds=None
        if simple is None
        else Thresholds(
            success_least=simple.success_least,
            slow_most=simple.slow_most,
            failed_checks=simple.failed_checks,
        ),
    )
