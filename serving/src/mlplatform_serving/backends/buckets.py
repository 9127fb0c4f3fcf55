"""CUDA graphs of a PyTorch module, one a batch size: a graph's launch costs once what each of its
kernels would cost, and it runs on fixed memory, so batches are filled up to the next size.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Not run: no machine of the tests
has a GPU. What is tested is which bucket a batch goes to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlplatform_serving.errors import LoadFailed

_WARM_UP_RUNS = 3
"""Before capturing, on a stream of its own, as PyTorch's notes have it."""

Tensors = list[Any]
Module = Callable[[Tensors], Tensors]


def bucket_of(items: int, buckets: Sequence[int]) -> int | None:
    """The smallest that holds so many items; None where none does."""
    return min((size for size in buckets if size >= items), default=None)


class CudaGraphs:
    """A module captured for each batch size; what fits none runs without a graph."""

    def __init__(
        self,
        torch: Any,
        module: Module,
        inputs_of: Callable[[int], Tensors],
        buckets: Sequence[int],
    ) -> None:
        """`inputs_of` makes inputs of so many items on the GPU. The largest is captured first, so
        that the others share its memory."""
        self._torch = torch
        self._module = module
        self._captured: dict[int, tuple[Any, Tensors, Tensors]] = {}
        pool = None
        for size in sorted(set(buckets), reverse=True):
            graph, inputs, outputs = self._capture(inputs_of(size), pool)
            if any(each.dim() == 0 or each.shape[0] != size for each in outputs):
                raise LoadFailed(
                    "cuda_graph_batch_sizes: an output has no items in its first dimension: leave "
                    "them out"
                )
            pool = pool or graph.pool()
            self._captured[size] = graph, inputs, outputs

    def _capture(self, inputs: Tensors, pool: Any) -> tuple[Any, Tensors, Tensors]:
        cuda = self._torch.cuda
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):
            for _ in range(_WARM_UP_RUNS):
                self._module(inputs)
        cuda.current_stream().wait_stream(aside)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=pool):
            outputs = self._module(inputs)
        return graph, inputs, outputs

    def __call__(self, inputs: Tensors) -> Tensors:
        """Outputs for inputs on the GPU, of as many items each; valid until the next call."""
        items = int(inputs[0].shape[0])
        size = bucket_of(items, list(self._captured))
        if size is None:
            return self._module(inputs)
        graph, fixed, outputs = self._captured[size]
        for given, held in zip(inputs, fixed, strict=True):
            held[:items].copy_(given)
            held[items:].zero_()  # nobody's items, and nobody's data
        graph.replay()
        return [each[:items] for each in outputs]
