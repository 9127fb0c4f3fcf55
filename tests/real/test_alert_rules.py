"""Every shipped alert rule is tested by Prometheus's own tool, and leads somewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "infra" / "prometheus").glob("*.rules.yaml"))


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_promtool_upholds_the_rules(promtool: Path, rules: Path) -> None:
    tests = rules.with_name(rules.name.replace(".rules.", ".tests."))
    ran = subprocess.run(
        [promtool, "test", "rules", tests.name],
        cwd=rules.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_every_alert_is_tested_and_links_to_a_heading_that_exists(rules: Path) -> None:
    tests = rules.with_name(rules.name.replace(".rules.", ".tests.")).read_text()
    for group in yaml.safe_load(rules.read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                assert f"expr: {rule['record']}" in tests
                continue
            assert f"alertname: {rule['alert']}" in tests
            page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            headings = {
                line.lstrip("#").strip().lower().replace(" ", "-").replace("'", "")
                for line in (ROOT / page).read_text().splitlines()
                if line.startswith("#")
            }
            assert anchor in headings
