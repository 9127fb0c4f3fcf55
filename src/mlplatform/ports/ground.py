"""The ground port: what a region's cluster offers a model's servers, before any is started.

Read by rollout alone, and nothing is changed: what a server needs, what else wants the same GPUs,
and who scales and owns what would be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from mlplatform.core.seen import Unknown

Amounts = Mapping[str, Decimal]
"""By resource, as the cluster calls it: `cpu` in cores, `memory` in bytes, `nvidia.com/gpu`."""


@dataclass(frozen=True, slots=True)
class GPU:
    """What is known of a node's GPUs. None: nobody has said."""

    product: str | None = None
    """As GPU feature discovery names it: `NVIDIA-H100-80GB-HBM3`."""
    capability: tuple[int, int] | None = None
    """Compute capability: major, minor."""
    driver: str | None = None
    """Its version: `550.54.15`."""
    cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver runs: major, minor."""


@dataclass(frozen=True, slots=True)
class Pod:
    """Somebody's pod that has, or wants, what a server needs."""

    name: str
    """`namespace/name`."""
    takes: Amounts = field(default_factory=dict)
    priority: int = 0
    ends_at: datetime | None = None
    """When its grace ends, where it was told to; until it has gone it holds what it takes."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node on which a server may run by its selectors, affinities and tolerations."""

    name: str
    gpu: GPU = GPU()
    free: Amounts = field(default_factory=dict)
    """Allocatable, less what pods there take; those that end too, for they hold it still."""
    ending: tuple[Pod, ...] = ()
    """Told to end, and not gone."""


@dataclass(frozen=True, slots=True)
class Quota:
    """One line of a quota."""

    name: str
    """`ResourceQuota gpus`."""
    resource: str
    """`requests.nvidia.com/gpu`."""
    hard: Decimal
    used: Decimal
    per_server: Decimal
    """What one more server counts there."""
    once: Decimal = Decimal(0)
    """What the version counts there, however many servers it has: a Deployment, a Service."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget over servers of the model."""

    name: str
    states: str
    """Its own words: `minAvailable: 4`."""
    healthy: int
    """Of its pods, now."""
    desired: int
    """How many of them it wants healthy at least."""
    allowed: int
    """`disruptionsAllowed`."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that the servers' pods name, without which they do not start."""

    kind: str
    name: str
    named_by: str
    """Where: `spec.template.spec.imagePullSecrets`."""
    there: bool | Unknown = True

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class ProbeTime:
    """How long a probe lets a container start before it is killed."""

    probe: str
    """`startupProbe`, or `livenessProbe` where there is no other."""
    container: str
    delay_seconds: float
    period_seconds: float
    failures: int

    @property
    def allowed_seconds(self) -> float:
        """`initialDelaySeconds` + `periodSeconds` × `failureThreshold`."""
        return self.delay_seconds + self.period_seconds * self.failures


@dataclass(frozen=True, slots=True)
class Ownership:
    """A field that a rollout would write, and that a deployment tool puts back."""

    subject: str
    """`Deployment resnet`."""
    fields: str
    owner: str
    """`Argo CD models`."""
    fix: str
    """What to change where, with the patch for the repository."""


@dataclass(frozen=True, slots=True)
class Rivalry:
    """Two autoscalers of one Deployment that undo each other's work."""

    horizontal: str
    """Changes the number of pods by how much of `resources` they use of what they request."""
    vertical: str
    """Changes those requests."""
    resources: tuple[str, ...]


class Bound(StrEnum):
    """What a limit bounds."""

    LEAST = "least"
    """Request and limit are no less."""
    MOST = "most"
    """Limit and request are no more."""
    RATIO = "ratio"
    """The limit is no more than so many times the request."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound of a LimitRange, and what a server has there. None: it states none."""

    name: str
    """`LimitRange team`."""
    states: str
    """Where in it: `max.memory`."""
    of: str
    """`container server`, or `a pod`."""
    bound: Bound
    resource: str
    value: Decimal
    request: Decimal | None
    limit: Decimal | None


@dataclass(frozen=True, slots=True)
class Given:
    """What a LimitRange puts into a container that leaves it out."""

    name: str
    container: str
    field: str
    """`limits` or `requests`."""
    resource: str
    value: Decimal
    known: bool = True
    """Whether servers that run have such an amount; also where none runs to be compared with."""
    request: Decimal | None = None
    """What the container requests, by its own words."""


@dataclass(frozen=True, slots=True)
class Unscaled:
    """An autoscaler of the version that serves, of which the new version would have none."""

    scaler: str
    """`ScaledObject queue`."""
    scales: str
    """`Deployment resnet`."""
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why servers cannot be started, or scaled, at all."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Template:
    """The object by which servers are started."""

    name: str = ""
    """`Deployment resnet`."""
    needs: Amounts = field(default_factory=dict)
    """What one server takes."""
    priority: int | None = 0
    """None: not known."""
    image: str = ""
    runtime: str | None = None
    """What runs engines in that image, where the pods' annotation says so: `tensorrt 10.13.0`."""
    probes: tuple[ProbeTime, ...] = ()
    """By which the container that serves is killed if it loads for too long."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a cluster offers. None: it was not to be looked at; `Unknown`: it could not be."""

    template: Template = Template()
    nodes: tuple[Node, ...] | Unknown | None = ()
    closed: Mapping[str, str] = field(default_factory=dict)
    """Why a node with GPUs takes no server, by its name."""
    waiting: tuple[Pod, ...] | Unknown | None = ()
    """Pods that have no node, and could run on these."""
    quotas: tuple[Quota, ...] | Unknown | None = ()
    budgets: tuple[Budget, ...] | Unknown | None = ()
    references: tuple[Reference, ...] = ()
    rivalries: tuple[Rivalry, ...] | Unknown | None = ()
    limits: tuple[Limit, ...] | Unknown | None = ()
    given: tuple[Given, ...] = ()
    owned: tuple[Ownership, ...] = ()
    unscaled: tuple[Unscaled, ...] = ()
    refused: tuple[Refusal, ...] = ()


class Ground(Protocol):
    """What the servers of one model stand on in one region. The errors are a store's."""

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    def offers(self, version: str) -> Offer:
        """What is offered to servers of a version, now."""
        ...
