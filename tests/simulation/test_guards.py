"""Every guard is needed: without it, some world fails, and soon."""

from __future__ import annotations

import pytest

from tests.simulation.guards import without
from tests.simulation.run import KINDS, first_failure

WITHIN = 2000
"""Seeds. The rarest are caught once in about two hundred."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "guard"), [(kind, guard) for kind in KINDS for guard in sorted(KINDS[kind].guards)]
)
def test_a_world_without_the_guard_fails(kind: str, guard: str) -> None:
    with without(KINDS[kind].guards, guard):
        failure = first_failure(range(WITHIN), kind=kind)
    assert failure is not None, f"{WITHIN} worlds are well without {guard}: they are too kind"
