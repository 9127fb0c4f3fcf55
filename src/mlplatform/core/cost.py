"""The `cost` section of `topology.yaml`, owned by cost: where bills are delivered, and how they are
read. Relative paths start at the topology's folder."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from mlplatform.core.section import OneOrMore, Section, Store

TagName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
"""What reports call a tag: `--by team`."""

BudgetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
"""It becomes part of keys."""
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
"""By ISO 4217."""
METRIC = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"
Metric = Annotated[str, StringConstraints(pattern=METRIC)]


class Budget(Section):
    """What may be spent in a month or a day: on all, or on what all of its scope is true of."""

    amount: Decimal = Field(gt=0, allow_inf_nan=False)
    per: Literal["month", "day"] = "month"
    """Of the calendar, in UTC."""
    currency: Currency | None = None
    """That of reports, unless given. Charges in others are converted by `rates`, or refused."""
    cost: Literal["effective", "billed", "contracted", "list"] = "effective"
    provider: str | None = None
    region: str | None = None
    service: str | None = None
    model: str | None = None
    team: str | None = None
    confidence: float = Field(default=80.0, ge=50, lt=100)
    """Percent. So likely it must be that the period ends above the amount before this is told."""

    @property
    def scope(self) -> dict[str, str]:
        """By dimension: the value that charges must have."""
        told = {
            "provider": self.provider,
            "region": self.region,
            "service": self.service,
            "model": self.model,
            "team": self.team,
        }
        return {name: value for name, value in told.items() if value is not None}


class Counters(Section):
    """What the servers count, by the names that Prometheus has for it: counters, each with a label
    for the model; `prometheus.region_label` tells the region."""

    requests: str = Field(default="model_serving_requests_total", pattern=METRIC)
    tokens: Annotated[tuple[Metric, ...], OneOrMore] = ()
    """Several are added up. The model server counts none; those of language models do."""
    model_label: str = Field(default="model", pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")


_GPU = 'resource="nvidia_com_gpu"'
_ALLOCATABLE = f"max by (node, $region) (kube_node_status_allocatable{{{_GPU}}})"


class Gpus(Section):
    """How Prometheus is asked for the GPUs: kube-state-metrics for what there is and who has it,
    DCGM's exporter for how busy it is. In a query `$window` is the time that a sample is to speak
    for, and `$region` the label that `prometheus.region_label` names. `node` tells nodes apart."""

    allocatable: str = _ALLOCATABLE
    """A sample a node: the GPUs that it has for pods."""
    requested: str = (
        "sum by (namespace, pod, node, $region) (max by (namespace, pod, container, node, $region)"
        f' (kube_pod_container_resource_requests{{{_GPU}, node!=""}})'
        " * on (namespace, pod, $region) group_left () (max by (namespace, pod, $region)"
        ' (kube_pod_status_phase{phase=~"Pending|Running"}) == 1))'
        f" or (0 * {_ALLOCATABLE} and on ($region) kube_pod_container_resource_requests)"
    )
    """A sample a pod with GPUs on a node, and a 0 for each node: so that nothing asked for is told
    from nothing known. Pods that have ended are stated too, and hold nothing (kube-state-metrics,
    docs/metrics/workload/pod-metrics.md)."""
    utilisation: str = (
        "avg_over_time(DCGM_FI_PROF_GR_ENGINE_ACTIVE[$window])"
        " or avg_over_time(DCGM_FI_DEV_GPU_UTIL[$window]) / 100"
        " or (avg_over_time(model_serving_gpu_utilization_ratio[$window]) unless on ($region)"
        ' {__name__=~"DCGM_FI_PROF_GR_ENGINE_ACTIVE|DCGM_FI_DEV_GPU_UTIL"})'
    )
    """A sample a GPU, or one a node: how busy it is, 0 to 1."""
    servers: str = "model_serving_requests_total"
    """Samples with `namespace`, `pod` and `cost.counters.model_label`: which pods hold which
    models."""
    weights: str = "mlplatform_route_weight"
    """Samples with `route` and `region`: per cent of the traffic, as `failover watch` states it."""
    labels: str = f"kube_node_labels and on (node, $region) {_ALLOCATABLE}"
    """Samples with labels of nodes: region, product, instance type. kube-state-metrics states them
    with `--metric-labels-allowlist=nodes=[...]`."""


class Cost(Section):
    """Owned by cost."""

    exports: Annotated[tuple[Store, ...], OneOrMore] = ()
    """Folders that bills are delivered to. Their shape is recognised by their columns."""
    ledger: Store | None = None
    """Where deliveries are kept; `cost` in the first control store, unless given."""
    prices: str | None = None
    """A table of prices: provider,region,sku,unit,price,currency,valid_from,source. It goes before
    the one that comes with the product."""
    inventory: Annotated[tuple[Store, ...], OneOrMore] = ()
    """Accounts that waste is looked for in, each in a region: `aws://us-east-1?profile=reader`.
    They are only read."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """The currency of reports, by ISO 4217."""
    rates: str | None = None
    """A table of exchange rates: from,to,rate,valid_from. Without it no currency is converted."""
    tags: Mapping[TagName, Annotated[tuple[str, ...], OneOrMore]] = Field(default_factory=dict)
    """By what reports call it: the tags that say it, the first one that a charge has."""
    budgets: Mapping[BudgetName, Budget] = Field(default_factory=dict)
    counters: Counters = Counters()
    gpus: Gpus = Gpus()
    resources: bool = True
    """Whether the ledger keeps resources apart; without them it is a fraction of its size, and
    waste cannot be found."""

    @model_validator(mode="after")
    def _scopes_are_known(self) -> Self:
        for name, budget in self.budgets.items():
            for tag in {"model", "team"} & budget.scope.keys():
                if tag not in self.tags:
                    raise PydanticCustomError(
                        "budget_scope",
                        "budgets: {name}: {tag}: no tag is said to be it; name it under "
                        "`cost.tags`",
                        {"name": name, "tag": tag},
                    )
        return self
