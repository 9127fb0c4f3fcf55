"""Which CUDA graph a batch runs in. Capturing and replaying are not run here: they need a GPU."""

import pytest

from mlplatform_serving.backends.buckets import bucket_of


@pytest.mark.parametrize(
    ("items", "bucket"), [(1, 1), (2, 4), (4, 4), (5, 8), (8, 8), (9, None), (0, 1)]
)
def test_the_smallest_that_holds_them(items: int, bucket: int | None) -> None:
    assert bucket_of(items, [8, 1, 4]) == bucket


def test_without_graphs_there_is_none() -> None:
    assert bucket_of(1, []) is None
