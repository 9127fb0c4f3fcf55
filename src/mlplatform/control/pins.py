"""What a rollout may go back to: the last verified good version of a region. It serves there still,
or its bytes are what it is started from again, so nobody may take them away or call them bad
without knowing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mlplatform.control.quorum import ControlStore
from mlplatform.core.errors import NoMajority
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Record
from mlplatform.core.seen import Unknown

_PINS = "observations/pins/"


class Pin(Record):
    """A version that stays in a region for as long as an operation may go back to it."""

    model: str
    version: str
    digest: str
    region: str
    operation: str
    at: datetime

    @property
    def subject(self) -> ModelVersion:
        """What is pinned."""
        return ModelVersion(self.model, self.version)


@dataclass(frozen=True, slots=True)
class Pins:
    """All pins of a control store; one a model and region."""

    control: ControlStore

    def put(self, pin: Pin) -> None:
        """Pin a version. `NoMajority` if it may not have been heard."""
        what = f"the pin of {pin.model} in {pin.region}"
        self.control.put_heeded(_key(pin.model, pin.region), pin.encoded, what)

    def read(self, model: str = "") -> tuple[Pin, ...]:
        """Every pin, or those of a model, by region. `NoMajority` if they cannot be known."""
        below = f"{_PINS}{model}/" if model else _PINS
        found = self.control.read_observations(below).of(Pin)
        return tuple(sorted(set(found), key=lambda pin: (pin.model, pin.region, pin.at)))

    def drop(self, model: str, region: str) -> None:
        """Take a pin off; without one there is nothing to do."""
        self.control.drop_observation(_key(model, region))

    def seen(self, model: str = "") -> tuple[Pin, ...] | Unknown:
        """`read`, for those who tell what is known and go on."""
        try:
            return self.read(model)
        except NoMajority as error:
            return Unknown(f"what rollouts go back to is not known: {error}")


def _key(model: str, region: str) -> str:
    return f"{_PINS}{model}/{region}.json"
