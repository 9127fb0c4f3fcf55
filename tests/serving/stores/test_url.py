"""Which URLs name a store, and what is said of the others."""

from __future__ import annotations

import pytest

from mlplatform.core.store_url import StoreURL as ControlPlanes
from mlplatform_serving.stores.url import StoreURL, StoreURLWrong

GOOD = [
    "file:///srv/mlplatform/us-east-1",
    "s3://ml-models-eu-west-1?region=eu-west-1",
    "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-west-1",
    "s3://bucket?endpoint=http://minio.internal:9000&insecure=true",
    "s3://bucket?endpoint=https://minio.internal&ca_bundle=/etc/ca.pem&storage_class=STANDARD",
    "gs://ml-models-europe-west4",
    "az://account/ml-models/prefix",
]

BAD = {
    "bucket": "begins with one of",
    "ftp://host/x": "begins with one of",
    "memory://x": "begins with one of",
    "s3://": "wants a bucket",
    "file://": "file:///and/its/path",
    "file://host/x": "file:///and/its/path",
    "az://account": "az://account/container",
    "s3://key:secret@bucket": "carries credentials",
    "s3://bucket?secret_access_key=x": "looks like a secret",
    "az://a/c?sig=x": "looks like a secret",
    "s3://bucket?surprise=1": "unknown option surprise",
    "s3://bucket?endpoint=http://minio.internal:9000": "plain HTTP",
    "s3://bucket?endpoint=minio:9000": "no http",
    "s3://bucket?endpoint=https://user:secret@host": "without credentials",
    "s3://bucket?stall_seconds=soon": "no number of seconds",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_topologys_url_is_read_as_the_control_plane_reads_it(text: str) -> None:
    ours, theirs = StoreURL.parse(text), ControlPlanes.parse(text)
    assert (ours.scheme, ours.authority, ours.path, ours.options, ours.endpoint) == (
        theirs.scheme,
        theirs.authority,
        theirs.path,
        theirs.options,
        theirs.endpoint(),
    )


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=BAD)
def test_what_names_no_store(text: str, said: str) -> None:
    with pytest.raises(StoreURLWrong, match=said) as refused:
        StoreURL.parse(text)
    assert "secret@" not in str(refused.value)
    assert "=x" not in str(refused.value)
