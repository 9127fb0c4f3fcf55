"""What lies in a `.pt2` archive, judged before PyTorch reads a byte of it. No torch is needed here.

`torch.export.load` is no reader of data. As read in the source of torch 2.15, it unpickles the
sample inputs (first `weights_only`, and whatever that refuses, without), every weight or constant
that the archive declares as `use_pickle`, custom objects, and weights of the old form; it gives
each symbolic size to `sympify`, which evaluates it; it looks operators up by name through all of
torch; and it makes Python source of the graph's names. So the archive is taken apart, and one is
made anew of what is known to be data: raw tensors, and a graph whose operators, names and sizes
pass an allow-list. The sample inputs, the metadata and the guards are left out; a pickle elsewhere
is refused, by its name. PyTorch gets that archive, and never the one that was published: no two
readers of zip files can see different things in it.

A package of AOTInductor is a shared library. Nothing can make data of it: like a TensorRT engine it
is native code, trusted because the manifest says that its publisher published these bytes. It is
checked for holding one library, and nothing that PyTorch would unpickle or compile.

The form: PyTorch's "PT2 Archive Spec" and `torch/_export/serde/schema.py`, schema 8.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.protocol.specs import TensorSpec

SCHEMA_MAJOR = 8

_HEAD = {
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
}
_GRAPH = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_\d+"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_\d+"),
}
_LIBRARY = "data/aotinductor/model/"
_LIBRARY_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(so|json|cpp|h|cubin|hsaco|spv)")

_DATATYPES = {
    1: "UINT8", 2: "INT8", 3: "INT16", 4: "INT32", 5: "INT64", 6: "FP16", 7: "FP32", 8: "FP64",
    12: "BOOL", 13: "BF16", 28: "UINT16", 34: "UINT32", 35: "UINT64",
}  # fmt: skip
"""The schema's `ScalarType`, where the protocol has the same."""

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\.(?!__)\w+\.(?!__)\w+"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc|sqrt)",
    re.ASCII,
)
_OPENS_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save)\b")
"""All of aten's schemas with a `filename`, in torch 2.15."""

_TOKEN = re.compile(
    r"\s+|'[A-Za-z]\w*'|'[-+.\de]+'|([A-Za-z_]\w*)|\d+(?:\.\d+)?|[-+*/%(),=<>!&|~]", re.ASCII
)
_SIZE = re.compile(
    "Symbol|positive|nonnegative|nonzero|negative|integer|real|finite|True|False|oo|int_oo"
    "|precision|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|floor|ceiling|And|Or|Not"
    "|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|(Strict)?(Less|Greater)Than"
    "|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift"
    "|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal"
    r"|ToFloat|Identity|IsNonOverlappingAndDenseIndicator|[a-z]{1,4}\d+",
    re.ASCII,
)
"""What a size is written in: sympy's `srepr`, the functions that PyTorch adds, and symbols."""
_SIZE_CHARACTERS_MAX = 4096
_NAMED = {"name", "parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"}
_VALUES = {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"}
_NEVER = {"as_custom_obj", "as_operator", "custom_obj", "custom_obj_values", "class_fqn", "token"}
_DIALECTS = {"ATEN", "TRAINING"}
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict"}


@dataclass(frozen=True, slots=True)
class Program:
    """A graph of torch.export with its tensors."""

    archive: bytes
    """Made anew, of what was checked."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    keywords: tuple[str, ...]
    """How the last inputs are given; the others go by position."""
    device: str
    """Where its weights lie: `cpu`, `cuda`."""


@dataclass(frozen=True, slots=True)
class Library:
    """A package of AOTInductor."""

    archive: bytes
    built_for: Mapping[str, str]
    """What it says of itself: `AOTI_DEVICE_KEY`, `AOTI_COMPUTE_CAPABILITY`, `AOTI_CPU_ISA` …"""


def read_archive(path: str, body: bytes) -> Program | Library:
    """What the archive holds. `LoadFailed` names what in it is not taken, and what to do."""
    try:
        members = dict(_members(path, body))
        if members.get("archive_format") != b"pt2":
            raise LoadFailed(f"{path} is no pt2 archive: write it anew with torch.export.save")
        if any(name.startswith(_LIBRARY) for name in members):
            return _library(path, members)
        return _program(path, members)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError):
        raise LoadFailed(f"{path} is no pt2 archive, or is cut short") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise LoadFailed(f"{path}: a description in the archive is no JSON") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise LoadFailed(
            f"{path}: the archive is not of the form that is known here (schema {SCHEMA_MAJOR}): "
            f"{type(error).__name__} {error}"
        ) from None


def _members(path: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Every member but for the folder that all lie in. What is stored takes no more room than the
    archive itself, whatever it says of itself."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        root = names[0].partition("/")[0] if names else ""
        for member in members:
            within = member.filename.removeprefix(f"{root}/")
            segments = within.split("/")
            if within == member.filename or any(part in {"", ".", ".."} for part in segments):
                raise LoadFailed(f"{path}: a name in the archive is none of a pt2 archive's")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise LoadFailed(
                    f"{path}: {within} is compressed; PyTorch stores members as they are"
                )
            if names.count(member.filename) > 1:
                raise LoadFailed(f"{path}: {within} is in the archive twice")
            yield within, archive.read(member)


def _archive(members: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for name, body in members.items():
            archive.writestr(f"model/{name}", body)
    return held.getvalue()


# --- AOTInductor ---------------------------------------------------------------------------------


def _library(path: str, members: Mapping[str, bytes]) -> Library:
    kept, described, libraries = {}, [], 0
    for name, body in members.items():
        if name in _HEAD:
            kept[name] = body
        elif name.startswith(_LIBRARY) and _LIBRARY_FILE.fullmatch(name.removeprefix(_LIBRARY)):
            kept[name] = body
            libraries += name.endswith(".so")
            if name.endswith("metadata.json"):
                described.append(json.loads(body))
        elif not name.startswith("extra/"):
            raise LoadFailed(
                f"{path}: {name} is nothing of an AOTInductor package with its weights inside: "
                "write it with aoti_compile_and_package, one model to a package"
            )
    if libraries != 1:
        raise LoadFailed(
            f"{path}: {libraries} libraries in the package: one is served, and none is compiled "
            "here"
        )
    built_for: dict[str, str] = {}
    for each in described:
        built_for.update({str(key): str(value) for key, value in each.items()})
    return Library(_archive(kept), built_for)


# --- torch.export --------------------------------------------------------------------------------


def _program(path: str, members: Mapping[str, bytes]) -> Program:
    kept = {name: members[name] for name in _HEAD if name in members}
    expected = {*_HEAD, _GRAPH, _SAMPLES, *_CONFIGS}
    if _GRAPH not in members:
        raise LoadFailed(f"{path}: there is no {_GRAPH} in it: write it with torch.export.save")
    devices: set[str] = set()
    for configuration, form in _CONFIGS.items():
        folder = configuration.rpartition("/")[0]
        entries = json.loads(members[configuration])["config"]
        for name, entry in entries.items():
            _check_tensor(path, name, entry, form)
            devices.add(str(entry["tensor_meta"]["device"]["type"]))
            file = f"{folder}/{entry['path_name']}"
            kept[file] = members[file]
            expected.add(file)
        kept[configuration] = json.dumps({"config": entries}).encode()
    for name in members:
        if name not in expected and not name.startswith("extra/"):
            raise LoadFailed(
                f"{path}: {name} is in the archive, which PyTorch might unpickle: write it anew "
                "with torch.export.save of torch 2.10 or newer"
            )
    if not devices <= {"cpu", "cuda"} or len(devices) > 1:
        raise LoadFailed(
            f"{path}: its tensors lie on {', '.join(sorted(devices))}; one of cpu, cuda"
        )
    graph = _checked_graph(path, json.loads(members[_GRAPH]))
    kept[_GRAPH] = json.dumps(graph).encode()
    kept[_SAMPLES] = b""
    inputs, outputs, keywords = _interface(path, graph["graph_module"])
    return Program(_archive(kept), inputs, outputs, keywords, min(devices, default="cpu"))


def _check_tensor(path: str, name: str, entry: Mapping[str, Any], form: re.Pattern[str]) -> None:
    if entry["use_pickle"] is not False:
        raise LoadFailed(
            f"{path}: {name} is pickled, which is never loaded: make it a plain tensor, and save "
            "anew"
        )
    if not form.fullmatch(entry["path_name"]) or not isinstance(entry["tensor_meta"], dict):
        raise LoadFailed(f"{path}: {name} is a custom object, which is never loaded")
    _check_name(path, name)
    _check_all(path, entry["tensor_meta"])


def _checked_graph(path: str, described: dict[str, Any]) -> dict[str, Any]:
    """The description without what is not needed, every part of it checked."""
    major = described["schema_version"]["major"]
    if major != SCHEMA_MAJOR:
        raise LoadFailed(
            f"{path}: PyTorch version mismatch: archive of schema {major}, and {SCHEMA_MAJOR} is "
            "known here: save it anew with torch 2.10 or newer"
        )
    module = described["graph_module"]
    _check_all(path, module["graph"])
    _check_all(path, module["signature"])
    call = module["module_call_graph"][0]["signature"]
    for name in call.get("forward_arg_names") or ():
        _check_name(path, name)
    for spec in (call["in_spec"], call["out_spec"]):
        _check_containers(path, json.loads(spec)[1])
    return {
        "graph_module": {
            "graph": module["graph"],
            "signature": module["signature"],
            "module_call_graph": [
                {
                    "fqn": "",
                    "signature": {
                        "inputs": [],
                        "outputs": [],
                        "in_spec": call["in_spec"],
                        "out_spec": call["out_spec"],
                        "forward_arg_names": call.get("forward_arg_names"),
                    },
                }
            ],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {key: int(value) for key, value in described["opset_version"].items()},
        "range_constraints": {
            _check_name(path, key): {
                side: None if value[side] is None else int(value[side])
                for side in ("min_val", "max_val")
            }
            for key, value in described["range_constraints"].items()
        },
        "schema_version": {"major": major, "minor": int(described["schema_version"]["minor"])},
        "verifiers": [each for each in described.get("verifiers", ()) if each in _DIALECTS],
        "torch_version": str(described.get("torch_version", "")),
        "guards_code": [],
    }


def _check_all(path: str, node: Any) -> None:
    """Checks all below, and takes the metadata of nodes out."""
    if isinstance(node, list):
        for each in node:
            _check_all(path, each)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in _NEVER and value:
            raise LoadFailed(f"{path}: the graph holds a custom object or operator ({key})")
        if key == "metadata":
            node[key] = {}
            continue
        if key == "target":
            _check_target(path, value)
        elif key == "expr_str":
            _check_size(path, value)
        elif key in _NAMED and value is not None:
            _check_name(path, value)
        elif key in _VALUES:
            for name in value:
                _check_name(path, name)
        _check_all(path, value)


def _check_target(path: str, target: Any) -> None:
    if _OPENS_FILES.match(target) or not _TARGET.fullmatch(target):
        raise LoadFailed(
            f"{path}: the operator {str(target)[:80]} is not served: only aten, prims and "
            "quantized_decomposed, and none that opens files"
        )


def _check_name(path: str, name: Any) -> str:
    """A name becomes Python source: identifiers with dots between, and none that Python itself
    knows. Operators' arguments without a name have an empty one."""
    parts = str(name).split(".")
    fits = isinstance(name, str) and all(
        part.isdecimal() or (_IDENTIFIER.fullmatch(part) and not part.startswith("__"))
        for part in parts
    )
    if name != "" and not fits:
        raise LoadFailed(f"{path}: {str(name)[:80]!r} is no name that a graph can have")
    return str(name)


def _check_size(path: str, text: Any) -> None:
    at = 0
    if len(text) <= _SIZE_CHARACTERS_MAX:
        while token := _TOKEN.match(text, at):
            word = token[1]
            if word and not _SIZE.fullmatch(word):
                break
            at = token.end()
    if at < len(text) or not text:
        raise LoadFailed(f"{path}: {text[:80]!r} is no size of a tensor")


def _check_containers(path: str, spec: Mapping[str, Any]) -> None:
    kind, context = spec["type"], spec["context"]
    if kind is not None:
        keys = json.loads(context)
        plain = keys is None or (
            isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
        )
        if kind not in _CONTAINERS or not plain:
            raise LoadFailed(
                f"{path}: its inputs or outputs are in a {str(kind)[:80]}; tuples, lists and "
                "dictionaries are served"
            )
    for child in spec["children_spec"]:
        _check_containers(path, child)


# --- the interface -------------------------------------------------------------------------------


def _interface(
    path: str, module: Mapping[str, Any]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[str, ...]]:
    graph, signature = module["graph"], module["signature"]
    call = module["module_call_graph"][0]["signature"]
    positional, keyword = json.loads(call["in_spec"])[1]["children_spec"]
    leaves = [*positional["children_spec"], *keyword["children_spec"]]
    taken = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    if any(leaf["type"] is not None for leaf in leaves) or len(leaves) != len(taken):
        raise LoadFailed(
            f"{path}: its forward takes more than tensors side by side: export a module whose "
            "arguments are tensors"
        )
    given = []
    for spec in signature["output_specs"]:
        if "user_output" not in spec:
            raise LoadFailed(
                f"{path}: its forward changes what it is given or holds ({next(iter(spec))}): "
                "export it in eval mode"
            )
        given.append(spec["user_output"]["arg"])
    keywords = tuple(json.loads(keyword["context"]) or ())
    names = _output_names(path, json.loads(call["out_spec"])[1], given)
    return (
        tuple(_tensor(path, graph, each) for each in taken),
        tuple(_tensor(path, graph, each, name) for each, name in zip(given, names, strict=True)),
        keywords,
    )


def _output_names(path: str, spec: Mapping[str, Any], given: list[Any]) -> list[str]:
    """A dictionary's keys; else the graph's own names."""
    children = spec["children_spec"]
    if any(child["type"] is not None for child in children):
        raise LoadFailed(f"{path}: its outputs are nested: export a module that gives tensors")
    if spec["type"] == "builtins.dict":
        return [str(key) for key in json.loads(spec["context"])]
    return [each["as_tensor"]["name"] for each in given]


def _tensor(
    path: str, graph: Mapping[str, Any], arg: Mapping[str, Any], name: str = ""
) -> TensorSpec:
    if "as_tensor" not in arg:
        raise LoadFailed(f"{path}: an input or output is no tensor ({next(iter(arg))})")
    inner = arg["as_tensor"]["name"]
    described = graph["tensor_values"][inner]
    datatype = _DATATYPES.get(described["dtype"])
    if datatype is None:
        raise LoadFailed(f"{path}: {inner} has a datatype that the protocol has not")
    shape = tuple(int(size.get("as_int", -1)) for size in described["sizes"])
    return TensorSpec(name or inner, datatype, shape)
