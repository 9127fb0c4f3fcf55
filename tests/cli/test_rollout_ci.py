"""`mlplatform rollout apply` as a step of a pipeline: real servers behind a real Caddy, its exit
code, its JSON, and what GitHub Actions is told. One that is returned is on the page,
`docs/rollout.md`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.estate import Ran
from tests.docs.pages import stage
from tests.docs.rolled import BAD, GOOD, rolled

pytestmark = [pytest.mark.real("caddy"), pytest.mark.xdist_group("rollout_ci")]
RUNNER = {"GITHUB_ACTIONS": "true"}


@dataclass(frozen=True)
class Pipeline:
    """A folder in which lines are typed, by a runner of GitHub Actions or elsewhere."""

    folder: Path
    environment: Mapping[str, str]

    def __call__(self, line: str, **env: str) -> Ran:
        ran = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**self.environment, **env},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Two regions in which a model serves, and clients that ask it."""
    folder = tmp_path_factory.mktemp("pipeline")
    with rolled(folder, stage(folder)) as environment:
        step = Pipeline(folder, environment)
        step("clients start")
        yield step


def annotated(ran: Ran) -> list[str]:
    return [line for line in ran.err.splitlines() if line.startswith("::")]


def test_what_became_of_it_is_an_annotation_a_document_and_an_exit_code(step: Pipeline) -> None:
    apply = f"mlplatform rollout apply magika@{GOOD} --region eu-west-1 --yes --wait --output json"
    ran = step(apply, **RUNNER)
    assert ran.code == 0, ran.said
    assert annotated(ran) == [
        f"::notice title=rollout of magika@{GOOD}::magika@{GOOD} serves in every region of the plan"
    ]
    told = ran.json()
    assert (told["ended"], told["because"], told["holds"]) == ("promoted", "", [])
    assert {each["region"] for each in told["outcomes"]} == {"eu-west-1"}


def test_what_stands_in_the_way_and_what_cannot_be_is_annotated_too(step: Pipeline) -> None:
    withdrawn = f"mlplatform withdraw magika@{BAD} --reason '100% wrong'"
    assert step(withdrawn).code == 0
    ran = step(f"mlplatform rollout apply magika@{BAD} --yes --output json", **RUNNER)
    assert ran.code == 3, ran.said
    document = ran.json()
    assert (document["ended"], document["actions"]) == ("held", [])
    assert {each["region"] for each in document["holds"]} == {"us-east-1", "eu-west-1"}
    (told,) = annotated(ran)
    assert told.startswith(
        f"::error title=rollout of magika@{BAD}::magika@{BAD}: nothing was begun"
    )
    assert f"withdrawn: magika@{BAD}: 100%25 wrong" in told

    absent = "mlplatform rollout apply magika@v9 --yes --output json"
    ran = step(absent, **RUNNER)
    assert ran.code == 2, ran.said
    (told,) = annotated(ran)
    assert told == (
        "::error title=rollout of magika@v9::magika@v9: there is no such version%0A"
        "`mlplatform versions magika` lists those there are"
    )
    assert annotated(step(absent)) == []  # on a laptop
