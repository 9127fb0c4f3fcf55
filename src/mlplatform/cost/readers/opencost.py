"""OpenCost's allocations, as its API answers: `{"code": 200, "data": [{name: allocation}, …]}`.

Source: OpenCost, `core/pkg/opencost/allocation.go`, and "API" in its documentation. A map of
allocations is one step; ask for `step=1d`, since a step is charged to its first day. Each
allocation becomes a charge for each thing that it cost: CPU, GPU, RAM, volumes, network by how far,
load balancers, shared and external; `other` is what the total has beyond these, so that it is
always OpenCost's own.

These are no bills: OpenCost multiplies what was requested or used by list prices, and the cloud
bills the same machines. So BilledCost is 0, since nobody is invoiced by OpenCost, and EffectiveCost
is its total. A ledger with both has the machines twice in EffectiveCost; keep them in two.

The answer does not name its currency. It is the dollar unless OpenCost's own `currencyCode` says
otherwise; then `currency` beside `data` says so here.
"""

from __future__ import annotations

from mlplatform.cost.engine import MONEY, name_of, text_of
from mlplatform.cost.readers.shape import Columns, TagNames, selected

_PARTS = (
    # meter, the fields that add up to it, the field of its quantity, unit, category of the service
    ("cpu", ("cpuCost", "cpuCostAdjustment"), "cpuCoreHours", "Core-Hours", "Compute"),
    ("gpu", ("gpuCost", "gpuCostAdjustment"), "gpuHours", "GPU-Hours", "Compute"),
    ("ram", ("ramCost", "ramCostAdjustment"), "ramByteHours", "Byte-Hours", "Compute"),
    ("volume", ("pvCost", "pvCostAdjustment"), "pvByteHours", "Byte-Hours", "Storage"),
    ("network-cross-zone", ("networkCrossZoneCost",), "", "", "Networking"),
    ("network-cross-region", ("networkCrossRegionCost",), "", "", "Networking"),
    ("network-internet", ("networkInternetCost",), "", "", "Networking"),
    (
        "load-balancer",
        ("loadBalancerCost", "loadBalancerCostAdjustment"),
        "",
        "",
        "Networking",
    ),
    ("shared", ("sharedCost",), "", "", "Other"),
    ("external", ("externalCost",), "", "", "Other"),
)
_FAR = ("networkCrossZoneCost", "networkCrossRegionCost", "networkInternetCost")
_NETWORK = ("networkCost", "networkCostAdjustment")
_FIELDS = (
    *dict.fromkeys(
        field for _, fields, quantity, *_ in _PARTS for field in (*fields, quantity) if field
    ),
    *(*_NETWORK, "totalCost"),
)
_LEAST = "0.000001"
"""Sums of binary fractions differ from their total in the last digits."""


class OpenCost:
    """Reads an answer of `/allocation`, unfolded by `allocations`."""

    name = "opencost"
    date_columns = ()
    month_first = False

    def fits(self, columns: Columns) -> bool:
        return columns.has("allocation_name", "allocation", "currency")

    def part(self, relation: str, columns: Columns) -> str | None:
        return None

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        # Everything is read out of an allocation by one call: each call would keep a parsed copy of
        # the rows at hand.
        paths = _Paths()
        start = f"coalesce({paths.text('window', 'start')}, {paths.text('start')})"
        read = {
            "currency": "coalesce(currency, 'USD')",
            "name": "allocation_name",
            "began": f"(TRY_CAST({start} AS TIMESTAMPTZ) AT TIME ZONE 'UTC')",
            "cluster": paths.text("properties", "cluster"),
            "namespace": paths.text("properties", "namespace"),
            "region": paths.label(("topology.kubernetes.io/region",)),
            **{name_of(each): f"TRY_CAST({paths.text(each)} AS {MONEY})" for each in _FIELDS},
            **{name_of(f"label_{name}"): paths.label(keys) for name, keys in tags.items()},
        }
        told = ", ".join(f"{expression} AS {name}" for name, expression in read.items())
        found_by = (
            "SELECT currency, allocation_name, "
            f"json_extract_string(allocation, {paths.listed}) AS found FROM {relation}"
        )
        parts = f"SELECT *, unnest({_parts()}) AS part FROM (SELECT {told} FROM ({found_by}))"
        expressions = {
            "BilledCost": f"CAST(0 AS {MONEY})",
            "EffectiveCost": f"CAST(part.cost AS {MONEY})",
            "PricingQuantity": f"CAST(part.quantity AS {MONEY})",
            "PricingUnit": "nullif(part.unit, '')",
            "BillingPeriodStart": "CAST(date_trunc('month', began) AS TIMESTAMP)",
            "ChargePeriodStart": "CAST(began AS TIMESTAMP)",
            "BillingCurrency": "currency",
            "BillingAccountId": "cluster",
            "SubAccountId": "namespace",
            "ServiceProviderName": "'OpenCost'",
            "RegionId": "region",
            "ServiceCategory": "part.category",
            "ServiceName": "'Kubernetes'",
            "SkuMeter": "part.meter",
            "ResourceId": "name",
            "ChargeCategory": "'Usage'",
        }
        found = {name: name_of(f"label_{name}") for name in tags}
        return selected(
            expressions,
            found,
            f"({parts})",
            where="part.cost <> 0 OR coalesce(part.quantity, 0) <> 0",
        )


class _Paths:
    """Places in an allocation, each looked up once."""

    def __init__(self) -> None:
        self._paths: dict[str, int] = {}

    @property
    def listed(self) -> str:
        """SQL for all of them."""
        return f"[{', '.join(text_of(path) for path in self._paths)}]"

    def text(self, *path: str) -> str:
        """SQL for what is at a place."""
        pointer = "".join(f"/{each.replace('~', '~0').replace('/', '~1')}" for each in path)
        place = self._paths.setdefault(pointer, len(self._paths) + 1)
        return f"found[{place}]"

    def label(self, keys: tuple[str, ...]) -> str:
        """SQL for the first of these labels or annotations that it has. Prometheus has made their
        names its own: `a-b/c` is `a_b_c`."""
        forms = dict.fromkeys(form for key in keys for form in (key, _plain(key)))
        kinds = ("labels", "annotations", "namespaceLabels", "namespaceAnnotations")
        each = [
            f"nullif({self.text('properties', kind, form)}, '')" for kind in kinds for form in forms
        ]
        return f"coalesce({', '.join(each)})"


def _sum(fields: tuple[str, ...]) -> str:
    return " + ".join(f"coalesce({name_of(field)}, 0)" for field in fields)


def _parts() -> str:
    """SQL for the list of what an allocation cost."""
    rows = [
        _part(meter, _sum(fields), name_of(quantity) if quantity else "NULL", unit, category)
        for meter, fields, quantity, unit, category in _PARTS
    ]
    # Some answers have the network in parts only, and some its total only.
    rest = f"{_sum(_NETWORK)} - ({_sum(_FAR)})"
    rest = f"CASE WHEN {name_of('networkCost')} IS NULL THEN 0 ELSE {rest} END"
    rows.append(_part("network", _real(rest), "NULL", "", "Networking"))
    total = name_of("totalCost")
    known = f"{_sum(tuple(field for _, fields, *_ in _PARTS for field in fields))} + {rest}"
    other = f"CASE WHEN {total} IS NULL THEN 0 ELSE {total} - ({known}) END"
    rows.append(_part("other", _real(other), "NULL", "", "Other"))
    return f"[{', '.join(rows)}]"


def _real(amount: str) -> str:
    return f"CASE WHEN abs({amount}) < {_LEAST} THEN 0 ELSE {amount} END"


def _part(meter: str, cost: str, quantity: str, unit: str, category: str) -> str:
    return (
        f"{{'meter': {text_of(meter)}, 'cost': CAST({cost} AS {MONEY}), "
        f"'quantity': CAST({quantity} AS {MONEY}), 'unit': {text_of(unit)}, "
        f"'category': {text_of(category)}}}"
    )


def _plain(key: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in key)
