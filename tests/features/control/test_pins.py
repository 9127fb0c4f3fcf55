"""What a rollout may go back to is known to all, though a control store be lost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mlplatform.control.pins import Pin, Pins
from mlplatform.core.errors import NoMajority
from tests.features.control.members import Members, lost, read_only

PIN = Pin(
    model="m",
    version="v1",
    digest="blake3:aa",
    region="us",
    operation="op-1",
    at=datetime(2026, 11, 21, tzinfo=UTC),
)


def test_one_a_model_and_region() -> None:
    pins = Pins(Members().control())
    pins.put(PIN)
    pins.put(PIN.model_copy(update={"region": "eu"}))
    pins.put(PIN.model_copy(update={"model": "n"}))
    pins.put(newer := PIN.model_copy(update={"version": "v2"}))
    assert [(pin.region, str(pin.subject)) for pin in pins.read("m")] == [
        ("eu", "m@v1"),
        ("us", "m@v2"),
    ]
    assert newer in pins.read()
    pins.drop("m", "us")
    pins.drop("m", "us")
    assert [pin.region for pin in pins.read("m")] == ["eu"]
    assert len(pins.read()) == 2


def test_any_control_store_may_be_lost_and_too_many_are_told() -> None:
    members = Members()
    pins = Pins(members.control())
    with lost(members, 0):
        pins.put(PIN)
    with lost(members, 2):
        assert pins.read("m") == (PIN,)
    with (
        read_only(members, 0),
        read_only(members, 1),
        pytest.raises(NoMajority, match="the pin of m in us: 1 of 3 control stores took it"),
    ):
        pins.put(PIN)
    with lost(members, 0), lost(members, 1), pytest.raises(NoMajority):
        pins.read()


def test_what_is_damaged_is_no_pin() -> None:
    members = Members()
    control = members.control()
    control.put_observation("observations/pins/m/us.json", b'{"model": "m"')
    assert not Pins(control).read()
