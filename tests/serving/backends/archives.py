"""A `.pt2` archive by hand, as `torch.export.save` of torch 2.15 writes one, to be spoilt by tests:
y = relu(x · wᵀ), four numbers in and two out."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

WEIGHT = np.array([[1, 1, 1, 1], [1, 0, 0, -1]], np.float32)

Described = dict[str, Any]


def _meta(*sizes: int | str) -> Described:
    numbers = [size if isinstance(size, int) else 1 for size in sizes]
    strides = [int(np.prod(numbers[at + 1 :])) for at in range(len(numbers))]
    return {
        "dtype": 7,
        "sizes": [
            {"as_int": size}
            if isinstance(size, int)
            else {"as_expr": {"expr_str": size, "hint": {"as_int": 3}}}
            for size in sizes
        ],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def _node(name: str, target: str, **inputs: str) -> Described:
    return {
        "target": target,
        "inputs": [
            {"name": argument, "arg": {"as_tensor": {"name": value}}, "kind": 1}
            for argument, value in inputs.items()
        ],
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {"stack_trace": "File x, line 1", "nn_module_stack": "L__self__,,M"},
        "is_hop_single_tensor_return": None,
        "name": name,
    }


def containers(kind: str | None, context: object, *children: Described) -> Described:
    told = None if kind is None else json.dumps(context)
    return {"type": kind, "context": told, "children_spec": list(children)}


LEAF = containers(None, None)


def graph() -> Described:
    size = "Symbol('s77', positive=True, integer=True)"
    taken = containers(
        "builtins.tuple",
        None,
        containers("builtins.tuple", None, LEAF),
        containers("builtins.dict", []),
    )
    return {
        "graph_module": {
            "graph": {
                "inputs": [{"as_tensor": {"name": "p_w"}}, {"as_tensor": {"name": "x"}}],
                "outputs": [{"as_tensor": {"name": "relu"}}],
                "nodes": [
                    _node("linear", "torch.ops.aten.linear.default", input="x", weight="p_w"),
                    _node("relu", "torch.ops.aten.relu.default", self="linear"),
                ],
                "tensor_values": {
                    "p_w": _meta(2, 4),
                    "x": _meta(size, 4),
                    "linear": _meta(size, 2),
                    "relu": _meta(size, 2),
                },
                "sym_int_values": {},
                "sym_bool_values": {},
                "is_single_tensor_return": False,
                "custom_obj_values": {},
                "sym_float_values": {},
            },
            "signature": {
                "input_specs": [
                    {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
                    {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
                ],
                "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "relu"}}}}],
            },
            "module_call_graph": [
                {
                    "fqn": "",
                    "signature": {
                        "inputs": [],
                        "outputs": [],
                        "in_spec": json.dumps([1, taken]),
                        "out_spec": json.dumps([1, LEAF]),
                        "forward_arg_names": ["x"],
                    },
                }
            ],
            "metadata": {"custom": "{}"},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10},
        "range_constraints": {"s77": {"min_val": 1, "max_val": 64}},
        "schema_version": {"major": 8, "minor": 20},
        "verifiers": ["TRAINING"],
        "torch_version": "2.15.0",
        "guards_code": ["__import__('os').getpid() > 0"],
    }


def weights() -> Described:
    meta = _meta(2, 4)
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta}
    return {"config": {"w": entry}}


HEAD = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": b"little",
    ".data/version": b"6\n",
    ".data/serialization_id": b"0656930189398304144503604237957422726497",
}


def members(
    described: Described | None = None, config: Described | None = None
) -> dict[str, bytes]:
    return {
        **HEAD,
        "data/weights/weight_0": WEIGHT.tobytes(),
        "data/weights/model_weights_config.json": json.dumps(config or weights()).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        "models/model.json": json.dumps(described or graph()).encode(),
        "data/sample_inputs/model.pt": b"cos\nsystem\n(S'true'\ntR.",
    }


def library(**described: str) -> dict[str, bytes]:
    """A package of AOTInductor whose library is none."""
    folder = "data/aotinductor/model"
    return {
        **HEAD,
        f"{folder}/c1.wrapper.cpp": b"//",
        f"{folder}/c1.wrapper.so": b"\x7fELF",
        f"{folder}/c1.wrapper_metadata.json": json.dumps(described).encode(),
    }


def archive(
    held: Mapping[str, bytes], *, root: str = "model", compression: int = zipfile.ZIP_STORED
) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as file:
        for name, content in held.items():
            file.writestr(f"{root}/{name}", content)
    return body.getvalue()
