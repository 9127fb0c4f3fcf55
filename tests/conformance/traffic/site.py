"""What the traffic suite asks of an actuator's surroundings, beside the port.

A site is one fresh route over the regions a, b and c, claimed by nobody, and whatever holds it. An
adapter's row in `matrix.py` names how one is made. What a site cannot do it leaves as it is here:
the clause is then "not declared" for that actuator.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager

import pytest

from mlplatform.ports.traffic import Traffic, Weights

REGIONS = ("a", "b", "c")


def not_offered(what: str) -> None:
    """Skip: the site cannot be made to do it."""
    pytest.skip(f"not declared: {what}")


class Site:
    """One fresh route. Its adapters see the same object, as several processes would."""

    def open(self) -> Traffic:
        """An adapter of its own on the route."""
        raise NotImplementedError

    def change_by_hand(self, weights: Weights) -> None:
        """As an operator would who knows nothing of us: the weights alone, past every adapter."""
        not_offered("changes by hand")

    def remove(self) -> None:
        """The route is no more."""
        not_offered("a route that is removed")

    def unreachable(self) -> AbstractContextManager[object]:
        """While the block lasts, nobody answers; adapters that are open are cut off too. Keep the
        adapter's time-out short."""
        not_offered("an actuator that is cut off")
        raise NotImplementedError

    def answers_lost(self) -> AbstractContextManager[object]:
        """While the block lasts, a write is applied, and its answer never arrives."""
        not_offered("answers that are lost")
        raise NotImplementedError

    def restart(self) -> None:
        """What holds the route dies without warning, and is started again as its guide says."""
        not_offered("a restart")

    def requests(self, count: int) -> Counter[str]:
        """That many requests of real clients, by the region that answered; "" where none did."""
        not_offered("a data plane")
        raise NotImplementedError
