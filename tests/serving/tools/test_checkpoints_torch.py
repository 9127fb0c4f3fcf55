"""Old checkpoints, read by PyTorch itself, and modules made ONNX. Run by `make test-torch`."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlplatform_serving.models.golden import parse_golden
from mlplatform_serving.tools.convert import main

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="not run: needs torch, make test-torch"),
]

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.fc(x))

def number():
    return 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_net", raising=False)
    (tmp_path / "a_net.py").write_text(NET)
    return tmp_path


class Evil:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_weights_alone_and_in_a_training_s_checkpoint(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    shared = torch.arange(6.0).reshape(2, 3)
    weights = {"a": shared, "b": shared, "c": shared.T, "n": torch.tensor(3)}
    torch.save(weights, "plain.pth")
    torch.save(weights, "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": weights}, "run.ckpt")
    for name in ("plain.pth", "old.pth", "run.ckpt"):
        assert main(["--model", name, "--output", "out"]) == 0
        stem = Path(name).stem
        found = load_file(here / "out" / stem / "v1.0.0" / f"{stem}.safetensors")
        assert {key: each.tolist() for key, each in found.items()} == {
            key: each.tolist() for key, each in weights.items()
        }
    told = capsys.readouterr().out
    assert "4 tensors, read by a process confined by rlimit" in told
    assert "left out, being no weights: epoch" in told


def test_what_is_more_than_weights_is_refused_and_not_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from a_net import Net  # type: ignore[import-not-found]

    torch.save({"w": Evil()}, "evil.pth")
    torch.save(Net(), "whole.pth")
    torch.save([torch.ones(1)], "list.pth")
    torch.save(Net().state_dict(), "short.pth")
    os.truncate("short.pth", 900)
    said = {
        "evil.pth": "it would have posix.system called, or made",
        "whole.pth": "it would have a_net.Net called, or made",
        "list.pth": "it is a list, not tensors by name",
        "short.pth": "refused: RuntimeError: PytorchStreamReader failed",
    }
    for name, why in said.items():
        assert main(["--model", name, "--output", "out"]) == 1
        assert why in capsys.readouterr().err
    assert not (here / "pwned").exists()
    assert not (here / "out").exists()


def test_a_named_module_becomes_onnx_and_gives_what_it_gave(here: Path) -> None:
    import torch
    from a_net import Net

    net = Net().eval()
    torch.save({"state_dict": net.state_dict()}, "net.pth")
    line = ["--model", "net.pth", "--module", "a_net:Net", "--input", "x:FP32:-1,4"]
    assert main([*line, "--precision", "fp16", "--output", "out"]) == 0
    folder = here / "out" / "net" / "v1.0.0-fp16"
    for golden in parse_golden((folder / "golden.ndjson").read_bytes()):
        x = np.array(golden.request["inputs"][0]["data"], np.float32).reshape(1, 4)
        with torch.no_grad():
            want = net(torch.from_numpy(x)).numpy().reshape(-1)
        assert golden.outputs[0]["data"] == pytest.approx(want.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("a_net:Missing", 1, "AttributeError"),
        ("nowhere:Net", 1, "No module named 'nowhere'"),
        ("a_net:number", 1, "makes a int, no torch.nn.Module"),
        ("a_net:Net", 1, "the weights are not those of a_net:Net"),
    ],
)
def test_a_module_that_does_not_fit(
    here: Path, capsys: pytest.CaptureFixture[str], module: str, code: int, said: str
) -> None:
    import torch

    torch.save({"other": torch.ones(1)}, "net.pth")
    line = ["--model", "net.pth", "--module", module, "--input", "x:FP32:-1,4"]
    assert main([*line, "--output", "out"]) == code
    assert said in capsys.readouterr().err
