"""Every guard is needed: without it, some world fails, and soon."""

from __future__ import annotations

import pytest

from tests.simulation.guards import GUARDS, without
from tests.simulation.run import first_failure

WITHIN = 2000
"""Seeds. The rarest are caught once in about two hundred."""


@pytest.mark.slow
@pytest.mark.parametrize("guard", sorted(GUARDS))
def test_a_world_without_the_guard_fails(guard: str) -> None:
    with without(guard):
        failure = first_failure(range(WITHIN))
    assert failure is not None, f"{WITHIN} worlds are well without {guard}: they are too kind"
