"""What reads an old checkpoint, in a process of its own that can neither write nor speak to
anybody: `torch.load` has had holes even where it takes only weights (CVE-2025-32434,
CVE-2026-24747).

The checkpoint is stdin, opened by who started this. The answer goes to stdout: the length of a JSON
object as eight bytes, the object, and then the weights as safetensors.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from typing import Any, BinaryIO

from mlplatform_serving.tools.confined import NotConfined, confine
from mlplatform_serving.tools.weights import NotWeights, find_weights

LENGTH = struct.Struct("<Q")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def main() -> int:
    """Always 0: what went wrong is told on stdout."""
    out = sys.stdout.buffer
    with open(0, "rb", closefd=False) as file:
        told, body = _read(file)
    header = json.dumps(told).encode()
    out.write(LENGTH.pack(len(header)) + header)
    out.write(body)
    out.flush()
    return 0


def _read(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    # Before it is confined: importing torch looks for libraries by starting programs. Nothing of
    # the checkpoint has been read.
    import torch
    from safetensors.torch import save

    torch.set_num_threads(1)
    try:
        told: dict[str, Any] = {"confined_by": confine(), "torch": torch.__version__}
    except NotConfined as error:
        return {"error": f"nothing was read: {error}"}, b""
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        weights = find_weights(loaded, lambda each: isinstance(each, torch.Tensor))
        # Tensors may share their bytes, or be strewn over more than theirs; a file has each by
        # itself.
        tensors = {
            name: each.detach().contiguous().clone() for name, each in weights.tensors.items()
        }
        return {**told, "left_out": weights.left_out}, save(tensors)
    except NotWeights as error:
        return {**told, "error": str(error)}, b""
    except Exception as error:  # a hole in it may raise anything
        return {**told, "error": _said(error)}, b""


def _said(error: Exception) -> str:
    text = str(error)
    if found := _GLOBAL.search(text):
        return f"it holds more than weights: it would have {found[1]} called, or made"
    if "TorchScript" in text:
        return "it is a TorchScript program, not weights"
    return f"{type(error).__name__}: {(text.splitlines() or ['no reason given'])[0][:300]}"


if __name__ == "__main__":
    sys.exit(main())
