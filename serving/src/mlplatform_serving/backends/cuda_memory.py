"""A stream, and memory of a GPU that grows and is used again, by NVIDIA's own bindings.

Not run: no machine of the tests has a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.protocol.tensors import Array


class CudaFailed(Exception):
    """A call of CUDA's failed; the text is CUDA's."""


class Device:
    """One GPU, one stream, and a piece of memory a name. It may be used by one thread at a time."""

    def __init__(self, index: int) -> None:
        """`LoadFailed` if the bindings are not installed, or there is no such GPU."""
        try:
            from cuda.bindings import runtime
        except ImportError:
            raise LoadFailed(
                "CUDA's bindings for Python are not installed: mlplatform-serving[tensorrt] and "
                "[tensorrt-rtx] have them"
            ) from None
        self._cuda: Any = runtime
        self._index = index
        self._memory: dict[str, tuple[int, int]] = {}
        try:
            self.use()
            self.stream = int(self._call(self._cuda.cudaStreamCreate()))
        except CudaFailed as error:
            raise LoadFailed(f"GPU {index} cannot be used: {error}") from None

    def use(self) -> None:
        """Make it this thread's GPU."""
        self._call(self._cuda.cudaSetDevice(self._index))

    def memory(self, name: str, size_bytes: int) -> int:
        """The address of at least so much memory, under a name."""
        address, held = self._memory.get(name, (0, 0))
        if held < size_bytes or not address:
            if address:
                self._call(self._cuda.cudaStreamSynchronize(self.stream))
                self._call(self._cuda.cudaFree(self._memory.pop(name)[0]))
            address = int(self._call(self._cuda.cudaMalloc(max(size_bytes, 1))))
            self._memory[name] = address, size_bytes
        return address

    def put(self, name: str, array: Array) -> int:
        """Copy an array there; its address. The array must be kept until `finish`."""
        address = self.memory(name, array.nbytes)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)
        return address

    def get(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array into which it is copied until `finish`."""
        array = np.empty(shape, dtype)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, self._memory[name][0], array.nbytes, kind)
        return array

    def finish(self) -> None:
        """Wait for all that was begun."""
        self._call(self._cuda.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """Give all back."""
        self.use()
        self._cuda.cudaStreamSynchronize(self.stream)
        for address, _ in self._memory.values():
            self._cuda.cudaFree(address)
        self._memory.clear()
        self._cuda.cudaStreamDestroy(self.stream)

    def _copy(self, to: int, of: int, size_bytes: int, kind: Any) -> None:
        self._call(self._cuda.cudaMemcpyAsync(to, of, size_bytes, kind, self.stream))

    def _call(self, answer: tuple[Any, ...]) -> Any:
        error, *rest = answer
        if int(error):
            _, text = self._cuda.cudaGetErrorString(error)
            raise CudaFailed(text.decode() if isinstance(text, bytes) else str(text))
        return rest[0] if rest else None
