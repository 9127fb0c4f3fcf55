"""Stores to try: on the stand-in, and on the real servers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
from botocore.session import Session

from mlplatform.adapters.s3 import S3Store, open_store
from mlplatform.core.store_url import StoreURL
from tests.real.servers.launch import Endpoint

from .scripted import StandIn, standing_in

ACCESS_KEY = "AKIDEXAMPLE0000STAND"
SECRET_KEY = "a-secret-that-nobody-prints"

Opener = Callable[..., S3Store]
_buckets = itertools.count(1)


def keyed(access_key: str, secret_key: str, token: str | None = None) -> Session:
    """The SDK's configuration with these credentials, whatever this machine has."""
    session = Session()
    session.set_credentials(access_key, secret_key, token)
    return session


@pytest.fixture
def service() -> Iterator[StandIn]:
    """What a test scripts."""
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture
def scripted(service: StandIn) -> Opener:
    """Opens a bucket of the stand-in, which passes for AWS unless the options say otherwise."""

    def open_it(options: str = "dialect=aws", *, prefix: str = "") -> S3Store:
        url = f"s3://models/{prefix}?endpoint={service.url}&{options}"
        return open_store(StoreURL.parse(url), session=keyed(ACCESS_KEY, SECRET_KEY))

    return open_it


@pytest.fixture
def store(scripted: Opener) -> S3Store:
    """A bucket of the stand-in."""
    return scripted()


@pytest.fixture
def hasty(scripted: Opener) -> S3Store:
    """The same, for a client that waits no longer than a second."""
    return scripted("dialect=aws&stall_seconds=1")


def fresh_bucket(server: Endpoint) -> str:
    """A new bucket on a real server."""
    bucket = f"s3-store-{os.getpid()}-{next(_buckets)}"
    keyed(server.user, server.secret).create_client(
        "s3", region_name="us-east-1", endpoint_url=server.url
    ).create_bucket(Bucket=bucket)
    return bucket


def on(server: Endpoint, options: str = "", *, bucket: str | None = None) -> S3Store:
    """A store on a real server, on a fresh bucket unless one is named."""
    url = f"s3://{bucket or fresh_bucket(server)}?endpoint={server.url}&{options}"
    session = keyed(server.user, server.secret)
    return open_store(StoreURL.parse(url.rstrip("&")), session=session)
