"""Taking a target over before anything is decided of it."""

from __future__ import annotations

from mlplatform.core.errors import Fenced
from mlplatform.ports.traffic import RouteState, Traffic, check_epoch


def claimed(traffic: Traffic, state: RouteState, *, epoch: int, writer: str) -> RouteState:
    """What a target holds, claimed under `epoch`: it refuses every older writer from then on.
    `Fenced` if it knows a newer epoch, or another writer under the same."""
    check_epoch(state, epoch, where=traffic.url)
    if state.epoch == epoch and state.writer in ("", writer):
        return state
    if state.epoch == epoch:
        raise Fenced(
            f"{traffic.url} was claimed under epoch {epoch} by {state.writer}, and it is that of "
            f"{writer} too",
            hint="a control store has forgotten who had it; run again",
        )
    return traffic.write(state.weights, epoch=epoch, writer=writer, expected=state)
