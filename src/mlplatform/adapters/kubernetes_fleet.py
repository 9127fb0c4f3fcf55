"""A region's servers where they run in Kubernetes: counted there, and asked what only they know.

A Deployment serves the model that its label `mlplatform.dev/model` names. Its pods say which
version they hold by the label or annotation `mlplatform.dev/version`, or by `MODEL_VERSION` in a
container's environment. `mlplatform.dev/track: canary` marks a Deployment that is on trial beside
the others: its pods count as no servers. What counts is ready, and not about to end.

Which bytes a version is, and what one server can do, no object in a cluster can say: the servers
do, at the region's endpoint.

**More capacity** is asked for by raising the floor of whoever scales the Deployment, a
HorizontalPodAutoscaler or KEDA's ScaledObject, by a JSON Patch that tests the values it was
computed from. Never `replicas`, which an autoscaler puts back within seconds, and never past the
ceiling.

**Lame ducks**: each pod is told through the API server's proxy, since one question at the endpoint
would reach one of them; several at once, and all of them within one deadline. The proxy keeps
`Authorization` to itself, so that the servers' own token goes in a header of its own. The port is
the one called `http`, else the first.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Any

from mlplatform.adapters.admin_door import HEADER, HINT, PATH, admin_token
from mlplatform.adapters.kubernetes_api import JSON, KubernetesAPI, path_of
from mlplatform.adapters.kubernetes_pods import (
    MODEL,
    TRACK,
    VERSION,
    holds,
    is_ready,
    port_of,
    version_of,
)
from mlplatform.adapters.kubernetes_scalers import Scaler, scalers
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    MlplatformError,
    NotFound,
    StoreError,
    Unavailable,
    Unsupported,
)
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Fleet, Served

_ATTEMPTS = 3
_AT_ONCE = 16
_LAME_DUCK_SECONDS = 30.0
"""How long all pods together are waited for."""
_NAMED = 5
"""So many of those that were not reached are named."""


def open_fleet(
    context: str,
    namespace: str,
    *,
    servers: Fleet | None = None,
    kubeconfig: str | None = None,
    timeout_seconds: float = 10.0,
    environ: Mapping[str, str] = os.environ,
) -> KubernetesFleet:
    """The servers of a namespace in the cluster of a kubeconfig context; `servers` answers for them
    at the region's endpoint. Nothing is asked of anybody yet."""
    api = KubernetesAPI(context, kubeconfig=kubeconfig, timeout_seconds=timeout_seconds)
    return KubernetesFleet(api, namespace, servers, lambda: admin_token(environ))


@dataclass(frozen=True, slots=True)
class _Deployment:
    name: str
    model: str
    canary: bool
    servers: int
    """How many it is to have."""
    wanted: Mapping[str, str]
    """Labels that its pods have."""
    rules: Sequence[Mapping[str, Any]]
    """What else their labels must be, as Kubernetes writes it."""

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is one of its own."""
        return all(labels.get(key) == value for key, value in self.wanted.items()) and all(
            holds(rule, labels) for rule in self.rules
        )


class KubernetesFleet:
    """The servers of one namespace. Safe to share between threads."""

    def __init__(
        self,
        api: KubernetesAPI,
        namespace: str,
        servers: Fleet | None,
        token: Callable[[], str] = str,
        *,
        lame_duck_seconds: float = _LAME_DUCK_SECONDS,
    ) -> None:
        self._api = api
        self._lame_duck_seconds = lame_duck_seconds
        self._token = token
        self._namespace = namespace
        self._servers = servers

    def __repr__(self) -> str:
        return f"<KubernetesFleet {self.url}>"

    @property
    def url(self) -> str:
        return f"{self._api.url}/{self._namespace}"

    # ------------------------------------------------------------------------- what they hold

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        """See the port. Two lists tell all models, and the endpoint is asked once."""
        if not models:
            return {}
        ready: dict[str, list[tuple[_Deployment, JSON]]] = {}
        for deployment, pod in self._pods():
            if is_ready(pod):
                ready.setdefault(deployment.model, []).append((deployment, pod))
        told: Mapping[str, Served | Unknown] = {}
        silence = "no endpoint is given"
        if self._servers is not None:
            try:
                told = self._servers.served(models)
            except MlplatformError as error:
                silence = str(error)
        return {
            model: _joined(ready.get(model, ()), told.get(model, Unknown(silence)), self.url)
            for model in models
        }

    def _pods(self) -> Iterator[tuple[_Deployment, JSON]]:
        """Every pod that serves a model and is not about to end, with its Deployment."""
        by_label: dict[tuple[str, str] | None, list[_Deployment]] = {}
        for deployment in self._deployments():
            first = min(deployment.wanted.items(), default=None)
            by_label.setdefault(first, []).append(deployment)
        for pod in self._api.items(path_of(self._namespace, "", "v1", "pods")) if by_label else ():
            labels = pod["metadata"].get("labels") or {}
            for label in (*labels.items(), None):
                owner = next((d for d in by_label.get(label, ()) if d.selects(labels)), None)
                if owner is not None and not pod["metadata"].get("deletionTimestamp"):
                    yield owner, pod
                    break

    def _deployments(self) -> Iterator[_Deployment]:
        for each in self._api.items(
            path_of(self._namespace, "apps", "v1", "deployments"), selector=MODEL
        ):
            about, selector = each["metadata"], each["spec"]["selector"]
            yield _Deployment(
                about["name"],
                about["labels"][MODEL],
                about["labels"].get(TRACK) == "canary",
                int(each["spec"].get("replicas", 1)),
                selector.get("matchLabels") or {},
                selector.get("matchExpressions") or (),
            )

    # ------------------------------------------------------------------------- asking for more

    def ask_capacity(self, model: str, servers: int) -> str:
        """See the port. Several Deployments of a model share what is asked, in order of name. One
        that is at 0 beside others, as an old version's is, has an autoscaler that does nothing."""
        there = [d for d in self._deployments() if d.model == model and not d.canary]
        names = sorted(d.name for d in there if d.servers) or sorted(d.name for d in there)
        if not names:
            raise NotFound(
                f"no Deployment serves {model}: none has the label {MODEL}={model}", store=self.url
            )
        for attempt in range(_ATTEMPTS):
            found = scalers(self._api, self._namespace)
            scaled = [found[name] for name in names if name in found]
            if not scaled:
                raise self._unscaled(model, names, servers)
            try:
                return self._raise_floors(model, scaled, servers)
            except ConditionFailed:
                # Somebody else changed it between reading and writing.
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError  # pragma: no cover

    def _raise_floors(self, model: str, scaled: Sequence[Scaler], servers: int) -> str:
        missing = servers - sum(scaler.floor for scaler in scaled)
        if missing <= 0:
            floors = ", ".join(f"{scaler} is {scaler.floor}" for scaler in scaled)
            return f"{model}: the floor of {floors} already"
        told = []
        for scaler in scaled:
            if scaler.paused:
                told.append(f"{scaler} is paused")
                continue
            floor = min(scaler.floor + missing, max(scaler.ceiling, scaler.floor))
            if floor > scaler.floor:
                self._raise(scaler, floor)
                told.append(f"raised the floor of {scaler} from {scaler.floor} to {floor}")
            if floor == scaler.ceiling:
                told.append(f"{scaler} allows no more than {scaler.ceiling}")
            missing -= floor - scaler.floor
        short = f"; {missing} of {servers} servers are not to be had so" if missing else ""
        return f"{model}: {', '.join(told)}{short}"

    def _raise(self, scaler: Scaler, floor: int) -> None:
        stated_floor, stated_ceiling = scaler.stated
        self._api.patch(
            scaler.path,
            [
                {"op": "test", "path": scaler.floor_at, "value": stated_floor},
                {"op": "test", "path": scaler.ceiling_at, "value": stated_ceiling},
                {"op": "add", "path": scaler.floor_at, "value": floor},
            ],
        )

    def _unscaled(self, model: str, names: Sequence[str], servers: int) -> Unsupported:
        return Unsupported(
            f"{model}: nobody scales Deployment {', '.join(names)}: it has no autoscaler whose "
            "floor could be raised",
            store=self.url,
            hint=f"kubectl --context {self._api.context} --namespace {self._namespace} scale "
            f"deployment {names[0]} --replicas={servers}",
        )

    # ------------------------------------------------------------------------- lame ducks

    def lame_duck(self, *, enter: bool) -> None:
        """See the port. Every pod is told, also where one of them does not answer; `Unavailable`
        then names those that did not, at the latest when the time for all of them is over."""
        token = self._token()
        headers = {HEADER: token} if token else {}
        until = time.monotonic() + self._lame_duck_seconds
        told: dict[str, Future[None]] = {}
        waiting: deque[tuple[str, str]] = deque()
        for _, pod in self._pods():
            if pod.get("status", {}).get("phase") == "Running":
                name = pod["metadata"]["name"]
                path = path_of(self._namespace, "", "v1", "pods", f"{name}:{port_of(pod)}")
                waiting.append((name, f"{path}/proxy{PATH}"))
                told[name] = Future()

        def tell() -> None:
            while time.monotonic() < until:
                try:
                    name, path = waiting.popleft()
                except IndexError:
                    return
                try:
                    self._api.post(path, {"lame_duck": enter}, headers=headers)
                except BaseException as error:
                    told[name].set_exception(error)
                else:
                    told[name].set_result(None)

        for _ in range(min(_AT_ONCE, len(waiting))):
            # One that hangs must not hold up the end of the process either.
            threading.Thread(target=tell, name="mlplatform-lame-duck", daemon=True).start()
        self._refuse(told, until)

    def _refuse(self, told: Mapping[str, Future[None]], until: float) -> None:
        """Raise what the pods' answers amount to, if not all have done as they were told."""
        deaf: dict[str, str] = {}
        refusals: list[tuple[str, Denied | NotFound]] = []
        for name, answer in told.items():
            try:
                answer.result(timeout=max(0.0, until - time.monotonic()))
            except FutureTimeout:
                deaf[name] = f"no answer within {self._lame_duck_seconds:g} s"
            except (Denied, NotFound) as error:
                refusals.append((name, error))
            except StoreError as error:
                deaf[name] = error.message
        for name, refusal in refusals:
            if isinstance(refusal, NotFound):
                raise Unsupported(
                    f"pod {name} knows no lame duck: it has no {PATH}", store=self.url
                ) from refusal
            raise Denied(
                f"pod {name}: {refusal.message}",
                right="create pods/proxy",
                store=self.url,
                hint=f"infra/rbac/fleet.yaml is the Role that it needs; {HINT}",
            ) from refusal
        if deaf:
            named = ", ".join(sorted(deaf)[:_NAMED])
            more = f" and {len(deaf) - _NAMED} more" if len(deaf) > _NAMED else ""
            raise Unavailable(
                f"{len(deaf)} of {len(told)} pods were not reached: {named}{more}; "
                f"{deaf[min(deaf)]}",
                store=self.url,
            )


def _joined(
    ready: Sequence[tuple[_Deployment, JSON]], told: Served | Unknown, where: str
) -> Served | Unknown:
    """What a cluster counts of one model, with what its servers say of themselves."""
    counts: dict[str, int] = {}
    servers, trial = 0, 0
    canary: str | None = None
    for owner, pod in ready:
        version = version_of(pod)
        if version is None and isinstance(told, Served):
            alone = [each for each in told.versions if each != told.canary]
            version = alone[0] if len(alone) == 1 and not owner.canary else None
        if version is None:
            name = pod["metadata"]["name"]
            return Unknown(
                f"{where}: pod {name} does not say which version it holds; give it the label "
                f"{VERSION}"
            )
        counts[version] = counts.get(version, 0) + 1
        if owner.canary:
            canary, trial = version, trial + 1
        else:
            servers += 1
    if not servers:
        # A trial beside nothing serves alone.
        canary, servers = None, trial
    digests = told.versions if isinstance(told, Served) else {}
    served = Served({each: digests.get(each, "") for each in counts}, servers, canary=canary)
    if isinstance(told, Served):
        return replace(
            served,
            requests_per_second=told.requests_per_second,
            canary=canary or (told.canary if told.canary in counts else None),
        )
    return served
