"""Whether an engine can run here, as an operator would read it off: what it was built with, what
its manifest says, what is here."""

from __future__ import annotations

import pytest

from mlplatform_serving.backends.driver import Driver
from mlplatform_serving.backends.engines import (
    Head,
    Runtime,
    check_driver,
    check_manifest,
    check_runtime,
    read_head,
)
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import Requirements

HOPPER = Driver("580.65", (13, 0), ((9, 0),))
OLD = Driver("535.54", (12, 2), ((8, 0), (8, 6)))
BUILT = Head("tensorrt", (10, 13, 0), None)


def engine(
    tag: bytes = b"ftrt", *, version: tuple[int, ...] = (10, 13, 0, 35), size: int = 64
) -> bytes:
    start = tag + bytes(4) + (2).to_bytes(8, "little") + size.to_bytes(8, "little")
    return (start + bytes(version)).ljust(64, b"\0")


def test_the_head_says_who_built_it() -> None:
    assert read_head("m.plan", engine()) == Head("tensorrt", (10, 13, 0), None)
    rtx = read_head("m.plan", engine(b"vtrt", version=(1, 7, 1, 116)))
    assert rtx == Head("tensorrt_rtx", (1, 7, 1), 64)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "m.plan is no TensorRT engine"),
        (b"ONNX and more than that", "no TensorRT engine of a form that is known here: it begins"),
        (b"ftrt\1\0\0\0" + bytes(60), "no TensorRT engine of a form that is known"),
        (engine()[:27], "m.plan is cut short: 27 bytes are no engine; publish it anew"),
        (engine(b"vtrt")[:63], "cut short: the engine says 64 bytes, and 63 were published"),
    ],
)
def test_what_is_no_engine_or_not_all_of_one(body: bytes, said: str) -> None:
    with pytest.raises(LoadFailed, match=said):
        read_head("m.plan", body)


def judge(told: Requirements, here: Runtime, driver: Driver) -> None:
    check_manifest("m.plan", BUILT, told)
    check_runtime("m.plan", BUILT, told, here)
    check_driver("m.plan", told, driver)


HERE = Runtime("10.13.0.35", 13)
FITS = [
    (Requirements(), Runtime("10.13.0", None), HOPPER),
    (Requirements(runtime="tensorrt 10.13.0"), HERE, HOPPER),
    (Requirements(runtime="tensorrt 10.13"), HERE, HOPPER),
    (Requirements(compute_capability="9.0", cuda="13.0"), HERE, HOPPER),
    (Requirements(compute_capability="8.6"), HERE, OLD),
    (Requirements(compute_capability="8.0+"), HERE, HOPPER),
    (Requirements(cuda="13.2"), HERE, HOPPER),  # CUDA's own promise, within a major
    (Requirements(cuda="12.4"), Runtime("10.13.0", None), HOPPER),
]


@pytest.mark.parametrize(("told", "here", "driver"), FITS)
def test_what_fits(told: Requirements, here: Runtime, driver: Driver) -> None:
    judge(told, here, driver)


REFUSED = [
    (
        Requirements(),
        Runtime("10.9.0.34", 13),
        HOPPER,
        (
            "TensorRT version mismatch: engine built with 10.13.0, runtime is 10.9.0.34 "
            "(m.plan, TensorRT): build the engine with 10.9.0.34, or serve it where TensorRT"
        ),
    ),
    (Requirements(), Runtime("10.13.1", 13), HOPPER, "engine built with 10.13.0, runtime is"),
    (
        Requirements(runtime="tensorrt 8.6.1"),
        HERE,
        HOPPER,
        "m.plan was built with TensorRT 10.13.0, and its manifest says tensorrt 8.6.1: publish",
    ),
    (Requirements(runtime="tensorrt-rtx 10.13.0"), HERE, HOPPER, "its manifest says tensorrt-rtx"),
    (Requirements(runtime="TRT"), HERE, HOPPER, "the manifest's runtime is 'TRT'"),
    (
        Requirements(compute_capability="8.6"),
        HERE,
        HOPPER,
        (
            "built for GPUs of compute capability 8.6, and here is 9.0: serve it on such a GPU, or "
            "build it for 9.0"
        ),
    ),
    (Requirements(compute_capability="9.0"), HERE, OLD, "and here is 8.0, 8.6"),
    (Requirements(compute_capability="9.0+"), HERE, OLD, "compute capability 9.0+"),
    (Requirements(compute_capability="sm86"), HERE, OLD, "capability is 'sm86', and would be like"),
    (
        Requirements(cuda="13.0"),
        HERE,
        OLD,
        (
            "CUDA driver version is insufficient: m.plan needs CUDA 13.0, and driver 535.54 runs "
            "CUDA 12.2 at most: install a newer driver on the node, or build the engine with CUDA"
        ),
    ),
    (
        Requirements(cuda="12.4"),
        HERE,
        HOPPER,
        (
            "m.plan and TensorRT are compiled with different CUDA versions: 12.4, and 13: install "
            "TensorRT for CUDA 12"
        ),
    ),
    (Requirements(cuda="twelve"), HERE, HOPPER, "the manifest's CUDA is 'twelve'"),
]


@pytest.mark.parametrize(("told", "here", "driver", "said"), REFUSED)
def test_what_differs_is_said_and_what_to_do(
    told: Requirements, here: Runtime, driver: Driver, said: str
) -> None:
    with pytest.raises(LoadFailed) as refused:
        judge(told, here, driver)
    assert said in str(refused.value)
