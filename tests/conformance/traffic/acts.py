"""What the clauses do over and over."""

from __future__ import annotations

from mlplatform.ports.traffic import RouteState, Traffic, Weights, expressible


def shares(traffic: Traffic, **weights: int) -> Weights:
    """Those weights, 0 for the regions that are not named, as the actuator can hold them."""
    return expressible({"a": 0, "b": 0, "c": 0, **weights}, traffic.features)


def content(state: RouteState) -> tuple[dict[str, int], int, str]:
    """All of a state that somebody wrote."""
    return dict(state.weights), state.epoch, state.writer


def claim(traffic: Traffic, epoch: int, writer: str = "somebody") -> RouteState:
    """The weights that are there, under a new epoch."""
    state = traffic.read()
    return traffic.write(state.weights, epoch=epoch, writer=writer, expected=state)


def put(traffic: Traffic, weights: Weights, epoch: int, writer: str = "somebody") -> RouteState:
    """Those weights, on whatever is there."""
    return traffic.write(weights, epoch=epoch, writer=writer, expected=traffic.read())
