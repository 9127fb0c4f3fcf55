"""What the pages show is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import MONITORED, PAGES, ROOT, matches, run, staged, steps_of

EXECUTED = [page for page in PAGES if "```console" in page.read_text()]


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_the_page_does_what_it_says(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page.name in MONITORED:
        request.getfixturevalue("prometheus")  # it is skipped where there is none
    with staged(page, tmp_path) as environment:
        incidents: dict[str, str] = {}
        for step in steps_of(page.read_text()):
            wrong = run(step, tmp_path, environment, incidents)
            assert wrong is None, f"{page.name}:{step.line}: $ {step.command}\n{wrong}"


def test_the_readme_s_make_lines_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "make " in line]
    named = {line.split()[1] for line in lines if line.startswith("make ")}
    assert {"demo", "test"} <= named
    assert all(f"\n{target}:" in makefile for target in named)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    ("wanted", "shown", "same"),
    [
        (["done 3 files"], ["done 12 files"], True),
        (["done 3 files"], ["done three files"], False),
        (["a", "…", "z"], ["a", "b", "c", "z"], True),
        (["a", "…", "z"], ["a", "b", "c"], False),
        (["sent … in 3 ms"], ["sent 87.4 MiB in 1.2 s"], True),
        (["blake3:00"], ["blake3:ab12cd"], True),
        (["7f3a21bc open 99.5"], ["00112233 open 1,099.5"], True),
        (["7f3a21bc open"], ["7f3a21b open"], False),
        (["one"], ["one", "two"], False),
        (["one", "two"], ["two", "one"], True),
        (["one", "one"], ["one", "two"], False),
    ],
)
def test_lines_are_compared_generously_but_not_blindly(
    wanted: list[str], shown: list[str], same: bool
) -> None:
    assert matches(wanted, shown) is same
