"""`python -m mlplatform_serving.tools.convert`: a model in another precision or form, as a version
that is ready to be published, or served as it lies there.

From ONNX: to half precision, eight bits, or a TensorRT plan. From an old PyTorch checkpoint: to
safetensors, or to ONNX and all of these where the module is named. Before anything is written the
converted model is asked what the original was, and the largest difference is told; beyond the
tolerance it is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from blake3 import blake3

from mlplatform_serving.backends.onnx import OnnxModel
from mlplatform_serving.backends.port import CONFIGURATION
from mlplatform_serving.models.golden import GOLDEN_FILE, GoldenRequest, write_golden
from mlplatform_serving.models.manifest import Requirements
from mlplatform_serving.names import is_name
from mlplatform_serving.tools import errors
from mlplatform_serving.tools.checkpoints import SUFFIXES, require_torch, to_safetensors
from mlplatform_serving.tools.compared import (
    Difference,
    compare,
    golden_of,
    inputs_of,
    made_requests,
    open_onnx,
)
from mlplatform_serving.tools.errors import CheckFailed, Usage
from mlplatform_serving.tools.exported import export_onnx, parse_input, parse_module
from mlplatform_serving.tools.plans import open_builder, plan_name
from mlplatform_serving.tools.precision import TOLERANCES, Precision, in_precision, read_onnx
from mlplatform_serving.tools.sources import Source, configuration_for, find_source
from mlplatform_serving.tools.versions import (
    build_manifest,
    new_version,
    place,
    publish_line,
    seal,
)

_PLANS = frozenset({".trt", ".plan", ".engine"})
_FILES = _PLANS | {".onnx", ".safetensors"}
_PROGRAMS = {
    ".pt2": "a program that PyTorch exported",
    **dict.fromkeys(_PLANS, "an engine for one kind of GPU"),
}


@dataclass(slots=True)
class Made:
    """What came of it."""

    body: bytes
    file: str
    requirements: Requirements = field(default_factory=Requirements)
    golden: tuple[GoldenRequest, ...] = ()
    differences: list[Difference] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 converted · 1 it failed · 2 usage, or something is not installed · 3 it differs too much,
    or the original is not what was published · 6 a checkpoint took too long · 130 interrupted."""
    return errors.run(_convert, arguments)


def _convert(arguments: Sequence[str] | None) -> int:
    asked = _parser().parse_args(arguments)
    precision = Precision(asked.precision)
    folder = asked.models or Path(os.environ.get("MODEL_CACHE_DIR") or "model_cache")
    source = find_source(asked.model, folder, asked.golden)
    output = asked.output or folder
    name, version = asked.name or source.name, asked.version or _version(source, precision)
    if not is_name(name) or not is_name(version):
        raise Usage(f"{name}@{version}: no name of a model and a version")
    if asked.module is not None:
        parse_module(asked.module)
    with tempfile.TemporaryDirectory() as scratch:
        made = _made(source, asked, precision, name, Path(scratch))
    if output.suffix in _FILES:
        if (output.suffix in _PLANS) != (Path(made.file).suffix in _PLANS) or (
            output.suffix == ".safetensors"
        ) != made.file.endswith(".safetensors"):
            raise Usage(f"{output}: what was made is {Path(made.file).suffix[1:]}, not that")
        written, digest = _write_file(output, made, name, version)
    else:
        written, digest = _write_version(output, made, source, name, version)
    line = publish_line(written, name, version, made.requirements)
    _tell(made, f"{name}@{version}", written, digest, line, as_json=asked.json)
    return 0


def _version(source: Source, precision: Precision) -> str:
    """After the original's, and before it by number, so that no server takes it for newer."""
    version = source.version or "v1.0.0"
    return (
        version
        if precision is Precision.FP32 and source.version is None
        else (f"{version}-{precision}")
    )


def _made(
    source: Source,
    asked: argparse.Namespace,
    precision: Precision,
    name: str,
    scratch: Path,
) -> Made:
    suffix = source.path.suffix
    if suffix in _PROGRAMS:
        raise Usage(
            f"{source.path}: {_PROGRAMS[suffix]} cannot be converted",
            hint="convert what it was made of",
        )
    wants_plan = asked.to == "tensorrt" or (asked.output and asked.output.suffix in _PLANS)
    builder = open_builder() if wants_plan else None
    weights, said = _weights(source, scratch)
    if weights is not None and asked.module is None:
        if precision is not Precision.FP32 or builder is not None:
            raise Usage(
                "weights alone have no graph that could be converted",
                hint="name what has: --module package.module:Class --input x:FP32:-1,3,224,224",
            )
        if source.path == weights:
            raise Usage(f"{source.path}: is safetensors already", hint="--module makes ONNX of it")
        body = weights.read_bytes()
        return Made(body, f"{name}.safetensors", Requirements(format="safetensors"), said=said)
    if weights is not None:
        sys.path.insert(0, str(Path.cwd()))
        original = export_onnx(asked.module, weights, [parse_input(each) for each in asked.input])
    elif suffix == ".onnx":
        original = read_onnx(source.path)
    else:
        raise Usage(
            f"{source.path}: {suffix or 'a file without an ending'} is nothing that is read here",
            hint="it reads .onnx, .safetensors, " + ", ".join(sorted(SUFFIXES)),
        )
    made = _in_precision(original, source, asked, precision, name)
    made.said = said + made.said
    if builder is not None:
        takes = open_onnx(made.body, "the converted model").signature.inputs
        plan = builder.build(made.body, takes, asked.batch_max)
        made.body, made.requirements = plan.body, plan.requirements()
        made.file = plan_name(name, precision, plan)
        made.said.append("the plan itself is asked its golden requests when it is loaded: WARMUP")
    return made


def _weights(source: Source, scratch: Path) -> tuple[Path | None, list[str]]:
    """The weights as safetensors, where the source is weights; and what is to be said of it."""
    if source.path.suffix == ".safetensors":
        return source.path, []
    if source.path.suffix not in SUFFIXES:
        return None, []
    require_torch()
    weights = scratch / "weights.safetensors"
    checkpoint = to_safetensors(source.path, weights)
    said = [
        f"{source.path}: {checkpoint.tensors} tensors, read by a process confined by "
        + ", ".join(checkpoint.confined_by)
    ]
    if checkpoint.left_out:
        said.append(f"left out, being no weights: {', '.join(checkpoint.left_out)}")
    return weights, said


def _in_precision(
    original: bytes, source: Source, asked: argparse.Namespace, precision: Precision, name: str
) -> Made:
    tolerance = TOLERANCES[precision] if asked.tolerance is None else asked.tolerance
    before = open_onnx(original, str(source.path))
    said = []
    golden = source.golden
    if golden:
        inputs = inputs_of(golden, before.signature)
        _check_original(golden, before)
    else:
        requests = made_requests(before.signature, asked.requests, asked.seed)
        golden = golden_of(before, requests, tolerance)
        inputs = inputs_of(golden, before.signature)
        said.append(
            f"no golden requests: {len(golden)} are made by chance (seed {asked.seed}); with real "
            "ones (--golden FILE) the difference would say more"
        )
    # Ranges learnt from chance would be those of nothing.
    calibration = inputs if source.golden else ()
    body = in_precision(original, precision, calibration, any_cpu=asked.any_cpu)
    if precision is Precision.INT8 and not asked.any_cpu:
        said.append(
            "on x86 without VNNI its products may overflow: WARMUP=true finds that out where it is "
            "served, and --any-cpu avoids it"
        )
    differences = compare(before, open_onnx(body, "the converted model"), inputs)
    for each in differences:
        if not each.absolute <= tolerance:
            raise CheckFailed(
                f"in {precision} it is not the same model: {each}, and {tolerance:g} is allowed",
                hint="--tolerance allows more; --golden FILE has real requests to learn ranges from"
                if precision is Precision.INT8
                else "--tolerance allows more",
            )
    if precision is not Precision.FP32:
        golden = tuple(replace(each, tolerance=max(each.tolerance, tolerance)) for each in golden)
    said.append(f"{len(original) / 1e6:.1f} MB as it was, {len(body) / 1e6:.1f} MB in {precision}")
    return Made(
        body,
        f"{name}-{precision}.onnx",
        Requirements(format="onnx"),
        golden,
        differences,
        said,
    )


def _check_original(golden: Sequence[GoldenRequest], model: OnnxModel) -> None:
    """The original must be what its golden requests say, or they say nothing of the other."""
    answers = golden_of(model, [each.request for each in golden], 0)
    for number, (wanted, given) in enumerate(zip(golden, answers, strict=True), start=1):
        if wrong := wanted.difference({"outputs": list(given.outputs)}):
            raise CheckFailed(
                f"golden request {number}: the original itself gives something else: {wrong}"
            )


def _write_file(output: Path, made: Made, name: str, version: str) -> tuple[Path, str]:
    """The file that was asked for, and its manifest beside it."""
    place(output, made.body)
    body = build_manifest(name, version, {output.name: output}, made.requirements)
    place(output.with_name(output.name + ".manifest.json"), body)
    if output.suffix in _PLANS and output.name != made.file:
        made.said.append(f"the file would say what it needs if it were called {made.file}")
    return output, f"blake3:{blake3(body).hexdigest()}"


def _write_version(
    output: Path, made: Made, source: Source, name: str, version: str
) -> tuple[Path, str]:
    with new_version(output, name, version) as folder:
        for path, location in source.beside.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(location, folder / path)
        configuration = configuration_for(source, made.file)
        if configuration is not None:
            (folder / CONFIGURATION).write_bytes(configuration)
        if made.golden:
            (folder / GOLDEN_FILE).write_bytes(write_golden(made.golden))
        (folder / made.file).write_bytes(made.body)
        digest = seal(folder, name, version, made.requirements)
    return output / name / version, digest


def _tell(
    made: Made, subject: str, written: Path, digest: str, line: str, *, as_json: bool
) -> None:
    if as_json:
        told = {
            "version": subject,
            "path": str(written),
            "file": made.file,
            "bytes": len(made.body),
            "digest": digest,
            "golden_requests": len(made.golden),
            "differences": [
                {"output": each.output, "absolute": each.absolute, "relative": each.relative}
                for each in made.differences
            ],
            "said": made.said,
            "publish": line,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        return
    lines = [f"{subject}: {each}" for each in (*made.said, *made.differences)]
    lines += [f"{written}: {digest}", f"publish it: {line}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving.tools.convert",
        description="A model in another precision or form, checked against the original, with a "
        "manifest that is ready to be published.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="a file of this machine, or NAME or NAME@VERSION in --models; nothing is fetched",
    )
    parser.add_argument(
        "--precision",
        choices=[each.value for each in Precision],
        default=Precision.FP32.value,
        help="fp32 leaves it as it is (%(default)s)",
    )
    parser.add_argument(
        "--to",
        choices=("onnx", "tensorrt"),
        default="onnx",
        help="a plan needs TensorRT and the GPU it is for (%(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="a folder of models, which gets MODEL/VERSION; or a file: .onnx, .safetensors, .trt; "
        "else --models",
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="where published versions lie; else MODEL_CACHE_DIR, else model_cache",
    )
    parser.add_argument("--name", help="what the model is called; else as its source")
    parser.add_argument("--version", help="else the source's with the precision behind it")
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="FILE",
        help="golden requests, a line each; else golden.ndjson beside the model",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="NUMBER",
        help="the largest difference that is allowed; else "
        + ", ".join(f"{value:g} for {name}" for name, value in TOLERANCES.items()),
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=8,
        metavar="N",
        help="how many are made by chance where there are no golden ones (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that chance (%(default)s)")
    parser.add_argument(
        "--any-cpu",
        action="store_true",
        help="int8: right on x86 without VNNI too, and less exact",
    )
    parser.add_argument(
        "--module",
        metavar="MODULE:NAME",
        help="of a PyTorch model: the class, or the function that makes it; its code is run",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME:DATATYPE:SHAPE",
        help="with --module: what it takes, in order, as x:FP32:-1,3,224,224",
    )
    parser.add_argument(
        "--batch-max",
        type=int,
        default=32,
        metavar="N",
        help="the largest batch that a plan is for (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="what was done, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
