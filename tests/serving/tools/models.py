"""Small models, written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def dense(scale: float = 1.0) -> bytes:
    """y = relu(x · w), four numbers to three, for any number of rows."""
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3) * np.float32(scale)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return _encoded(graph)


def lookup() -> bytes:
    """A row of a table by its number, of which there are three."""
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(table, "table")],
    )
    return _encoded(graph)


def _encoded(graph: Any) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    body: bytes = model.SerializeToString()
    return body


def initializers(path: Path) -> set[int]:
    """The types of a model's weights."""
    return {each.data_type for each in onnx.load(path).graph.initializer}


def golden_line(x: list[float], y: list[float], tolerance: float = 0.0) -> bytes:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": x}]}
    expect = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": y}]}
    line = {"request": request, "expect": expect, "tolerance": tolerance}
    return json.dumps(line).encode() + b"\n"
