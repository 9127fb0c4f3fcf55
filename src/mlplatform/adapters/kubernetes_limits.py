"""What a namespace's LimitRanges make of a pod, and what they refuse.

As the API server's LimitRanger does it: a container that leaves out a limit gets the range's
`default`, one that has no request of its own `defaultRequest`; then each container, and the sum of
a pod, is held against the bounds. Where a range leaves its defaults out, the API server has written
them into it (the upper bound, then the lower one), so that they are read as they stand.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

from mlplatform.adapters.kubernetes_api import JSON
from mlplatform.adapters.kubernetes_placement import quantity, requested, takes
from mlplatform.ports.ground import Amounts, Bound, Given, Limit

_BOUNDS = {"min": Bound.LEAST, "max": Bound.MOST, "maxLimitRequestRatio": Bound.RATIO}


def admitted(
    spec: JSON, ranges: Iterable[JSON], like: Sequence[JSON]
) -> tuple[JSON, tuple[Given, ...]]:
    """A pod's spec as it will be, and what ranges have put into it. `like` are pods that were
    started by that spec: whether they have it too."""
    made = copy.deepcopy(spec)
    given: list[Given] = []
    for name, item in _items(ranges, "Container"):
        for container in _containers(made):
            resources = container.get("resources") or {}
            stated = requested(container)
            for field, key in (("limits", "default"), ("requests", "defaultRequest")):
                own = dict(resources.get(field) or {})
                for resource, value in (item.get(key) or {}).items():
                    # A limit is a request too, before ranges are asked.
                    if resource in own or (field == "requests" and resource in stated):
                        continue
                    own[resource] = value
                    found = Given(
                        name,
                        str(container["name"]),
                        field,
                        resource,
                        quantity(value),
                        known=not like or any(_has(p, container, field, resource) for p in like),
                        request=stated.get(resource),
                    )
                    given.append(found)
                if own:
                    resources = {**resources, field: own}
            if resources:
                container["resources"] = resources
    return made, tuple(given)


def limits_of(spec: JSON, ranges: Iterable[JSON]) -> Iterator[Limit]:
    """What ranges bound, and what a pod of that spec, as it is `admitted`, has there."""
    ranges = list(ranges)
    for container in _containers(spec):
        about = f"container {container['name']}"
        asked, limit = requested(container), requested(container, which="limits")
        for name, item in _items(ranges, "Container"):
            yield from _bounds(name, item, about, asked, limit)
    for name, item in _items(ranges, "Pod"):
        yield from _bounds(name, item, "a pod", takes(spec), takes(spec, which="limits"))


def _bounds(name: str, item: JSON, about: str, asked: Amounts, limit: Amounts) -> Iterator[Limit]:
    for key, bound in _BOUNDS.items():
        for resource, value in (item.get(key) or {}).items():
            held = asked.get(resource), limit.get(resource)
            yield Limit(name, f"{key}.{resource}", about, bound, resource, quantity(value), *held)


def _items(ranges: Iterable[JSON], kind: str) -> Iterator[tuple[str, JSON]]:
    for each in ranges:
        for item in each["spec"].get("limits") or ():
            if item.get("type") == kind:
                yield f"LimitRange {each['metadata']['name']}", item


def _containers(spec: JSON) -> Iterator[JSON]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _has(pod: JSON, container: JSON, field: str, resource: str) -> bool:
    """Whether a pod's container of that name has any such amount: then it is no news."""
    return any(
        resource in ((each.get("resources") or {}).get(field) or {})
        for each in _containers(pod["spec"])
        if each["name"] == container["name"]
    )
