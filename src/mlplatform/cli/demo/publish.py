"""The chapter `publish`: a model published once, and everywhere, verified; whatever happens on the
way."""

from __future__ import annotations

import shutil

from mlplatform.cli.demo.models import MINILM, magika, minilm
from mlplatform.cli.demo.stage import Stage
from mlplatform.core.errors import MlplatformError


def tell(stage: Stage) -> None:
    """The chapter."""
    folder = stage.folder
    stage.heading("Three regions, two real models")
    stage.set_up()
    published = magika(folder), minilm(folder)
    stage.tell(f"In {folder}/topology.yaml:\n\n" + stage.topology().rstrip())
    stage.run("mlplatform status")

    stage.heading("Publish: every byte is digested, and the manifest is written last")
    stage.run(f"mlplatform publish {published[0].name} --model magika --version v3.3.0")
    stage.run(f"mlplatform publish {published[1].name} --model minilm --version v1.0.0")

    stage.heading("Replicate: the source is read once, for both targets")
    stage.run("mlplatform replicate --plan")
    stage.run("mlplatform replicate")
    stage.run(f"mlplatform verify {MINILM} --deep")

    stage.heading("A byte rots in Europe")
    victim = stage.store("eu-west-1") / "models" / "minilm" / "v1.0.0" / "model.safetensors"
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
    region = stage.store("ap-southeast-1")
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
