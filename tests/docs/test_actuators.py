"""The pages of actuators against their adapters: every option is there, and the examples open."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import yaml
from botocore.session import Session

from mlplatform.adapters import gateway_api, route53
from mlplatform.core.store_url import StoreURL
from mlplatform.core.traffic import Traffic
from tests.docs.pages import ROOT

PAGES = [
    pytest.param("world-gateway.md", gateway_api, {}, id="httproute"),
    pytest.param("route53.md", route53, {"session": Session()}, id="route53"),
]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize(("name", "adapter", "given"), PAGES)
def test_a_page_has_every_option_and_an_example_that_opens(
    name: str, adapter: ModuleType, given: dict[str, Any]
) -> None:
    page = (ROOT / "docs" / name).read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == adapter._OPTIONS
    section = Traffic.model_validate(yaml.safe_load(blocks(page, "yaml")[0])["traffic"])
    route = section.routes["api"]
    targets = {region: route.targets.get(region, ("endpoint:80",)) for region in route.weights}
    url = StoreURL.parse(route.actuator, noun="actuator")
    opened = adapter.open_traffic(url, targets, **given)
    assert opened.url == str(url)
    for linked in re.findall(r"\]\((\.\./[^)]+)\)", page):
        assert (ROOT / "docs" / linked).is_file(), linked
