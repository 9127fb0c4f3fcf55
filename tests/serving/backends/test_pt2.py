"""What of a `.pt2` archive is given to PyTorch, and what never is. No torch is needed."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable

import pytest

from mlplatform_serving.backends.pt2 import Library, Program, read_archive
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.protocol.specs import TensorSpec
from tests.serving.backends.archives import (
    LEAF,
    Described,
    archive,
    containers,
    graph,
    library,
    members,
    weights,
)


def read(body: bytes) -> Program | Library:
    return read_archive("m.pt2", body)


def program(described: Described) -> Program:
    held = read(archive(members(described)))
    assert isinstance(held, Program)
    return held


def test_what_a_graph_takes_and_gives() -> None:
    held = program(graph())
    assert held.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert held.outputs == (TensorSpec("relu", "FP32", (-1, 2)),)
    assert (held.keywords, held.device) == ((), "cpu")


def test_what_pytorch_gets_is_made_anew_without_what_it_would_run() -> None:
    held = members()
    held["extra/notes.txt"] = b"made on a Friday"
    body = archive(held, root="other")
    given = read(body)
    with zipfile.ZipFile(io.BytesIO(given.archive)) as kept:
        names = {name.removeprefix("model/") for name in kept.namelist()}
        described = json.loads(kept.read("model/models/model.json"))
        samples = kept.read("model/data/sample_inputs/model.pt")
        tensor = kept.read("model/data/weights/weight_0")
    assert names == set(held) - {"extra/notes.txt"}
    assert samples == b""
    assert tensor == held["data/weights/weight_0"]
    assert described["guards_code"] == []
    assert described["graph_module"]["metadata"] == {}
    assert all(not node["metadata"] for node in described["graph_module"]["graph"]["nodes"])


SIZES = [
    "Symbol('s77', positive=True, integer=True)",
    "Mul(Integer(2), Symbol('s0', integer=True))",
    "FloorDiv(s0 + 1, 2)",
    "Max(1, s3 - 4)",
    "Float('0.5', precision=53)",
]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_are_sizes(size: str) -> None:
    described = graph()
    described["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = (
        size
    )
    assert program(described).inputs[0].shape == (-1, 4)


def _graph(change: Callable[[Described], None]) -> Callable[[], dict[str, bytes]]:
    def make() -> dict[str, bytes]:
        described = graph()
        change(described)
        return members(described)

    return make


def _node(**fields: object) -> Callable[[], dict[str, bytes]]:
    return _graph(lambda told: told["graph_module"]["graph"]["nodes"][1].update(fields))


def _size(text: str) -> Callable[[], dict[str, bytes]]:
    def change(told: Described) -> None:
        sizes = told["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text

    return _graph(change)


def _call(**fields: object) -> Callable[[], dict[str, bytes]]:
    def change(told: Described) -> None:
        told["graph_module"]["module_call_graph"][0]["signature"].update(fields)

    return _graph(change)


def _out(spec: Described) -> Callable[[], dict[str, bytes]]:
    return _call(out_spec=json.dumps([1, spec]))


def _weight(**fields: object) -> Callable[[], dict[str, bytes]]:
    def make() -> dict[str, bytes]:
        config = weights()
        config["config"]["w"].update(fields)
        return members(config=config)

    return make


def _besides(name: str, body: bytes = b"") -> Callable[[], dict[str, bytes]]:
    return lambda: {**members(), name: body}


def _argument(arg: Described) -> Callable[[], dict[str, bytes]]:
    return _node(inputs=[{"name": "self", "arg": arg, "kind": 1}])


REFUSED: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "a pickled weight": (_weight(use_pickle=True), "w is pickled, which is never loaded"),
    "a weight that says nothing of pickles": (_weight(use_pickle=None), "is pickled"),
    "a custom object for a weight": (_weight(path_name="custom_obj_0"), "custom object"),
    "a weight from another folder": (_weight(path_name="../constants/x"), "custom object"),
    "a weight without a description": (_weight(tensor_meta=None), "custom object"),
    "weights of the old form": (_besides("data/weights/model.pt"), "might unpickle"),
    "constants of the old form": (_besides("data/constants/model.pt"), "might unpickle"),
    "a weight that nothing names": (_besides("data/weights/weight_1"), "might unpickle"),
    "a second graph": (_besides("models/other.json", b"{}"), "might unpickle"),
    "a module pickled beside": (_besides("data.pkl"), "might unpickle"),
    "an operator of Python's": (_node(target="torch.hub.load"), "torch.hub.load is not served"),
    "an operator by another way": (_node(target="torch.ops.aten.__class__.mro"), "is not served"),
    "a builtin": (_node(target="_operator.attrgetter"), "is not served"),
    "an operator that opens files": (
        _node(target="torch.ops.aten.from_file.default"),
        "none that opens files",
    ),
    "an extension's operator": (_node(target="#mine:run"), "is not served"),
    "an operator of another package": (
        _node(target="torch.ops.torchvision.nms.default"),
        "torchvision.nms.default is not served",
    ),
    "no text for an operator": (_node(target=None), "not of the form"),
    "a name that is source": (_node(name="x):\n  import os\n#"), "is no name"),
    "a name of Python's own": (_node(name="__class__"), "is no name"),
    "an output's name that is source": (
        _node(outputs=[{"as_tensor": {"name": "a; b"}}]),
        "is no name",
    ),
    "a custom object in the graph": (
        _argument({"as_custom_obj": {"name": "o", "class_fqn": "x"}}),
        "custom object or operator",
    ),
    "an operator as an argument": (_argument({"as_operator": "torch.hub.load"}), "or operator"),
    "a size that runs": (_size("__import__('os').system('true')"), "is no size"),
    "a size with an attribute": (_size("s0.free_symbols"), "is no size"),
    "a size that calls": (_size("eval('s0')"), "is no size"),
    "a size that subscripts": (_size("s0[0]"), "is no size"),
    "an empty size": (_size(""), "is no size"),
    "an endless size": (_size("1+" * 5000 + "1"), "is no size"),
    "an enumeration among its containers": (
        _out(containers("builtins.dict", [{"__enum__": True, "fqn": "os:x"}], LEAF)),
        "outputs are in a builtins.dict",
    ),
    "a container that imports": (
        _out(containers("collections.defaultdict", {"default_factory_module": "os"}, LEAF)),
        "in a collections.defaultdict",
    ),
    "nested outputs": (
        _out(containers("builtins.tuple", None, containers("builtins.tuple", None, LEAF))),
        "outputs are nested",
    ),
    "an argument's name that is source": (_call(forward_arg_names=["x=print()"]), "is no name"),
    "a range of no symbol": (
        _graph(lambda told: told["range_constraints"].update({"a b": {}})),
        "is no name",
    ),
    "another schema": (
        _graph(lambda told: told.update(schema_version={"major": 9, "minor": 0})),
        "PyTorch version mismatch: archive of schema 9",
    ),
    "a graph in training": (
        _graph(
            lambda told: told["graph_module"]["signature"].update(
                output_specs=[{"buffer_mutation": {"arg": {"name": "relu"}, "buffer_name": "b"}}]
            )
        ),
        "export it in eval mode",
    ),
    "a number as an input": (
        _graph(
            lambda told: told["graph_module"]["signature"]["input_specs"].__setitem__(
                1, {"user_input": {"arg": {"as_int": 3}}}
            )
        ),
        "is no tensor",
    ),
    "complex numbers": (
        _graph(lambda told: told["graph_module"]["graph"]["tensor_values"]["x"].update(dtype=10)),
        "x has a datatype that the protocol has not",
    ),
    "no graph": (
        lambda: {name: body for name, body in members().items() if name != "models/model.json"},
        "there is no models/model.json",
    ),
    "no weights": (
        lambda: {name: body for name, body in members().items() if "weight_0" not in name},
        "not of the form",
    ),
    "a graph that is no JSON": (lambda: {**members(), "models/model.json": b"{"}, "no JSON"),
    "a graph that is too deep": (
        lambda: {**members(), "models/model.json": b"[" * 100_000},
        "no JSON",
    ),
    "a graph of something else": (lambda: {**members(), "models/model.json": b"[]"}, "the form"),
    "something else": (lambda: {**members(), "archive_format": b"pt3"}, "no pt2 archive"),
    "a name that leaves": (_besides("data/../../x"), "none of a pt2 archive's"),
    "a library beside a graph": (lambda: {**library(), **members()}, "one model to a package"),
    "a library's weights beside it": (
        lambda: {**library(), "data/weights/weight_0": b"x"},
        "data/weights/weight_0 is nothing of an AOTInductor package",
    ),
    "a library that would be compiled": (
        lambda: {name: body for name, body in library().items() if not name.endswith(".so")},
        "none is compiled here",
    ),
    "a library among several": (
        lambda: {**library(), "data/aotinductor/model/c2.so": b""},
        "2 libraries",
    ),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused(make: Callable[[], dict[str, bytes]], said: str) -> None:
    with pytest.raises(LoadFailed, match=said.replace("(", r"\(")) as refused:
        read(archive(make()))
    assert str(refused.value).startswith("m.pt2") or "mismatch" in str(refused.value)


def test_what_is_no_archive_at_all() -> None:
    whole = archive(members())
    for body in (b"", b"junk", whole[:-40], whole[:100], archive({}), b"\x80\x04K\x01."):
        with pytest.raises(LoadFailed, match="no pt2 archive"):
            read(body)


def test_members_are_stored_and_once() -> None:
    with pytest.raises(LoadFailed, match="is compressed"):
        read(archive(members(), compression=zipfile.ZIP_DEFLATED))
    body = io.BytesIO(archive(members()))
    with warnings.catch_warnings(), zipfile.ZipFile(body, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("model/models/model.json", b"{}")
    with pytest.raises(LoadFailed, match="in the archive twice"):
        read(body.getvalue())


def test_a_byte_that_changed_is_told_by_the_archive_itself() -> None:
    body = archive(members()).replace(b'"aten": 10', b'"aten": 99')
    with pytest.raises(LoadFailed, match="no pt2 archive, or is cut short"):
        read(body)


def test_inputs_by_keyword_and_outputs_by_key() -> None:
    described = graph()
    call = described["graph_module"]["module_call_graph"][0]["signature"]
    call["in_spec"] = json.dumps(
        [
            1,
            containers(
                "builtins.tuple",
                None,
                containers("builtins.tuple", None),
                containers("builtins.dict", ["x"], LEAF),
            ),
        ]
    )
    call["out_spec"] = json.dumps([1, containers("builtins.dict", ["scores"], LEAF)])
    held = program(described)
    assert held.keywords == ("x",)
    assert held.outputs == (TensorSpec("scores", "FP32", (-1, 2)),)


def test_what_a_library_says_of_itself() -> None:
    held = read(archive(library(AOTI_DEVICE_KEY="cuda", AOTI_COMPUTE_CAPABILITY="90")))
    assert isinstance(held, Library)
    assert held.built_for == {"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "90"}
