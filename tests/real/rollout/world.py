"""A platform on real control planes: in each region a namespace of a cluster with servers of
`resnet50@v1`, an HTTPRoute that a gateway follows, and clients that send requests through it all
along; and `mlplatform` as it is typed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mlplatform.cli.demo.client import Client, Request
from tests.real.servers.cluster import GOLDEN, Cluster
from tests.real.servers.entry import Divided, Entry, scraped
from tests.real.servers.gateway import Way, install_gateway_api, routes, way_to
from tests.real.servers.roles import put
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
MODEL, ROUTE, FIRST = "resnet50", "resnet50", "v1"
"""The model, its route, and the version that serves before anything is rolled out."""
_GPUS_A_NODE = 100
_L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
_GROUP = "mlplatform:rollout"
_WITHIN_SECONDS = 180.0
_JSON_BODY = json.dumps(GOLDEN["request"]).encode()
_numbers = itertools.count(1)
_LINES = """
import shlex, sys
from mlplatform.cli.app import main
for line in sys.stdin:
    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    exit_code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that an operator has read."""
        return f"{self.out}{self.err}"

    @property
    def told(self) -> dict[str, Any]:
        """What `--output json` gave."""
        found: dict[str, Any] = json.loads(self.out)
        return found


class Region:
    """One namespace of one cluster, under the Roles that we ship, with nodes of its own."""

    def __init__(self, name: str, cluster: Cluster, way: Way, namespace: str) -> None:
        self.name = name
        self.cluster = cluster
        self.plane = cluster.plane
        self.way = way
        self.namespace = namespace
        self.nodes: list[str] = []
        self.entry = Entry(self.plane, namespace, ROUTE)
        # Who is answered late on a busy machine is not lost.
        url = f"{self.entry.url}/v2/models/{MODEL}/infer"
        self.client = Client(url, [_JSON_BODY], timeout_seconds=30.0)

    def path(self, group: str, plural: str, name: str = "") -> str:
        """Of the API: `path("apps/v1", "deployments")`."""
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        return f"{root}/namespaces/{self.namespace}/{plural}{name and f'/{name}'}"

    def put(self, group: str, plural: str, body: Mapping[str, Any]) -> Any:
        """What an operator's `kubectl create` does."""
        return self.plane.ask("POST", self.path(group, plural), body)

    def settle(self, servers: int, gpus: int, digest: str) -> None:
        """What is there before the first rollout: see docs/rollout-kubernetes.md."""
        self.plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        for first in range(0, gpus, _GPUS_A_NODE):
            here = {"site": self.namespace, **_L4}
            self.nodes.append(self.cluster.node(min(_GPUS_A_NODE, gpus - first), **here))
        for role in sorted((ROOT / "infra/rbac").glob("*.yaml")):
            text = role.read_text()
            if _GROUP in text:
                put(self.plane, map(self._named, yaml.safe_load_all(text)), self.namespace)
        labels = {"app": MODEL}
        pod = {
            "nodeSelector": {"site": self.namespace},
            "containers": [
                {
                    "name": "server",
                    "image": "registry.example/server:1",
                    "env": [{"name": "MODEL_VERSION", "value": FIRST}],
                    "ports": [{"name": "http", "containerPort": self.cluster.port}],
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        }
        told = {"mlplatform.dev/version": FIRST}
        template = {
            "metadata": {
                "labels": {**labels, **told, "mlplatform.dev/model": MODEL},
                "annotations": {"mlplatform.dev/digest": digest},
            },
            "spec": pod,
        }
        about = {
            "name": MODEL,
            "labels": {"mlplatform.dev/model": MODEL},
            "annotations": {"mlplatform.dev/digest": digest},
        }
        selector = {"matchLabels": labels}
        spec = {"replicas": servers, "selector": selector, "template": template}
        self.put("apps/v1", "deployments", {"metadata": about, "spec": spec})
        about = {"name": MODEL, "labels": {"mlplatform.dev/model": MODEL, **told}}
        ports = [{"name": "http", "port": 8000, "targetPort": "http"}]
        self.put(
            "v1", "services", {"metadata": about, "spec": {"selector": labels, "ports": ports}}
        )
        route = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": ROUTE},
            "spec": {
                "parentRefs": [{"name": "gateway"}],
                "rules": [{"backendRefs": [{"name": MODEL, "port": 8000}]}],
            },
        }
        self.plane.ask("POST", routes(self.namespace), route)

    def _named(self, document: dict[str, Any]) -> dict[str, Any]:
        """A Role that we ship, or what binds it: what is the cluster's, by its own name."""
        if document["kind"].startswith("Cluster"):
            document["metadata"]["name"] += f"-{self.namespace}"
            if "roleRef" in document:
                document["roleRef"]["name"] += f"-{self.namespace}"
        return document

    # --- what is there --------------------------------------------------------------------------

    def pods(self, version: str) -> list[dict[str, Any]]:
        """The pods of a version that are not about to end."""
        return [
            each
            for each in self.plane.ask("GET", self.path("v1", "pods"))["items"]
            if each["metadata"]["labels"].get("mlplatform.dev/version") == version
            and not each["metadata"].get("deletionTimestamp")
        ]

    def ready(self, version: str) -> list[dict[str, Any]]:
        """Those of them that are ready."""
        return [
            each
            for each in self.pods(version)
            if any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in each["status"].get("conditions", ())
            )
        ]

    def crash(self, version: str) -> int:
        """All servers of a version that are ready crash; how many there were."""
        there = self.ready(version)
        for pod in there:
            self.cluster.crash(self.namespace, f"{pod['status']['podIP']}:{self.cluster.port}")
        return len(there)

    @property
    def shares(self) -> dict[str, int]:
        """Per cent of the region's requests, by version, as the route says them."""
        services = self.plane.ask("GET", self.path("v1", "services"))["items"]
        versions = {
            each["metadata"]["name"]: each["metadata"]["labels"]["mlplatform.dev/version"]
            for each in services
        }
        route = self.plane.ask("GET", f"{routes(self.namespace)}/{ROUTE}")
        backends = route["spec"]["rules"][0]["backendRefs"]
        weights = {versions[each["name"]]: each.get("weight", 1) for each in backends}
        whole = sum(weights.values())
        return {version: 100 * weight // whole for version, weight in weights.items() if weight}

    def failing(self, seconds: float = 1.0) -> list[Request]:
        """Clients' requests from now on, for so long, that fail."""
        began = time.monotonic()
        time.sleep(seconds)
        return self.failed(began)

    def failed(self, since: float = 0.0) -> list[Request]:
        """Clients' requests that failed."""
        return self.client.since(since).failed


@dataclass
class World:
    """A platform, and who types."""

    folder: Path
    regions: dict[str, Region]
    topology: dict[str, Any]
    began: float = field(default_factory=time.monotonic)

    def __getitem__(self, region: str) -> Region:
        return self.regions[region]

    @property
    def environment(self) -> dict[str, str]:
        """What commands find."""
        kept = {"PATH", "HOME", "LANG", "LC_ALL"}
        clean = {name: value for name, value in os.environ.items() if name in kept}
        return clean | {
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "COLUMNS": "200",
            "MLPLATFORM_NO_INPUT": "1",
        }

    def write(self) -> None:
        """`topology.yaml`, as it is now."""
        (self.folder / "topology.yaml").write_text(json.dumps(self.topology, indent=2))

    def start(self, line: str) -> subprocess.Popen[str]:
        """`mlplatform LINE`, begun."""
        return subprocess.Popen(
            [sys.executable, "-m", "mlplatform.cli.app", *shlex.split(line)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def type(self, line: str) -> Ran:
        """`mlplatform LINE`, and what came of it."""
        return ended(self.start(line))

    def publish(
        self, *versions: str, regions: Sequence[str] = (), requires: Sequence[str] = ()
    ) -> None:
        """Versions, stored and verified in every region, or in some, and what they need to run."""
        needs = "".join(f" --requires {each}" for each in requires)
        lines = []
        first, *others = regions or list(self.regions)
        for version in versions:
            artefact = self.folder / f"artefact-{version}"
            artefact.mkdir()
            (artefact / "weights").write_text(version)
            (artefact / "golden.ndjson").write_text(f"{json.dumps(GOLDEN)}\n")
            named = f"--model {MODEL} --version {version} --region {first}"
            lines.append(f"mlplatform publish {artefact} {named}{needs}")
            if others:
                lines.append(f"mlplatform replicate {MODEL}@{version} --to {','.join(others)}")
        ran = subprocess.run(
            [sys.executable, "-c", _LINES],
            input="\n".join(lines),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_WITHIN_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr

    def digest(self, version: str) -> str:
        """A published version's."""
        found = self.type("versions --output json").told["versions"]
        return str(next(each["digest"] for each in found if each["version"] == version))

    def failed(self) -> list[str]:
        """What clients' requests were answered that failed, of all there were, anywhere."""
        return [one.answer for each in self.regions.values() for one in each.failed()]

    def state(self) -> str:
        """What became of the newest rollout, or becomes."""
        return str(self.type(f"rollout status {MODEL} --output json").told["state"])


def ended(process: subprocess.Popen[str], *, within_seconds: float = _WITHIN_SECONDS) -> Ran:
    """A command when it has ended by itself."""
    try:
        out, err = process.communicate(timeout=within_seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        raise AssertionError(f"not within {within_seconds:g} s:\n{out}{err}") from None
    return Ran(process.returncode, out, err)


def reached(region: Region, holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """The shares of a region, once that is true of them."""
    found: dict[str, int] = {}

    def is_so() -> bool:
        nonlocal found
        found = region.shares
        return holds(found)

    eventually(is_so, within_seconds=90.0)
    return found


def never(entry: Entry, wrong: Callable[[Divided], bool]) -> list[Divided]:
    """What was wrong of all that was ever in force at an entry: nothing, it is hoped."""
    return [each for each in entry.history if wrong(each)]


def loses_requests(divided: Divided) -> bool:
    """Whether somebody had weight behind whom nobody was."""
    return not any(divided.weights.values()) or any(
        weight and not divided.endpoints[name] for name, weight in divided.weights.items()
    )


POLICY: Mapping[str, Any] = {
    "strategy": {"weights": [50], "step_seconds": 1},
    "waves": {"bake_seconds": 1, "spare_region": False},
    "verdict": {"metrics": ["errors"], "window_seconds": 1, "epsilon": 0.08},
}
"""What takes minutes takes a second here."""


@contextlib.contextmanager
def world_of(
    clusters: Mapping[str, Cluster],
    folder: Path,
    *,
    versions: Sequence[str],
    servers: int = 2,
    gpus: int = 6,
    policy: Mapping[str, Any] = POLICY,
    model: Mapping[str, Any] | None = None,
    kubeconfig_user: str = "rollout-1",
) -> Iterator[World]:
    """Regions by name, each with so many servers of v1 and GPUs, and versions that are stored
    everywhere. Clients send requests until it ends."""
    number = next(_numbers)
    with contextlib.ExitStack() as stack:
        regions: dict[str, Region] = {}
        for name, cluster in clusters.items():
            way = stack.enter_context(way_to(cluster.plane))
            regions[name] = Region(name, cluster, way, f"roll-{os.getpid()}-{number}-{name}")
            plane, server = cluster.plane, f"https://127.0.0.1:{way.server_port}"
            plane.kubeconfig(folder / f"{name}.yaml", kubeconfig_user, context=name, server=server)
        for each in regions.values():
            stack.enter_context(each.entry)
        prometheus = stack.enter_context(scraped([each.entry for each in regions.values()]))
        world = World(folder, regions, _topology(folder, regions, prometheus, gpus, policy, model))
        world.write()
        world.publish(FIRST, *versions)
        digest = world.digest(FIRST)
        with ThreadPoolExecutor() as pool:
            list(
                pool.map(
                    partial(_settle, servers=servers, gpus=gpus, digest=digest), regions.values()
                )
            )
        for each in regions.values():
            eventually(partial(_serves, each, servers))
            del each.entry.history[:-1]  # what was before they were ready is nobody's fault
            each.client.start()
            stack.callback(each.client.stop)
            stack.callback(_clear, each)
        yield world


def _settle(region: Region, *, servers: int, gpus: int, digest: str) -> None:
    install_gateway_api(region.plane)
    region.settle(servers, gpus, digest)


def _serves(region: Region, servers: int) -> bool:
    last = region.entry.history[-1:]
    return bool(last) and set(last[0].endpoints.values()) == {servers}


def _clear(region: Region) -> None:
    """Pods give their nodes back; what else is there harms nobody."""
    for plural in ("deployments",):
        region.plane.ask("DELETE", region.path("apps/v1", plural))


def _topology(
    folder: Path,
    regions: Mapping[str, Region],
    prometheus: str,
    gpus: int,
    policy: Mapping[str, Any],
    model: Mapping[str, Any] | None,
) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    known = {"measured_on": str(today), "expires_on": str(today + timedelta(days=90))}
    dispersion = {"errors": {"phi": 1, **known}}
    options = {name: f"kubeconfig={folder}/{name}.yaml" for name in regions}
    home, *others = regions
    return {
        "control": f"file://{folder}/control",
        "regions": {
            name: {
                "store": f"file://{folder}/{name}",
                "endpoint": each.entry.url,
                "gpus": {"NVIDIA-L4": gpus},
            }
            for name, each in regions.items()
        },
        "models": {
            MODEL: {
                "version": FIRST,
                "home": home,
                "replicate_to": others,
                "gpus": {"NVIDIA-L4": 1},
            }
        },
        "rollout": {
            **policy,
            "verdict": {**policy["verdict"], "dispersion": dispersion},
            "models": {
                MODEL: {
                    "load_seconds": 1,
                    "servers": {
                        name: f"deployments://{name}/{each.namespace}?{options[name]}"
                        for name, each in regions.items()
                    },
                    "actuators": {
                        name: f"httproute://{name}/{each.namespace}/{ROUTE}?{options[name]}"
                        f"&prometheus={prometheus}&metrics=envoy"
                        for name, each in regions.items()
                    },
                    **(model or {}),
                }
            },
        },
    }
