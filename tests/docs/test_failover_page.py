"""The tables of docs/failover.md against the code: every key with its default, every gate, every
rule, every alert's heading."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from mlplatform.core.traffic import Route, Safety, Traffic
from mlplatform.failover.decision.rules import UNBREAKABLE
from mlplatform.failover.decision.seen import Gate, Rule
from mlplatform.wiring import TRAFFIC_ADAPTERS
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "failover.md").read_text()


def section(heading: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {heading}\n")
    assert rest, heading
    return re.split(r"\n##? ", rest)[0]


def rows(heading: str) -> dict[str, list[str]]:
    """The cells beside each `name` of a section's tables."""
    lines = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section(heading), re.MULTILINE)
    return {name: rest.split(" | ") for name, rest in lines}


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(each) for each in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize(("heading", "model"), [("Policies", Safety), ("The route", Route)])
def test_every_key_is_there_once_with_its_default(heading: str, model: type[BaseModel]) -> None:
    told = rows(heading)
    assert told.keys() == model.model_fields.keys()
    for name, field in model.model_fields.items():
        if not field.is_required() and field.default_factory is None and field.default != ():
            assert told[name][0] == shown(field.default), name


def test_every_gate_and_every_rule_that_can_say_no() -> None:
    named = rows("When it says no").keys()
    assert named == {each.value for each in (*Gate, *Rule)} - {each.value for each in UNBREAKABLE}


def test_every_actuator_that_there_is() -> None:
    schemes = set(re.findall(r"`(\w+)://", section("What zero means")))
    assert schemes == TRAFFIC_ADAPTERS.keys() - {"memory"}


def test_its_examples_are_topologies() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        Traffic.model_validate(yaml.safe_load(block)["traffic"])
