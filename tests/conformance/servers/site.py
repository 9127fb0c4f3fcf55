"""What the servers suite asks of a keeper's surroundings, beside the port.

A site is one model with two published versions, `v1` and `v2`, of which nothing runs yet, and
whatever starts and stops its servers. An adapter's row in `matrix.py` names how one is made. What a
site cannot do it leaves as it is here: the clause is then "not declared" for that keeper.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from mlplatform.ports.servers import Servers

OTHER_DIGEST = f"blake3:{'0' * 64}"
"""Of no version."""


def not_offered(what: str) -> None:
    """Skip: the site cannot be made to do it."""
    pytest.skip(f"not declared: {what}")


class Site:
    """One model where nothing runs yet. Its adapters see the same, as several processes would."""

    def open(self) -> Servers:
        """An adapter of its own."""
        raise NotImplementedError

    def digest(self, version: str) -> str:
        """What servers of `v1` or `v2` state."""
        raise NotImplementedError

    def answers(self, address: str) -> str:
        """Which version answers a client's request at `host:port`."""
        not_offered("servers that answer")
        raise NotImplementedError

    def crash(self, address: str) -> None:
        """The server at `host:port` ends, and nobody told it to."""
        not_offered("servers that crash")

    def scale_by_one_who_dies(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> None:
        """A controller of its own does it, and is killed as soon as it is told that it is done."""
        not_offered("a controller that dies")

    def unreachable(self) -> AbstractContextManager[object]:
        """While the block lasts, nobody can be asked; adapters that are open are cut off too."""
        not_offered("a keeper that is cut off")
        raise NotImplementedError

    def lose_record(self) -> None:
        """What says which servers there are is no more, and they run on."""
        not_offered("a record that can be lost")
