"""From URLs to adapters: the one place that knows which module speaks which scheme.

A new provider is one line here. Its module is imported on first use, so that nobody pays for the
SDK of a cloud that is not in the topology, or needs it installed.
"""

from __future__ import annotations

import difflib
import getpass
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mlplatform.core.errors import TopologyError, UsageError
from mlplatform.core.store_url import StoreURL

if TYPE_CHECKING:
    from mlplatform.control.quorum import ControlStore
    from mlplatform.core.identity import Issuer
    from mlplatform.core.money import Prices
    from mlplatform.core.topology import Topology
    from mlplatform.ports.billing import BillingApi
    from mlplatform.ports.clock import Clock
    from mlplatform.ports.fleet import Fleet
    from mlplatform.ports.ground import Ground
    from mlplatform.ports.happenings import Happenings
    from mlplatform.ports.identity import Voucher
    from mlplatform.ports.inventory import Inventory
    from mlplatform.ports.measurements import History, Measurements
    from mlplatform.ports.notify import Receiver
    from mlplatform.ports.probe import Probe
    from mlplatform.ports.resolver import Resolver
    from mlplatform.ports.servers import Servers
    from mlplatform.ports.split import Split
    from mlplatform.ports.store import ObjectStore
    from mlplatform.ports.traffic import Traffic

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A module with `open_store(url)`, `open_traffic(url, targets)`, `open_split(url, model,
    versions)`, `open_servers(url, model)`, `open_ground(url, model, actuator)` or
    `open_receiver(name, secret)`, and the extra that installs its SDK."""

    module: str
    extra: str | None = None


ADAPTERS = {
    "memory": Adapter("mlplatform.adapters.memory"),
    "file": Adapter("mlplatform.adapters.local"),
    "s3": Adapter("mlplatform.adapters.s3", extra="aws"),
    "gs": Adapter("mlplatform.adapters.gcs", extra="gcp"),
    "az": Adapter("mlplatform.adapters.azure_blob", extra="azure"),
}

TRAFFIC_ADAPTERS = {
    "memory": Adapter("mlplatform.adapters.memory_traffic"),
    "caddy": Adapter("mlplatform.adapters.caddy"),
    "rfc2136": Adapter("mlplatform.adapters.rfc2136", extra="dns"),
    "httproute": Adapter("mlplatform.adapters.gateway_api", extra="kubernetes"),
    "route53": Adapter("mlplatform.adapters.route53", extra="aws"),
}

SPLITS = {
    "memory": Adapter("mlplatform.adapters.memory_servers"),
    "caddy": Adapter("mlplatform.adapters.caddy_versions"),
    "httproute": Adapter("mlplatform.adapters.gateway_versions", extra="kubernetes"),
}

SERVERS = {
    "memory": Adapter("mlplatform.adapters.memory_servers"),
    "processes": Adapter("mlplatform.adapters.processes"),
    "deployments": Adapter("mlplatform.adapters.deployments", extra="kubernetes"),
}

GROUNDS = {"deployments": Adapter("mlplatform.adapters.kubernetes_ground", extra="kubernetes")}
"""By the scheme of the servers: where what they stand on can be asked about."""

INVENTORIES = {"aws": Adapter("mlplatform.adapters.aws_inventory", extra="aws")}

BILLING = {
    "opencost+http": Adapter("mlplatform.adapters.opencost"),
    "opencost+https": Adapter("mlplatform.adapters.opencost"),
    "cost-explorer": Adapter("mlplatform.adapters.cost_explorer", extra="aws"),
}

RECEIVERS = {
    kind: Adapter(f"mlplatform.adapters.{kind}") for kind in ("webhook", "slack", "pagerduty")
}

_CONTROL_ATTEMPTS = 5
_CONTROL_RETRY_SECONDS = 10.0
"""Less than the time that `ControlStore` waits for a member, so that a member which is merely busy
is asked again within it."""


def require_scheme(url: StoreURL, adapters: Mapping[str, Adapter] | None = None) -> Adapter:
    """The adapter for a URL; `UsageError` names the schemes there are."""
    known = ADAPTERS if adapters is None else adapters
    if adapter := known.get(url.scheme):
        return adapter
    close = difflib.get_close_matches(url.scheme, known, n=1)
    meant = f"; did you mean {close[0]}://?" if close else ""
    raise UsageError(
        f"{url.noun} {url}: unknown scheme {url.scheme!r}{meant}",
        hint=f"known here: {', '.join(f'{scheme}://' for scheme in known)}",
    )


def places_of(topology: Topology) -> dict[str, StoreURL]:
    """Every store that the topology names, by what it is for."""
    several = len(topology.control) > 1
    control = {
        f"control {number}" if several else "control": url
        for number, url in enumerate(topology.control, start=1)
    }
    return control | {region.name: region.store for region in topology.regions.values()}


def require_schemes(places: Mapping[str, StoreURL]) -> None:
    """`TopologyError` names each place whose URL no adapter speaks."""
    wrong, hint = [], None
    for place, url in places.items():
        try:
            require_scheme(url)
        except UsageError as error:
            wrong.append(f"{place}: {error}")
            hint = error.hint
    if wrong:
        raise TopologyError("\n".join(wrong), hint=hint)


def open_store(url: StoreURL) -> ObjectStore:
    """The store behind a URL. Nothing is asked of it yet."""
    store: ObjectStore = _module(url, require_scheme(url)).open_store(url)
    return store


def _module(url: StoreURL, adapter: Adapter) -> Any:
    try:
        return import_module(adapter.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if adapter.extra is None or missing.partition(".")[0] == "mlplatform":
            raise
        raise UsageError(
            f"{url.noun} {url}: {missing} is not installed",
            hint=f"pip install 'mlplatform[{adapter.extra}]'",
        ) from error


def open_region(topology: Topology, region: str) -> ObjectStore:
    """The store of a region; a name that the topology does not have is a `UsageError`."""
    return open_store(topology.region(region).store)


def region_stores(topology: Topology) -> Callable[[str], ObjectStore]:
    """`open_region`, each region opened once and then shared by all threads."""
    return _once(partial(open_region, topology))


def _once(open_one: Callable[[str], T]) -> Callable[[str], T]:
    opened: dict[str, T] = {}
    lock = threading.Lock()

    def one(name: str) -> T:
        with lock:
            if name not in opened:
                opened[name] = open_one(name)
            return opened[name]

    return one


def open_traffic(topology: Topology, route: str, *, second: bool = False) -> Traffic:
    """The actuator of a route, or its second one. Nothing is asked of it yet.

    `UsageError` for a route that the topology does not have, or has no second actuator;
    `TopologyError` where an actuator cannot be told what to point at.
    """
    routes = topology.traffic.routes
    if route not in routes:
        close = difflib.get_close_matches(route, routes, n=1)
        raise UsageError(
            f"{route}: no such route{f'; did you mean {close[0]}?' if close else ''}",
            hint=f"there are: {', '.join(routes) or 'none'}",
        )
    text = routes[route].second if second else routes[route].actuator
    if text is None:
        raise UsageError(f"route {route} has no second actuator", hint="`second:` in the topology")
    url = StoreURL.parse(text, noun="actuator")
    adapter = require_scheme(url, TRAFFIC_ADAPTERS)
    traffic: Traffic = _module(url, adapter).open_traffic(url, targets_of(topology, route))
    return traffic


def open_split(topology: Topology, model: str, region: str, versions: Sequence[str]) -> Split:
    """What divides a region's requests for a model between those versions. Nothing is asked of it
    yet. `UsageError` where the topology does not say where the weights lie."""
    text = topology.rollout.actuator_of(model, region)
    if text is None:
        raise UsageError(
            f"nothing says where the weights between versions of {model} lie in {region}",
            hint=f"set rollout.models.{model}.actuators.{region}",
        )
    url = StoreURL.parse(text, noun="actuator")
    split: Split = _module(url, require_scheme(url, SPLITS)).open_split(url, model, versions)
    return split


def opened_splits(topology: Topology) -> Callable[[str, str, Sequence[str]], Split]:
    """`open_split` by model, region and versions, each opened once and then shared by all threads:
    an adapter may carry counters over a change of its own."""
    opened = _once(lambda name: open_split(topology, *_parted(name)))
    return lambda model, region, versions: opened(f"{model}/{region}/{'/'.join(versions)}")


def _parted(name: str) -> tuple[str, str, Sequence[str]]:
    model, region, *versions = name.split("/")
    return model, region, versions


def open_servers(topology: Topology, model: str, region: str) -> Servers:
    """Who starts and stops a model's servers in a region. Nothing is asked of them yet.
    `UsageError` where the topology does not say who does."""
    text = topology.rollout.servers_of(model, region)
    if text is None:
        raise UsageError(
            f"nothing says who starts and stops servers of {model} in {region}",
            hint=f"set rollout.models.{model}.servers.{region}: processes:///FOLDER, or "
            "deployments://CONTEXT/NAMESPACE",
        )
    url = StoreURL.parse(text, noun="servers")
    servers: Servers = _module(url, require_scheme(url, SERVERS)).open_servers(url, model)
    return servers


def opened_servers(topology: Topology) -> Callable[[str, str], Servers]:
    """`open_servers` by model and region, each opened once and then shared by all threads."""
    one = _once(lambda name: open_servers(topology, *name.split("/", 1)))
    return lambda model, region: one(f"{model}/{region}")


def opened_grounds(topology: Topology) -> Callable[[str, str], Ground | None]:
    """By model and region: what a model's servers stand on, each opened once and then shared by all
    threads; None where nothing can be asked about it. Nothing is asked of it yet."""

    def one(name: str) -> Ground | None:
        model, region = name.split("/", 1)
        text = topology.rollout.servers_of(model, region)
        url = StoreURL.parse(text, noun="servers") if text is not None else None
        if url is None or url.scheme not in GROUNDS:
            return None
        divided = topology.rollout.actuator_of(model, region)
        actuator = StoreURL.parse(divided, noun="actuator") if divided is not None else None
        module = _module(url, GROUNDS[url.scheme])
        ground: Ground = module.open_ground(url, model, actuator=actuator)
        return ground

    opened = _once(one)
    return lambda model, region: opened(f"{model}/{region}")


def targets_of(topology: Topology, route: str) -> dict[str, tuple[str, ...]]:
    """What each region of a route is to its actuator: its `targets`, else host and port of the
    region's endpoint. A region belongs to a route that gives it a weight (0 will do) or targets."""
    section = topology.traffic.routes[route]
    targets: dict[str, tuple[str, ...]] = {}
    for name, region in topology.regions.items():
        if name in section.targets:
            targets[name] = section.targets[name]
        elif name in section.weights:
            if region.endpoint is None:
                raise TopologyError(
                    f"{topology.path or 'topology'}: traffic.routes.{route}: nothing says where "
                    f"{name} is",
                    hint=f"give regions.{name}.endpoint, or traffic.routes.{route}.targets.{name}",
                )
            parts = urlsplit(region.endpoint)
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            port = parts.port or (443 if parts.scheme == "https" else 80)
            targets[name] = (f"{host}:{port}",)
    return targets


def open_fleet(
    topology: Topology, region: str, *, servers: Callable[[str, str], Servers] | None = None
) -> Fleet:
    """The servers of a region: at its endpoint and, where the topology names its cluster, in there.
    Nothing is asked of them yet. `UsageError` where nothing says where they are. `servers` opens
    who starts a model's in a region, who counts them; by default `open_servers`."""
    section = topology.region(region)
    endpoint: Fleet | None = None
    if section.endpoint is not None:
        endpoint = import_module("mlplatform.adapters.http_fleet").open_fleet(section.endpoint)
    if section.clustered:
        cluster = section.cluster
        text = f"kubernetes://{cluster.context}/{cluster.namespace}"
        # Not parsed: a context may hold whatever a cloud puts into its names.
        url = StoreURL(text, "kubernetes", cluster.context, f"/{cluster.namespace}", {}, "cluster")
        adapter = Adapter("mlplatform.adapters.kubernetes_fleet", extra="kubernetes")
        module = _module(url, adapter)
        inside: Fleet = module.open_fleet(cluster.context, cluster.namespace, servers=endpoint)
        return inside
    if endpoint is None:
        raise UsageError(
            f"{region}: nothing says where its servers are",
            hint=f"give regions.{region}.endpoint, or regions.{region}.cluster",
        )
    counted = {
        model: partial(servers or partial(open_servers, topology), model, region)
        for model, own in topology.rollout.models.items()
        if region in own.servers
    }
    if not counted:
        return endpoint
    module = import_module("mlplatform.adapters.counted_fleet")
    fleet: Fleet = module.CountedFleet(endpoint, counted)
    return fleet


def region_fleets(
    topology: Topology, *, servers: Callable[[str, str], Servers] | None = None
) -> Callable[[str], Fleet]:
    """`open_fleet`, each region's opened once and then shared by all threads."""
    return _once(partial(open_fleet, topology, servers=servers))


def open_happenings(topology: Topology) -> dict[str, Happenings]:
    """What happened in each region that the topology names a cluster of. Nothing is asked of them
    yet."""
    found: dict[str, Happenings] = {}
    for name, region in topology.regions.items():
        if region.clustered:
            cluster = region.cluster
            text = f"kubernetes://{cluster.context}/{cluster.namespace}"
            url = StoreURL(text, "kubernetes", cluster.context, "", {}, "cluster")
            adapter = Adapter("mlplatform.adapters.kubernetes_happenings", extra="kubernetes")
            module = _module(url, adapter)
            found[name] = module.open_happenings(cluster.context, cluster.namespace)
    return found


def open_receivers(topology: Topology, environ: Mapping[str, str]) -> list[Receiver]:
    """Whoever is to be told of what failover does. `UsageError` names a variable that is not set:
    who expects to be woken wants to know before the night."""
    receivers: list[Receiver] = []
    for name, notice in topology.traffic.notify.items():
        secret = environ.get(notice.variable)
        if not secret:
            raise UsageError(
                f"traffic.notify.{name}: the environment variable {notice.variable} is not set",
                hint="it holds the URL, or the routing key, which the topology must not",
            )
        module = import_module(RECEIVERS[notice.kind].module)
        receivers.append(module.open_receiver(name, secret))
    return receivers


def vouchers_of(topology: Topology, environ: Mapping[str, str]) -> Iterator[Callable[[], Voucher]]:
    """Whoever may vouch for whoever types, in the order in which they are asked: issuers of tokens
    first, since a pipeline has one by itself. Each is opened when its turn comes."""

    def of_issuer(issuer: Issuer) -> Voucher:
        url = StoreURL(issuer.url, "oidc", issuer.url, "", {}, "issuer")
        adapter = _module(url, Adapter("mlplatform.adapters.oidc", extra="rollout"))
        voucher: Voucher = adapter.open_voucher(issuer, environ)
        return voucher

    def of_cluster(context: str) -> Voucher:
        url = StoreURL(f"kubernetes://{context}", "kubernetes", context, "", {}, "cluster")
        adapter = Adapter("mlplatform.adapters.kubernetes_identity", extra="kubernetes")
        voucher: Voucher = _module(url, adapter).open_voucher(context)
        return voucher

    believed = topology.rollout.waves.identity
    for issuer in believed.issuers:
        yield partial(of_issuer, issuer)
    contexts: dict[str, None] = {}
    for name, region in topology.regions.items():
        wanted = believed.clusters is None or name in believed.clusters
        if region.clustered and wanted:
            contexts[region.cluster.context] = None
    for context in contexts:
        yield partial(of_cluster, context)


def open_probe() -> Probe:
    """Whoever asks endpoints."""
    probe: Probe = import_module("mlplatform.adapters.http_probe").open_probe()
    return probe


def open_resolver(server: str) -> Resolver:
    """The resolver at an address, `192.0.2.53` or `192.0.2.53:5353`."""
    try:
        module = import_module("mlplatform.adapters.resolver")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"resolver {server}: {error.name} is not installed",
            hint="pip install 'mlplatform[dns]'",
        ) from error
    resolver: Resolver = module.StubResolver(server)
    return resolver


def open_measurements(topology: Topology) -> Measurements | None:
    """The Prometheus that the topology names, if it names one. Nothing is asked of it yet."""
    if topology.prometheus is None:
        return None
    module = import_module("mlplatform.adapters.prometheus")
    measurements: Measurements = module.open_measurements(topology.prometheus.url)
    return measurements


def is_billing(text: str) -> bool:
    """Whether a place is asked what was spent, and not read as an export."""
    return text.partition("://")[0] in BILLING


def open_billing(text: str) -> BillingApi:
    """The billing API behind a URL. Nothing is asked of it yet."""
    url = StoreURL.parse(text, noun="billing API")
    api: BillingApi = _module(url, require_scheme(url, BILLING)).open_billing(url)
    return api


def open_inventories(topology: Topology) -> list[Inventory]:
    """The accounts that waste is looked for in, each in a region. Nothing is asked of them yet."""
    found: list[Inventory] = []
    for place in topology.cost.inventory:
        url = StoreURL.parse(place.text, noun="inventory")
        found.append(_module(url, require_scheme(url, INVENTORIES)).open_inventory(url))
    return found


REMOVALS = {
    "file": "rm -r {path}/{{prefix}}",
    "s3": "aws s3 rm --recursive{endpoint} s3://{bucket}/{below}{{prefix}}",
    "gs": "gcloud storage rm --recursive gs://{bucket}/{below}{{prefix}}",
    "az": "az storage blob delete-batch --account-name {bucket} --source {container} "
    "--pattern '{below}{{prefix}}*'",
}
"""By scheme: what a person types to remove what lies below a key. Nobody runs it here."""


def removal_of(url: StoreURL) -> str:
    """The command for one store, with `{prefix}` in it; empty where there is none."""
    form = REMOVALS.get(url.scheme)
    if form is None:
        return ""
    container, _, below = url.path.strip("/").partition("/")
    whole = url.path.strip("/") if url.scheme != "az" else below
    endpoint = url.options.get("endpoint")
    return form.format(
        path=url.path.rstrip("/"),
        bucket=url.authority,
        container=container,
        below=f"{whole}/" if whole else "",
        endpoint=f" --endpoint-url {endpoint}" if endpoint else "",
    )


def open_prices(topology: Topology) -> Prices:
    """List prices: those that come with the product, and before them the operator's own.
    `UsageError` if `cost.prices` names a table that cannot be read."""
    own = topology.cost.prices
    folder = topology.path.parent if topology.path else Path.cwd()
    module = import_module("mlplatform.adapters.price_tables")
    prices: Prices = module.open_prices(folder / own if own is not None else None)
    return prices


def open_history(topology: Topology) -> History | None:
    """The same, for what it remembers."""
    if topology.prometheus is None:
        return None
    module = import_module("mlplatform.adapters.prometheus")
    history: History = module.open_history(topology.prometheus.url)
    return history


def open_control(
    topology: Topology, clock: Clock, random: Random, *, stop: Callable[[], bool] | None = None
) -> ControlStore:
    """The control store, over the one or three that the topology names."""
    from mlplatform.control.quorum import ControlStore
    from mlplatform.control.retry import Retry, RetryingStore

    retry = Retry(
        clock,
        random,
        attempts=_CONTROL_ATTEMPTS,
        deadline_seconds=_CONTROL_RETRY_SECONDS,
        stop=stop,
    )
    return ControlStore([RetryingStore(open_store(url), retry) for url in topology.control], clock)


def writer_name() -> str:
    """Who this process is, for people: `user@host:pid`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"
