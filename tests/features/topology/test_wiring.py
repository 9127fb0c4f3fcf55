"""URLs become stores, and only the adapters that are used are imported."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest

from mlplatform import wiring
from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from mlplatform.wiring import Adapter

TOPOLOGY = Topology.model_validate(
    {
        "control": ["memory://wiring-1", "memory://wiring-2", "memory://wiring-3"],
        "regions": {"us": {"store": "memory://wiring-us"}, "eu": {"store": "memory://wiring-eu"}},
    }
)


def test_a_region_is_its_store() -> None:
    store = wiring.open_region(TOPOLOGY, "us")
    assert isinstance(store, MemoryStore)
    assert store.url == "memory://wiring-us"
    with pytest.raises(UsageError, match="mars: no such region"):
        wiring.open_region(TOPOLOGY, "mars")


def test_each_region_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = wiring.open_store

    def counting(url: StoreURL) -> object:
        opened.append(str(url))
        return real(url)

    monkeypatch.setattr(wiring, "open_store", counting)
    stores = wiring.region_stores(TOPOLOGY)
    assert stores("us") is stores("us")
    stores("eu")
    assert opened == ["memory://wiring-us", "memory://wiring-eu"]


FLEETS = """\
control: memory://wiring-fleets
regions:
  http: {store: "memory://f1", endpoint: "http://127.0.0.1:8101"}
  inside: {store: "memory://f2", cluster: {context: "arn:aws:eks:eu:1:cluster/models"}}
  both: {store: "memory://f3", endpoint: "http://127.0.0.1:8102", cluster: {namespace: ml}}
  neither: {store: "memory://f4"}
"""


def test_a_regions_servers_are_where_the_topology_says() -> None:
    fleets = wiring.region_fleets(Topology.parse(FLEETS))
    assert fleets("http").url == "http://127.0.0.1:8101"
    assert fleets("inside").url == "kubernetes://arn:aws:eks:eu:1:cluster/models/ml-platform"
    assert fleets("both").url == "kubernetes://both/ml"
    assert fleets("both") is fleets("both")
    for name, said in {"neither": "nothing says where its servers are", "mars": "no such"}.items():
        with pytest.raises(UsageError, match=said) as caught:
            fleets(name)
        assert caught.value.hint


def test_control_is_all_its_members() -> None:
    control = wiring.open_control(TOPOLOGY, SystemClock(), Random(0))
    assert control.urls == ("memory://wiring-1", "memory://wiring-2", "memory://wiring-3")
    control.create("leases/x", b"1")
    assert control.list("leases/") == ["leases/x"]


def test_an_unknown_scheme_is_met_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown scheme 'gcs'; did you mean gs://\?") as caught:
        wiring.open_store(StoreURL.parse("gcs://bucket"))
    assert caught.value.hint == "known here: memory://, file://, s3://, gs://, az://"


def test_a_missing_sdk_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wiring.ADAPTERS, "x", Adapter("no_such_sdk.blobs", extra="aws"))
    with pytest.raises(UsageError, match="no_such_sdk is not installed") as caught:
        wiring.open_store(StoreURL.parse("x://bucket"))
    assert caught.value.hint == "pip install 'mlplatform[aws]'"


def test_a_bug_of_ours_is_not_taken_for_a_missing_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wiring.ADAPTERS, "x", Adapter("mlplatform.adapters.no_such", extra="aws"))
    with pytest.raises(ModuleNotFoundError):
        wiring.open_store(StoreURL.parse("x://bucket"))


def test_only_the_adapter_that_is_used_is_imported() -> None:
    program = (
        "import sys; from mlplatform import wiring;"
        "from mlplatform.core.store_url import StoreURL;"
        "assert not [m for m in sys.modules if m.startswith('mlplatform.adapters')];"
        "wiring.open_store(StoreURL.parse('memory://x'));"
        "print(*sorted(m for m in sys.modules if m.startswith('mlplatform.adapters.')));"
        "assert not {'boto3', 'google.cloud', 'azure', 'rich', 'pydantic'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout.decode().split() == ["mlplatform.adapters.memory"]
