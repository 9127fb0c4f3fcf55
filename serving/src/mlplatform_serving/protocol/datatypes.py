"""The protocol's datatypes and numpy's: sizes, and names in Triton's model configuration.

BF16 is Triton's addition; numpy has it from ml_dtypes. BYTES has no size of its own.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from mlplatform_serving.errors import BadRequest

BYTES = "BYTES"

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    BYTES: np.dtype(object),
}

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The type in numpy; `BadRequest` for a name that the protocol does not have."""
    try:
        return DTYPES[datatype]
    except KeyError:
        raise BadRequest(f"unknown datatype; there are {', '.join(DTYPES)}") from None


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """The protocol's name, or None where it has none."""
    return _NAMES.get(dtype)


def configuration_name(datatype: str) -> str:
    """As Triton's model configuration calls it: TYPE_FP32, and TYPE_STRING for BYTES."""
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
