"""What the pages show is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, matches, run, stage, steps_of

EXECUTED = [page for page in PAGES if "```console" in page.read_text()]


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_the_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    environment = stage(tmp_path)
    for step in steps_of(page.read_text()):
        wrong = run(step, tmp_path, environment)
        assert wrong is None, f"{page.name}:{step.line}: $ {step.command}\n{wrong}"


@pytest.mark.parametrize(
    ("wanted", "shown", "same"),
    [
        (["done 3 files"], ["done 12 files"], True),
        (["done 3 files"], ["done three files"], False),
        (["a", "…", "z"], ["a", "b", "c", "z"], True),
        (["a", "…", "z"], ["a", "b", "c"], False),
        (["sent … in 3 ms"], ["sent 87.4 MiB in 1.2 s"], True),
        (["blake3:00"], ["blake3:ab12cd"], True),
        (["one"], ["one", "two"], False),
    ],
)
def test_lines_are_compared_generously_but_not_blindly(
    wanted: list[str], shown: list[str], same: bool
) -> None:
    assert matches(wanted, shown) is same
