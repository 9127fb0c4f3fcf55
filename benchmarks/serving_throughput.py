"""What serving costs of a model's throughput: the same full batches, over HTTP through the model
server, and in a plain loop around ONNX Runtime in a process of its own.

Two models: magika, as it is published, and one of ResNet-50's shape with weights drawn at random,
for what it answers is of no interest here. Client and server share the machine's cores, so the
client keeps two requests under way, sends bytes that were made once, and reads no answer.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import numpy as np

from benchmarks.measure import ClientFailed, Result, Row
from mlplatform.cli.demo.models import magika
from tests.serving.rig import environment, publish

ROUNDS = 5
LIMIT = 0.9
_UNDER_WAY = 2
_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    file: bytes
    input: str
    datatype: str
    shape: tuple[int, ...]
    """Of a full batch."""
    batches: int
    """So many a round."""

    def tensor(self) -> np.ndarray[Any, Any]:
        drawn = np.random.default_rng(5).integers(0, 256, self.shape)
        return drawn.astype(np.int32 if self.datatype == "INT32" else np.float32)

    def request(self) -> bytes:
        body = self.tensor().tobytes()
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": self.input,
                        "datatype": self.datatype,
                        "shape": list(self.shape),
                        "parameters": {"binary_data_size": len(body)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        return (
            b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
            % (self.name.encode(), len(head), len(head) + len(body))
        ) + (head + body)


def measure(rounds: int) -> Result:
    """Rounds of the server and the loop, the order turned round each time."""
    result = Result(
        "serving_throughput",
        f"full batches, {_UNDER_WAY} requests under way; medians of {rounds} interleaved rounds",
        peer="ONNX Runtime in a loop, in a process of its own, with the same threads",
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = _models(Path(folder))
        for model in models:
            publish(Path(folder) / "models", model.name, "v1", {"model.onnx": model.file})
        port = stack.enter_context(_serving(Path(folder) / "models"))
        for model in models:
            plain = stack.enter_context(_Plain.opened(Path(folder) / "models", model))
            ours: list[float] = []
            theirs: list[float] = []
            request = model.request()
            for number in range(rounds + 1):
                turns: list[tuple[list[float], Callable[[], float]]] = [
                    (ours, partial(_served, port, request, model.batches)),
                    (theirs, plain.run),
                ]
                for figures, side in turns if number % 2 else turns[::-1]:
                    seconds = side()
                    if number:
                        figures.append(model.shape[0] * model.batches / seconds)
            result.rows.append(
                Row(f"{model.name}, items a second", "/s", ours, theirs, least=LIMIT)
            )
    return result


def _models(folder: Path) -> list[_Model]:
    found = magika(folder)
    (onnx,) = found.glob("*.onnx")
    return [
        _Model("magika", onnx.read_bytes(), "bytes", "INT32", (32, 2048), 10),
        _Model("resnet50", resnet50(), "x", "FP32", (4, 3, 224, 224), 3),
    ]


def resnet50() -> bytes:
    """A network of ResNet-50's shape (He et al., 2015, table 1), its batch norms folded into the
    convolutions as they are for serving."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(50)
    nodes: list[Any] = []
    weights: list[Any] = []

    def convolved(given: str, channels: int, out: int, size: int, stride: int = 1) -> str:
        name = f"c{len(nodes)}"
        drawn = random.normal(0, (2 / (channels * size * size)) ** 0.5, (out, channels, size, size))
        weights.append(numpy_helper.from_array(drawn.astype(np.float32), f"{name}.w"))
        weights.append(numpy_helper.from_array(np.zeros(out, np.float32), f"{name}.b"))
        nodes.append(
            helper.make_node(
                "Conv",
                [given, f"{name}.w", f"{name}.b"],
                [name],
                kernel_shape=[size, size],
                strides=[stride, stride],
                pads=[size // 2] * 4,
            )
        )
        return name

    def made(operator: str, *given: str, **attributes: Any) -> str:
        name = f"n{len(nodes)}"
        nodes.append(helper.make_node(operator, given, [name], **attributes))
        return name

    here = made("Relu", convolved("x", 3, 64, 7, 2))
    here = made("MaxPool", here, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            inner = made("Relu", convolved(here, channels, width, 1))
            inner = made("Relu", convolved(inner, width, width, 3, stride))
            inner = convolved(inner, width, 4 * width, 1)
            beside = convolved(here, channels, 4 * width, 1, stride) if block == 0 else here
            here, channels = made("Relu", made("Add", inner, beside)), 4 * width
    here = made("Flatten", made("GlobalAveragePool", here))
    drawn = random.normal(0, 0.02, (channels, 1000)).astype(np.float32)
    weights.append(numpy_helper.from_array(drawn, "fc.w"))
    nodes.append(helper.make_node("MatMul", [here, "fc.w"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1000])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    encoded: bytes = model.SerializeToString()
    return encoded


@contextmanager
def _serving(models: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = environment(HOST="127.0.0.1", PORT=port, MODEL_CACHE_DIR=models)
    with Popen(
        [sys.executable, "-m", "mlplatform_serving"], env=settings, stderr=DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ClientFailed("the model server did not start")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _served(port: int, request: bytes, batches: int) -> float:
    """Seconds for so many batches."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), _START_SECONDS))
            for _ in range(_UNDER_WAY)
        ]
        began = time.perf_counter()
        for connection in connections:
            connection.sendall(request)
        for number in range(batches):
            connection = connections[number % _UNDER_WAY]
            _received(connection)
            if number + _UNDER_WAY < batches:
                connection.sendall(request)
        return time.perf_counter() - began


def _received(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ClientFailed(f"the model server answered {data[:500]!r}")
    left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(_more(connection))


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise ClientFailed("the model server ended the connection")
    return data


_LOOP = """
import sys, time
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
given = {sys.argv[2]: np.load(sys.argv[3])}
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        session.run(None, given)
    print(time.perf_counter() - began, flush=True)
"""


class _Plain:
    """The loop, which runs when it is told to."""

    def __init__(self, process: Popen[str], batches: int) -> None:
        self._process = process
        self._batches = batches

    @classmethod
    @contextmanager
    def opened(cls, models: Path, model: _Model) -> Iterator[_Plain]:
        folder = models / model.name / "v1"
        np.save(folder.parent / "given.npy", model.tensor())
        argv = [sys.executable, "-c", _LOOP, str(folder / "model.onnx"), model.input]
        given: Mapping[str, Any] = {"stdin": PIPE, "stdout": PIPE, "text": True}
        with Popen([*argv, str(folder.parent / "given.npy")], **given) as process:
            try:
                yield cls(process, model.batches)
            finally:
                process.terminate()

    def run(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self._batches}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())
