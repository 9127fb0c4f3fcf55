"""Whether the HTTPRoute that divides a model's requests between versions is there, and who else
writes its weights: the part of a preflight that is the route's."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.adapters.gateway_api import GROUP, PLURAL, VERSION, Place, place_of
from mlplatform.adapters.kubernetes_api import KubernetesAPI, path_of
from mlplatform.adapters.kubernetes_owners import mend_of, mover_of
from mlplatform.core.errors import Denied, NotFound
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.ground import Ownership, Reference

SCHEME = "httproute"
_STALL_SECONDS = 10.0


def open_route(url: StoreURL) -> Route:
    """The route of `httproute://context/namespace/name`. Nothing is asked of it yet."""
    place = place_of(url)
    api = KubernetesAPI(
        place.context,
        kubeconfig=url.options.get("kubeconfig"),
        timeout_seconds=url.seconds("stall_seconds", default=_STALL_SECONDS),
    )
    return Route(api, place)


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTPRoute."""

    api: KubernetesAPI
    place: Place

    def look(self) -> tuple[Reference, tuple[Ownership, ...]]:
        """Whether it is there, and who else writes its weights. `Unknown` where it may not be
        read."""
        name = self.place.name
        where = f"{self.place.namespace}/{name}"
        try:
            route = self.api.get(path_of(self.place.namespace, GROUP, VERSION, PLURAL, name))
        except NotFound:
            return Reference("HTTPRoute", where, "the topology", there=False), ()
        except Denied as error:
            return Reference("HTTPRoute", where, "the topology", Unknown(error.message)), ()
        reference = Reference("HTTPRoute", where, "the topology")
        route |= {"apiVersion": f"{GROUP}/{VERSION}", "kind": "HTTPRoute"}
        owner = mover_of(route)
        if owner is None:
            return reference, ()
        mend = mend_of(owner, route)
        return reference, (
            Ownership(f"HTTPRoute {name}", "spec.rules[].backendRefs", str(owner), mend),
        )
