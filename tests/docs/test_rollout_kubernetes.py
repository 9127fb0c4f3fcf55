"""The page of a rollout in Kubernetes: every option of its adapters, and examples that open."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import yaml

from mlplatform.adapters import deployments, gateway_versions
from mlplatform.core.rollout import Rollout
from mlplatform.core.store_url import StoreURL
from mlplatform.rollout.plan.seen import Rule
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/rollout-kubernetes.md").read_text()


@pytest.mark.parametrize(
    ("title", "adapter"), [("servers", deployments), ("split", gateway_versions)]
)
def test_every_option_is_there(title: str, adapter: ModuleType) -> None:
    (table,) = re.findall(rf"^\| {title} \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == adapter._OPTIONS


def test_the_example_opens() -> None:
    (example, _) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    section = Rollout.model_validate(yaml.safe_load(example)["rollout"])
    text = section.servers_of("resnet50", "eu-west-1")
    assert text is not None
    servers = deployments.open_servers(StoreURL.parse(text, noun="servers"), "resnet50")
    assert servers.url == "deployments://eu-west-1/ml-platform"
    text = section.actuator_of("resnet50", "eu-west-1")
    assert text is not None
    split = gateway_versions.open_split(StoreURL.parse(text, noun="actuator"), "resnet50", ["v1"])
    assert split.url == "httproute://eu-west-1/ml-platform/resnet50"


def test_every_rule_of_the_cluster_is_there() -> None:
    (table,) = re.findall(r"^\| rule \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    told = set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))
    source = (ROOT / "src/mlplatform/rollout/plan/ground.py").read_text()
    source += (ROOT / "src/mlplatform/rollout/plan/gpus.py").read_text()
    assert told == {Rule[name].value for name in re.findall(r"Rule\.([A-Z_]+)", source)}


def test_links_lead_somewhere() -> None:
    for linked in re.findall(r"\]\((\.\./[^)]+)\)", PAGE):
        assert (ROOT / "docs" / linked).is_file(), linked
