"""Pages that are executed: every ```console block of README.md and docs/*.md is typed and compared,
and every ```python block is run.

    ```console
    $ mlplatform verify minilm --deep
    REGION     VERDICT   …
    [exit 3]
    ```

Lines after a command are what it must print (stdout and stderr together). A line that is only `…`
stands for any lines, `…` within a line for any text. Numbers differ from run to run, so each stands
for any number. A page runs from its top in one folder, which holds three regions on `file://`, a
topology and two small models (`stage`). Pages in SERVED have servers, a router and vantages too
(`tests.docs.served`), those in ROLLED a model that serves and two that are to
(`tests.docs.rolled`), those in WITH_ONNX_FILE a real model (`tests.docs.onnx_file`), those in
BILLED a bill (`tests.docs.billed`), those in MONITORED a bill and a Prometheus
(`tests.docs.monitored`). An incident's id is another one each day: where a page types
one that it has shown, the one is typed that was shown in its place.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVED = {"failover.md"}
ROLLED = {"rollout.md"}
WITH_ONNX_FILE = {"serving.md"}
BILLED = {"cost.md"}
MONITORED = {"cost-prices-and-waste.md"}
REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-1")

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_UNIT = re.compile(r"N (?:ms|s|m|h|B|KiB|MiB|GiB)\b")
_DIGEST = re.compile(r"blake3:[0-9a-f]+")
_OPERATION = re.compile(r"\d{8}T\d{6}Z-([a-z]+)-[0-9a-f]{6}")
_NUMBERED = re.compile(r"\b(rollout|replicate|failover|scale) [0-9a-f]{6}\b")
_INCIDENT = re.compile(r"(?<![\w.-])[0-9a-f]{8}(?:[0-9a-f]{4})?(?![\w.-])")
"""An incident, or a plan."""
_WHO = re.compile(r"[\w.-]+@[\w.-]+:\d+")
_SPACES = re.compile(r"\s+")
_TITLE = re.compile(r"\S+(?: \S+)*")


@dataclass(slots=True)
class Step:
    """One command of a page, and what it must print."""

    line: int
    command: str
    expected: list[str] = field(default_factory=list)
    exit_code: int = 0


def steps_of(text: str) -> Iterator[Step]:
    """The commands of a page, in order."""
    inside = ""
    step: Step | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("```"):
            if step is not None:
                yield step
                step = None
            inside = line.strip("` ")
            if inside == "python":
                step = Step(number, "python - <<'END'")
        elif inside == "python" and step is not None:
            step.command += f"\n{line}"
        elif inside != "console":
            continue
        elif line.startswith("$ "):
            if step is not None:
                yield step
            step = Step(number, line[2:])
        elif step is not None and step.command.endswith("\\") and not step.expected:
            step.command = step.command[:-1] + line.lstrip("> ")
        elif step is not None and (exit_code := re.fullmatch(r"\[exit (\d+)\]", line)):
            step.exit_code = int(exit_code[1])
        elif step is not None:
            step.expected.append(line)


def stage(folder: Path) -> dict[str, str]:
    """Prepare the folder that pages assume, and the environment of their commands."""
    for name in ("control", *REGIONS):
        (folder / name).mkdir()
    stores = "".join(f'  {name}: {{store: "file://{folder}/{name}"}}\n' for name in REGIONS)
    (folder / "topology.yaml").write_text(
        f"control: file://{folder}/control\nregions:\n{stores}models:\n"
        "  resnet50: {version: v1.2.0, home: us-east-1, "
        "replicate_to: [eu-west-1, ap-southeast-1]}\n"
    )
    model = folder / "resnet50"
    model.mkdir()
    (model / "model.onnx").write_bytes(bytes(range(256)) * 8192)
    (model / "labels.json").write_text('["cat", "dog"]\n')
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MLPLATFORM_")
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["NO_COLOR"] = "1"
    return environment


@contextmanager
def staged(page: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The stage of a page, as long as it is needed; the environment of its commands."""
    environment = stage(folder)
    if page.name in WITH_ONNX_FILE:
        from tests.docs.onnx_file import with_onnx_file

        with with_onnx_file(folder, environment) as inside:
            yield inside
        return
    if page.name in MONITORED:
        from tests.docs.monitored import monitored

        with monitored(folder):
            yield environment
        return
    if page.name in BILLED:
        from tests.docs.billed import bill

        bill(folder)
    if page.name in ROLLED:
        from tests.docs.rolled import rolled

        with rolled(folder, environment) as inside:
            yield inside
        return
    if page.name not in SERVED:
        yield environment
        return
    from tests.docs.served import served

    with served(folder, environment) as inside:
        yield inside


def run(
    step: Step, folder: Path, environment: dict[str, str], incidents: dict[str, str] | None = None
) -> str | None:
    """Type a command; what is wrong with what it did, if anything. `incidents` are those of the
    page, and what they are called this time; it grows."""
    known = {} if incidents is None else incidents
    ran = subprocess.run(
        ["bash", "-c", with_incidents(step.command, known)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    told = ran.stdout.replace(str(folder), "/srv")
    if ran.returncode != step.exit_code:
        return f"exit code {ran.returncode}, the page says {step.exit_code}:\n{told}"
    known.update(incidents_in(step.expected, told.splitlines()))
    shown = [line for line in told.splitlines() if line.strip()]
    wanted = [line for line in step.expected if line.strip()]
    if wanted and not matches(wanted, shown):
        return "printed:\n" + "\n".join(shown) + "\n\nthe page says:\n" + "\n".join(wanted)
    return None


def incidents_in(wanted: list[str], shown: list[str]) -> dict[str, str]:
    """The incidents that lines of a page name, and what those shown in their place are called."""
    page, now = (dict.fromkeys(_INCIDENT.findall("\n".join(lines))) for lines in (wanted, shown))
    return dict(zip(page, now, strict=False))


def with_incidents(text: str, incidents: Mapping[str, str]) -> str:
    """A text of the page as it is typed this time."""
    return _INCIDENT.sub(lambda found: incidents.get(found[0], found[0]), text)


def matches(wanted: list[str], shown: list[str]) -> bool:
    """Whether the lines are what the page says, with `…` and numbers read generously. Regions
    finish in any order, so without a `…` line the order of lines is free."""
    if "…" in (line.strip() for line in wanted):
        return _in_order(wanted, shown)
    left = list(shown)
    for line in wanted:
        found = next((each for each in left if _line_matches(line, each)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _in_order(wanted: list[str], shown: list[str]) -> bool:
    if not wanted:
        return not shown
    first, rest = wanted[0], wanted[1:]
    if first.strip() == "…":
        return any(_in_order(rest, shown[skipped:]) for skipped in range(len(shown) + 1))
    return bool(shown) and _line_matches(first, shown[0]) and _in_order(rest, shown[1:])


def _line_matches(wanted: str, shown: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in _plain(wanted).split("…"))
    return re.fullmatch(pattern, _plain(shown)) is not None


def _plain(line: str) -> str:
    line = _WHO.sub("WHO", _OPERATION.sub(r"OPERATION-\1", _DIGEST.sub("DIGEST", line)))
    line = _NUMBERED.sub(r"\1 NUMBER", _INCIDENT.sub("INCIDENT", line))
    line = _UNIT.sub("N UNIT", _NUMBER.sub("N", line))
    return _SPACES.sub(" ", line).strip()


def record(page: Path) -> None:
    """Write into the page what its commands print now; lines with `…` are kept as they are."""
    import tempfile

    with tempfile.TemporaryDirectory() as name, staged(page, Path(name)) as environment:
        folder = Path(name)
        lines = page.read_text().splitlines()
        steps = [each for each in steps_of("\n".join(lines)) if "\n" not in each.command]
        told: list[str] = []
        incidents: dict[str, str] = {}
        for step in steps:
            step.command = with_incidents(step.command, incidents)
            ran = subprocess.run(
                ["bash", "-c", step.command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            incidents.update(incidents_in(step.expected, ran.stdout.splitlines()))
            shown = _in_srv(ran.stdout.rstrip("\n").splitlines(), name)
            told.append(
                "\n".join(
                    [
                        f"$ {step.command}",
                        *(
                            [with_incidents(line, incidents) for line in step.expected]
                            if any("…" in line for line in step.expected)
                            else shown
                        ),
                        *([f"[exit {ran.returncode}]"] if ran.returncode else []),
                    ]
                )
            )
    blocks = iter(told)
    written: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("```"):
            inside = line.strip() == "```console"
            written.append(line)
        elif not inside:
            written.append(line)
        elif line.startswith("$ "):
            written.append(next(blocks))
    page.write_text("\n".join(written) + "\n")


def _in_srv(lines: list[str], folder: str) -> list[str]:
    """The lines with `/srv` for the folder. A table's heading moves with what stands below it."""
    shown = [line.replace(folder, "/srv") for line in lines]
    for number, (heading, row) in enumerate(pairwise(lines)):
        if folder in row and heading.isupper() and "  " in heading:
            titles = _TITLE.finditer(heading)
            *_, end = (title.end() for title in titles if title.start() <= row.index(folder))
            excess = " " * (len(folder) - len("/srv"))
            shown[number] = heading[:end] + heading[end:].replace(excess, "", 1)
    return shown


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(Path(argument))
