"""A model's servers as plain Deployments: `deployments://context/namespace`.

One Deployment and one Service a version, `<model>-<version>` as DNS has it. No custom resource and
no operator: what is there is there for `kubectl`. A new version's Deployment is the one that serves
now with another version (see `deployment_template`), so that the first one is a person's: any
Deployment with the label `mlplatform.dev/model`, whose pods say their version.

**Whose is what.** Those that we made carry `app.kubernetes.io/managed-by: mlplatform`; with no
servers wanted they are deleted, Service and all. Those of others are scaled to 0 and left. The
last Deployment of a model is left too, at 0: the next version is started by it, and the epoch lies
there.

**The fence.** Epoch and writer are annotations of every Deployment of the model, whoever made it,
and of what scales them. A new writer first claims them all, by a JSON Patch that tests the epoch it
has read, and looks again until nothing is unclaimed; each write tests that the epoch is its own, so
that the API server itself refuses a deposed one. A Deployment is created with no servers, and gets
them by such a write, after another look: one that a deposed writer still creates stays empty. It is
not applied (server-side apply): that creates or changes, whichever, and under one field manager
conflicts with nobody.

**How many.** `replicas`, unless an autoscaler has the Deployment: then by its floor, to have more,
or its ceiling, to have fewer; what they were is kept beside them, and comes back at 0. (An
autoscaler does nothing while `replicas` is 0; KEDA's is paused there by its own annotation.) Where
Argo CD or Flux puts the number back, nothing is written, and the error says what to change.

A Deployment that we make gets a HorizontalPodAutoscaler of its own if the one that it is made from
has one: a copy, whose floor and ceiling both are the number that is asked for, while another
version serves beside it. (It is made while there are no servers yet, where it does nothing, so that
it too has to be filled by a fenced write.) Once the other has none, it gets the bounds of the one
that it was copied from, and scales by itself. Nothing like it is done for KEDA's.

**Ready** is a pod that is, and whose server states the digest that it was started for, where one is
recorded: it is asked at its own address, once, 16 pods at a time, so that whoever runs this has to
reach pods. Where that cannot be, or servers state none, `?ask=false` takes Kubernetes' word.

**What is there** is read from Deployments, their ReplicaSets and pods; and from events, where pods
wait for volumes, or are not ready in spite of their time (without the right to list those, the
reason says so). `crashes` counts restarts of containers, those of pods that are gone too, for as
long as this object lives; after that the count falls, and begins anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from mlplatform.adapters.deployment_template import (
    DIGEST,
    GROUP,
    autoscaler_for,
    deployment_for,
    is_ours,
    service_for,
    template_of,
)
from mlplatform.adapters.http_fleet import open_fleet
from mlplatform.adapters.kubernetes_api import JSON, KubernetesAPI, path_of
from mlplatform.adapters.kubernetes_owners import fix_of, owner_of
from mlplatform.adapters.kubernetes_pods import MODEL, is_ready, port_of, version_of
from mlplatform.adapters.kubernetes_scalers import Scaler, scalers
from mlplatform.adapters.kubernetes_stuck import (
    ailing_of,
    ended,
    events_of,
    is_overdue,
    refused_of,
)
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    Fenced,
    IntegrityError,
    NotFound,
    StoreError,
    Unavailable,
    Unsupported,
    UsageError,
    VersionConflict,
)
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.servers import Ailing, Group, ServersFeatures, ServersState, Stuck

EPOCH, WRITER = "mlplatform.dev/epoch", "mlplatform.dev/writer"
_BOUNDS = "mlplatform.dev/bounds"
"""Annotation of an autoscaler: floor and ceiling before we changed them, `2 10`; a dash where one
was left out."""
_HELD = "mlplatform.dev/held"
"""Annotation of an autoscaler that we have made: the bounds that it gets when its version serves
alone, likewise. Until then both are the number that is asked for."""
_SCALED_LIKE = "mlplatform.dev/scaled-like"
"""Annotation of a Deployment that we have made: the autoscaler that its own is a copy of."""
_PAUSED = "autoscaling.keda.sh/paused-replicas"
FIRST_BY_HAND = "the first version is started by hand; infra/kubernetes/model-server.yaml shows how"
_OPTIONS = frozenset({"ask", "image", "kubeconfig", "stall_seconds", "unread"})
_STALL_SECONDS = 10.0
_ASK_SECONDS = 3.0
_ASKED_AT_ONCE = 16
_ASKING_SECONDS = 4.0
"""For how long pods are asked at one look. Where many do not answer, the next look goes on."""
_STEPS = 12
"""More looks than any call needs: claims, creations, and several conflicts."""

FEATURES = ServersFeatures(
    exercised="Kubernetes 1.34, its controllers and scheduler; nodes and pods are simulated",
    picks_itself=True,
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL of servers names."""

    api: KubernetesAPI
    namespace: str
    image: str | None
    """With `{version}` in it, where tags are not the versions."""
    asks: bool
    accepts_unread: bool
    """Whether a rollout may begin where what a preflight looks at may not be read."""


def open_servers(url: StoreURL, model: str) -> DeploymentServers:
    """A model's servers in a namespace of the cluster of a kubeconfig context. Nothing is asked of
    it yet. In the name of a context `/` is written `%2F`, and `@` `%40`.

    Options: `image`, with `{version}` in it, where tags are not the versions; `ask=false`, where
    pods cannot be asked what they hold; `kubeconfig`, a file, else `KUBECONFIG`, else
    `~/.kube/config`; `stall_seconds` without an answer; `unread=accept`, see `kubernetes_ground`.
    """
    place = place_of(url)
    return DeploymentServers(
        place.api, place.namespace, model, url=str(url), image=place.image, asks=place.asks
    )


def place_of(url: StoreURL) -> Place:
    """Where servers are, by their URL; `UsageError` where it names no such place."""
    url.reject_unknown(_OPTIONS)
    named = urlsplit(url.text)
    parts = [unquote(part) for part in (named.netloc, *named.path.strip("/").split("/"))]
    if len(parts) != 2 or not all(parts):
        raise UsageError(
            f"{url.noun} {url} does not name a namespace",
            hint="write deployments://context/namespace",
        )
    image = url.options.get("image")
    if image is not None and "{version}" not in image:
        raise UsageError(
            f"{url.noun} {url}: image={image!r} is the same for every version",
            hint="write {version} where the version is to be put in",
        )
    unread = url.options.get("unread", "hold")
    if unread not in ("hold", "accept"):
        raise UsageError(
            f"{url.noun} {url}: unread={unread!r} is neither hold nor accept",
            hint="accept lets a rollout begin where the cluster may not be looked at",
        )
    api = KubernetesAPI(
        parts[0],
        kubeconfig=url.options.get("kubeconfig"),
        timeout_seconds=url.seconds("stall_seconds", default=_STALL_SECONDS),
    )
    asks = url.flag("ask", default=True)
    return Place(api, parts[1], image, asks=asks, accepts_unread=unread == "accept")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was there at one look."""

    deployments: Mapping[str, Sequence[JSON]]
    """By version."""
    scalers: Mapping[str, Scaler]
    """By name of the Deployment."""
    state: ServersState
    claimable: Sequence[tuple[str, JSON]] = field(default_factory=tuple)
    """What carries the epoch: path and object."""

    def all(self) -> Iterator[JSON]:
        """Every Deployment of the model."""
        for each in self.deployments.values():
            yield from each


@dataclass(frozen=True, slots=True)
class _Events:
    """Of pods, by their uid."""

    of: dict[str, list[JSON]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Why they may not be read."""


class DeploymentServers:
    """The servers of one model in one namespace. Safe to share between threads."""

    def __init__(
        self,
        api: KubernetesAPI,
        namespace: str,
        model: str,
        *,
        url: str = "",
        image: str | None = None,
        asks: bool = True,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._model = model
        self._url = url or f"deployments://{api.context}/{namespace}"
        self._image = image
        self._asks = asks
        self._ended: dict[str, dict[str, int]] = {}
        self._counting = threading.Lock()
        self._proven: set[tuple[str, int, str]] = set()
        """Pods whose server has stated its digest: uid, restarts, digest."""

    def __repr__(self) -> str:
        return f"<DeploymentServers {self._url} {self._model}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> ServersFeatures:
        return FEATURES

    def read(self) -> ServersState:
        return self._look().state

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        if servers < 0:
            raise UsageError(f"{self._url}: {servers} servers of {version}")
        mark = _Mark(epoch, writer)
        made: JSON | None = None
        refused: StoreError | None = None
        for _ in range(_STEPS):
            seen = self._look()
            try:
                self._require(seen, epoch)
                if self._claimed(seen, mark):
                    continue
                step = self._step(seen, version, servers, digest, mark)
                if step is None:
                    return seen.state
                made = step() or made
            except (ConditionFailed, NotFound) as error:
                refused = error  # somebody was there meanwhile: look again
            except Fenced:
                self._take_back(made, epoch)
                raise
        raise refused or ConditionFailed(
            f"{self._model}@{version} does not come to rest: somebody else changes it all the time",
            store=self._url,
            hint="`kubectl get deployment -o yaml --show-managed-fields` shows who",
        )

    # ------------------------------------------------------------------------- looking

    def _look(self) -> _Seen:
        deployments = list(self._list("apps", "v1", "deployments", f"{MODEL}={self._model}"))
        by_version: dict[str, list[JSON]] = {}
        for each in deployments:
            each |= {"apiVersion": "apps/v1", "kind": "Deployment"}
            by_version.setdefault(self._version_of(each), []).append(each)
        owned = self._pods(deployments)
        events = self._events(pod for each in owned.values() for pod in each)
        scaled = scalers(self._api, self._namespace) if deployments else {}
        scaled = {
            each["metadata"]["name"]: scaled[each["metadata"]["name"]]
            for each in deployments
            if each["metadata"]["name"] in scaled
        }
        versions = {**by_version, **owned}
        groups = {
            version: self._group(
                version, by_version.get(version, ()), owned.get(version, ()), scaled, events
            )
            for version in sorted(versions)
        }
        claimable = [(self._deployment_path(each), each) for each in deployments]
        claimable += [(each.path, each.body) for each in scaled.values()]
        epoch, writer = max(
            ((self._epoch_of(body), _note(body, WRITER)) for _, body in claimable), default=(0, "")
        )
        there = {
            version: group
            for version, group in groups.items()
            if group.wanted or group.ready or group.ailing or group.leaving
        }
        return _Seen(by_version, scaled, ServersState(there, epoch, writer), claimable)

    def _version_of(self, deployment: JSON) -> str:
        version = version_of(deployment["spec"]["template"])
        if version is None:
            name = deployment["metadata"]["name"]
            raise Unsupported(
                f"Deployment {name} does not say which version it serves",
                store=self._url,
                hint="give its pods the label mlplatform.dev/version",
            )
        return version

    def _pods(self, deployments: Sequence[JSON]) -> dict[str, list[tuple[JSON, JSON | None]]]:
        """The model's pods by version, each with its Deployment, or None where that is gone."""
        by_uid = {each["metadata"]["uid"]: each for each in deployments}
        owners = {
            each["metadata"]["uid"]: by_uid.get(_controller(each))
            for each in (self._list("apps", "v1", "replicasets") if by_uid else ())
        }
        found: dict[str, list[tuple[JSON, JSON | None]]] = {}
        for pod in self._list("", "v1", "pods"):
            owner = owners.get(_controller(pod))
            labels = pod["metadata"].get("labels") or {}
            if owner is None and (labels.get(MODEL) != self._model or GROUP not in labels):
                continue
            version = version_of(pod) or (owner and version_of(owner["spec"]["template"]))
            if version:
                found.setdefault(version, []).append((pod, owner))
        return found

    def _events(self, pods: Iterable[tuple[JSON, JSON | None]]) -> _Events:
        """What events tell of pods of which nothing else says what keeps them."""
        waiting: dict[str, list[str]] = {}
        for pod, owner in pods:
            if pod["metadata"].get("deletionTimestamp"):
                continue
            overdue = owner is not None and is_overdue(owner)
            if (fields := events_of(pod, overdue=overdue)) is not None:
                waiting.setdefault(fields, []).append(str(pod["metadata"]["uid"]))
        found = _Events()
        for fields, uids in waiting.items():
            try:
                for each in self._api.items(self._path("", "v1", "events"), fields=fields):
                    uid = str(each["involvedObject"].get("uid", ""))
                    found.of.setdefault(uid, []).append(each)
            except Denied as error:
                said = f"its events are not known: {error.message}"
                found.unread.update(dict.fromkeys(uids, said))
        return found

    def _group(
        self,
        version: str,
        deployments: Sequence[JSON],
        pods: Sequence[tuple[JSON, JSON | None]],
        scaled: Mapping[str, Scaler],
        events: _Events,
    ) -> Group:
        leaving = [pod for pod, _ in pods if pod["metadata"].get("deletionTimestamp")]
        staying = [
            (pod, owner) for pod, owner in pods if not pod["metadata"].get("deletionTimestamp")
        ]
        wanted = sum(_wanted(each, scaled) for each in deployments)
        digest = next((_note(each, DIGEST) for each in deployments if _note(each, DIGEST)), "")
        willing = [pod for pod, _ in staying if is_ready(pod) and _ip(pod)]
        wrong = self._wrong(willing, version, digest)
        ready = tuple(_address(pod) for pod in willing if pod["metadata"]["uid"] not in wrong)
        ailing = [refused for each in deployments if (refused := refused_of(each)) is not None]
        for pod, owner in sorted(staying, key=lambda each: str(each[0]["metadata"]["name"])):
            is_over = pod.get("status", {}).get("phase") == "Failed"
            if is_over and len(ready) >= wanted:
                continue  # another has taken its place
            late = owner is not None and is_overdue(owner)
            uid = str(pod["metadata"]["uid"])
            found = wrong.get(uid)
            if found is None:
                found = ailing_of(pod, overdue=late, events=events.of.get(uid, ()))
                if found is not None and uid in events.unread:
                    found = replace(found, reason=f"{found.reason}; {events.unread[uid]}")
            if found is not None:
                ailing.append(found)
        return Group(
            version,
            digest=digest,
            wanted=wanted,
            ready=ready,
            ailing=tuple(ailing),
            crashes=self._crashes(version, (pod for pod, _ in pods)),
            leaving=len(leaving),
            scaled_by=next((said for each in deployments if (said := _owner(each, scaled))), ""),
        )

    def _crashes(self, version: str, pods: Iterable[JSON]) -> int:
        with self._counting:
            known = self._ended.setdefault(version, {})
            for pod in pods:
                uid = str(pod["metadata"]["uid"])
                known[uid] = max(known.get(uid, 0), ended(pod))
            return sum(known.values())

    def _wrong(self, pods: Sequence[JSON], version: str, digest: str) -> dict[str, Ailing]:
        """By uid: those that are ready, and do not state that digest."""
        asked = [pod for pod in pods if (_life(pod, digest)) not in self._proven]
        if not asked or not digest or not self._asks:
            return {}
        until = time.monotonic() + _ASKING_SECONDS

        def ask(pod: JSON) -> Ailing | None:
            if time.monotonic() > until:
                late = f"it was not asked what it holds: others took {_ASKING_SECONDS:g} s"
                return Ailing(str(pod["metadata"]["name"]), Stuck.NOT_READY, late)
            return self._stated(pod, version, digest)

        with ThreadPoolExecutor(min(len(asked), _ASKED_AT_ONCE), "mlplatform-asks") as pool:
            told = list(pool.map(ask, asked))
        self._proven |= {
            _life(pod, digest) for pod, wrong in zip(asked, told, strict=True) if not wrong
        }
        return {
            str(pod["metadata"]["uid"]): wrong
            for pod, wrong in zip(asked, told, strict=True)
            if wrong is not None
        }

    def _stated(self, pod: JSON, version: str, digest: str) -> Ailing | None:
        """What is wrong with what a pod's server states; None: nothing."""
        name = str(pod["metadata"]["name"])
        hint = "if it cannot be asked from here, or states no digest, add ?ask=false"
        fleet = open_fleet(f"http://{_address(pod)}", timeout_seconds=_ASK_SECONDS, environ={})
        try:
            served = fleet.served(frozenset({self._model}))[self._model]
        except StoreError as error:
            return Ailing(name, Stuck.NOT_READY, f"it is not known what it holds: {error}; {hint}")
        if isinstance(served, Unknown):
            return Ailing(name, Stuck.NOT_READY, f"it is not known what it holds: {served}; {hint}")
        stated = served.versions.get(version)
        if stated == digest:
            return None
        if stated is None:
            there = ", ".join(sorted(served.versions)) or "nothing"
            return Ailing(name, Stuck.NOT_READY, f"it serves {there} of {self._model}")
        if not stated:
            return Ailing(name, Stuck.NOT_READY, f"it states no digest; {hint}")
        return Ailing(name, Stuck.CONFIGURATION, f"it states {stated}, not {digest}")

    # ------------------------------------------------------------------------- the fence

    def _require(self, seen: _Seen, epoch: int) -> None:
        if seen.state.epoch > epoch:
            by = f" by {seen.state.writer}" if seen.state.writer else ""
            raise Fenced(
                f"{self._url}: servers of {self._model} were written under epoch "
                f"{seen.state.epoch}{by}, ours is {epoch}",
                hint="another controller has taken over; `mlplatform rollout status` shows it",
            )

    def _claimed(self, seen: _Seen, mark: _Mark) -> bool:
        """Put our epoch on everything that has a lower one; whether there was any."""
        behind = [
            (path, body) for path, body in seen.claimable if self._epoch_of(body) < mark.epoch
        ]
        for path, body in behind:
            self._api.patch(path, mark.operations(body, []))
        return bool(behind)

    def _epoch_of(self, body: JSON) -> int:
        text = _note(body, EPOCH) or "0"
        if not text.isdecimal():
            raise IntegrityError(
                f"{self._url}: {body['kind']} {body['metadata']['name']}: the annotation {EPOCH} "
                f"is {text!r}, which is no epoch",
                hint="find out who wrote it before you mend it: it is what keeps deposed "
                "controllers out",
            )
        return int(text)

    def _take_back(self, made: JSON | None, epoch: int) -> None:
        """Remove what a deposed writer has created and not filled. What stays has no servers."""
        if made is None:
            return
        path = self._deployment_path(made)
        for _ in range(_STEPS):
            try:
                there = self._api.get(path)
                about = there["metadata"]
                if about["uid"] != made["metadata"]["uid"] or self._epoch_of(there) != epoch:
                    return  # the new writer has found it, and it is theirs
                self._api.delete(path, uid=about["uid"], version=about["resourceVersion"])
            except ConditionFailed:
                continue
            except NotFound:
                return
            return

    # ------------------------------------------------------------------------- acting

    def _step(
        self, seen: _Seen, version: str, servers: int, digest: str, mark: _Mark
    ) -> Callable[[], JSON | None] | None:
        """The next thing to do; None: nothing is left to do."""
        there = seen.deployments.get(version, ())
        if not there and servers:
            return lambda: self._create(seen, version, digest, mark)
        if not there:
            return self._let_go(seen, version, mark)
        if len(there) > 1:
            names = ", ".join(sorted(each["metadata"]["name"] for each in there))
            raise Unsupported(
                f"{len(there)} Deployments serve {self._model}@{version}: {names}",
                store=self._url,
                hint=f"which of them is to be scaled? Take the label {MODEL} from the others",
            )
        (deployment,) = there
        self._check(deployment, version, digest)
        if not servers and is_ours(deployment) and len(list(seen.all())) > 1:
            return lambda: self._remove(seen, deployment)
        if servers and is_ours(deployment) and not self._has_service(deployment):
            return lambda: self._create_service(seen, deployment)
        like = self._like(seen, deployment)
        if servers and like is not None and not _replicas(deployment):
            return lambda: self._create_scaler(seen, deployment, like, servers, mark)
        sized = self._sized(seen, deployment, servers, mark)
        if sized is None and not servers:
            return self._let_go(seen, version, mark)
        return sized

    def _check(self, deployment: JSON, version: str, digest: str) -> None:
        about = deployment["metadata"]
        name, recorded = about["name"], _note(deployment, DIGEST)
        if about.get("deletionTimestamp"):
            raise Unavailable(
                f"Deployment {name} is being deleted, and its servers have not gone",
                store=self._url,
                hint="try again once they have",
            )
        if _is_paused(deployment):
            raise Unsupported(
                f"Deployment {name} is paused: somebody is at work on it",
                store=self._url,
                hint=f"kubectl --context {self._api.context} --namespace {self._namespace} "
                f"rollout resume deployment/{name}",
            )
        if recorded and digest and recorded != digest:
            raise VersionConflict(
                f"{self._url}: Deployment {name} was started for {self._model}@{version} with "
                f"the digest {recorded}, not {digest}",
                hint="a version does not change; publish the other bytes as another one",
            )

    def _create(self, seen: _Seen, version: str, digest: str, mark: _Mark) -> JSON:
        """A Deployment with no servers yet."""
        template = self._template(seen, version)
        body = deployment_for(
            template,
            model=self._model,
            version=version,
            digest=digest,
            services=list(self._list("", "v1", "services")),
            image=self._image,
            where=self._url,
        )
        body["metadata"]["annotations"] |= mark.annotations
        scaler = seen.scalers.get(template["metadata"]["name"])
        if scaler is not None and scaler.is_copied:
            body["metadata"]["annotations"][_SCALED_LIKE] = scaler.name
        try:
            return self._api.create(self._path("apps", "v1", "deployments"), body)
        except ConditionFailed as refused:
            self._explain_taken(body, refused)
            raise

    def _explain_taken(self, body: JSON, refused: ConditionFailed) -> None:
        """Where somebody else's Deployment has the name, say so: looking again will not help."""
        name = body["metadata"]["name"]
        try:
            there = self._api.get(self._path("apps", "v1", "deployments", name))
        except NotFound:
            return  # it is not for its name that it was refused
        if (there["metadata"].get("labels") or {}).get(MODEL) != self._model:
            raise Unsupported(
                f"Deployment {name} is there, and serves something else",
                store=self._url,
                hint=f"rename it, or give it the label {MODEL}",
            ) from refused

    def _template(self, seen: _Seen, version: str) -> JSON:
        """The Deployment of the version that serves: the one with most servers."""
        template = template_of(seen.all())
        if template is None:
            left = [each for each in seen.all() if not each["metadata"].get("deletionTimestamp")]
            why = (
                f"Deployment {left[0]['metadata']['name']} is paused"
                if left
                else f"no Deployment has the label {MODEL}={self._model}"
            )
            raise Unsupported(
                f"nothing says how to start {self._model}@{version}: {why}",
                store=self._url,
                hint=FIRST_BY_HAND,
            )
        return template

    def _has_service(self, deployment: JSON) -> bool:
        name = deployment["metadata"]["name"]
        try:
            service = self._api.get(self._path("", "v1", "services", name))
        except NotFound:
            return False
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        selector = service["spec"].get("selector") or {}
        if not selector or any(labels.get(key) != value for key, value in selector.items()):
            raise Unsupported(
                f"Service {name} is there, and does not select the pods of Deployment {name}",
                store=self._url,
                hint="rename it: requests for the version would go elsewhere",
            )
        return True

    def _create_service(self, seen: _Seen, deployment: JSON) -> None:
        services = list(self._list("", "v1", "services"))
        others = [each for each in seen.all() if each is not deployment] or [deployment]
        like = max(others, key=lambda each: (_replicas(each), str(each["metadata"]["name"])))
        self._api.create(self._path("", "v1", "services"), service_for(deployment, services, like))

    def _like(self, seen: _Seen, deployment: JSON) -> Scaler | None:
        """The autoscaler that a Deployment is to have a copy of; None where it has one, or that one
        is not there any more."""
        name = _note(deployment, _SCALED_LIKE)
        if not name or deployment["metadata"]["name"] in seen.scalers:
            return None
        found = (each for each in seen.scalers.values() if each.is_copied and each.name == name)
        return next(found, None)

    def _create_scaler(
        self, seen: _Seen, deployment: JSON, like: Scaler, servers: int, mark: _Mark
    ) -> None:
        template = next(
            each for each in seen.all() if seen.scalers.get(each["metadata"]["name"]) is like
        )
        body = autoscaler_for(
            deployment,
            like.body,
            template,
            servers=servers,
            annotations={**mark.annotations, _HELD: _text(_own_bounds(like))},
        )
        self._api.create(self._path("autoscaling", "v2", "horizontalpodautoscalers"), body)

    def _let_go(self, seen: _Seen, version: str, mark: _Mark) -> Callable[[], None] | None:
        """What gives an autoscaler its own bounds again, where a version has no servers any more
        and only one other has any; None where they are its own."""
        serving = [
            each for each in seen.all() if _replicas(each) and self._version_of(each) != version
        ]
        scaler = seen.scalers.get(serving[0]["metadata"]["name"]) if len(serving) == 1 else None
        if scaler is None or scaler.paused:
            return None
        notes = scaler.body["metadata"].get("annotations") or {}
        mine = [(_annotation(key), None) for key in (_HELD, _BOUNDS) if key in notes]
        if not mine:
            return None
        changes = [*_bounded(scaler, _own_bounds(scaler)), *mine]
        self._require_bounds(scaler)
        return lambda: self._write(scaler.path, scaler.body, changes, mark)

    def _remove(self, seen: _Seen, deployment: JSON) -> None:
        """Autoscaler and Service first: without their Deployment nothing would remind anybody of
        them."""
        about = deployment["metadata"]
        scaler = seen.scalers.get(about["name"])
        try:
            if scaler is not None and is_ours(scaler.body):
                own = scaler.body["metadata"]
                self._api.delete(scaler.path, uid=own["uid"], version=own["resourceVersion"])
        except NotFound:
            pass
        try:
            path = self._path("", "v1", "services", about["name"])
            service = self._api.get(path)
            if is_ours(service):
                self._api.delete(path, uid=service["metadata"]["uid"])
        except NotFound:
            pass
        # The version that was read has our epoch in it.
        self._api.delete(
            self._deployment_path(deployment), uid=about["uid"], version=about["resourceVersion"]
        )

    def _sized(
        self, seen: _Seen, deployment: JSON, servers: int, mark: _Mark
    ) -> Callable[[], None] | None:
        """What makes it so many; None where it is."""
        scaler = seen.scalers.get(deployment["metadata"]["name"])
        now = _replicas(deployment)
        if scaler is not None:
            changes = self._bounds(scaler, now, servers)
            if changes and servers:
                return lambda: self._write(scaler.path, scaler.body, changes, mark)
            if now and servers and not _is_held(scaler):
                return None  # the autoscaler's turn
        else:
            changes = []
        if now != servers:
            self._require_free(deployment, "replicas")
            path, size = self._deployment_path(deployment), [("/spec/replicas", servers)]
            return lambda: self._write(path, deployment, size, mark)
        if scaler is not None and changes:
            return lambda: self._write(scaler.path, scaler.body, changes, mark)
        return None

    def _bounds(self, scaler: Scaler, now: int, servers: int) -> list[tuple[str, Any]]:
        """What has to change in an autoscaler, to have so many servers."""
        notes = scaler.body["metadata"].get("annotations") or {}
        kept = notes.get(_BOUNDS)
        stated = _own_bounds(scaler)
        ours = bool(kept) and notes.get(_PAUSED) == "0"
        if scaler.paused and not ours:
            raise Unsupported(
                f"{scaler} is paused: somebody else keeps the number of servers",
                store=self._url,
                hint="resume it, or change the number by hand",
            )
        default_floor = 1 if scaler.kind == "HorizontalPodAutoscaler" else 0
        floor = stated[0] if stated[0] is not None else default_floor
        ceiling = stated[1] if stated[1] is not None else scaler.ceiling
        if servers > ceiling:
            raise Unsupported(
                f"{scaler} allows no more than {ceiling} servers, not {servers}",
                store=self._url,
                hint=f"raise its {scaler.ceiling_at.rpartition('/')[2]}",
            )
        keda = scaler.kind == "ScaledObject"
        changes: list[tuple[str, Any]] = []
        if _is_held(scaler):
            wanted: tuple[int | None, int | None] = (servers, servers) if servers else stated
            note: str | None = kept
            if not servers:
                changes.append((_annotation(_HELD), None))
        elif not servers:
            wanted, note = stated, None
            if keda and notes.get(_PAUSED) != "0":
                changes.append((_annotation(_PAUSED), "0"))
            if keda:
                note = kept or _text(stated)  # by it we know that the pause is ours
        else:
            if servers > now:
                wanted = (servers, ceiling)
            elif servers < now:
                wanted = (min(floor, servers), servers)
            elif scaler.floor <= servers <= scaler.ceiling:
                wanted = scaler.stated
            else:
                wanted = (min(floor, servers), max(ceiling, servers))
            if ours:
                changes.append((_annotation(_PAUSED), None))
            note = _text(stated) if wanted != stated else None
        changes += _bounded(scaler, wanted)
        if changes and note != kept:
            changes.append((_annotation(_BOUNDS), note))
        if changes:
            self._require_bounds(scaler)
        return changes

    def _require_bounds(self, scaler: Scaler) -> None:
        bounds = (each.rpartition("/")[2] for each in (scaler.floor_at, scaler.ceiling_at))
        self._require_free(scaler.body, *bounds)

    def _require_free(self, body: JSON, *fields: str) -> None:
        owner = owner_of(body, *fields)
        if owner is not None:
            raise Unsupported(
                f"{owner} puts {' and '.join(fields)} of {body['kind']} "
                f"{body['metadata']['name']} back",
                store=self._url,
                hint=fix_of(owner, body, *fields),
            )

    def _write(
        self, path: str, body: JSON, changes: Sequence[tuple[str, Any]], mark: _Mark
    ) -> None:
        self._api.patch(path, mark.operations(body, changes))

    # ------------------------------------------------------------------------- the API server

    def _list(
        self, group: str, version: str, plural: str, selector: str | None = None
    ) -> Iterator[JSON]:
        return self._api.items(self._path(group, version, plural), selector=selector)

    def _path(self, group: str, version: str, plural: str, name: str = "") -> str:
        return path_of(self._namespace, group, version, plural, name)

    def _deployment_path(self, deployment: JSON) -> str:
        return self._path("apps", "v1", "deployments", deployment["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class _Mark:
    """Under whose hand something is written."""

    epoch: int
    writer: str

    @property
    def annotations(self) -> dict[str, str]:
        return {EPOCH: str(self.epoch), WRITER: self.writer}

    def operations(self, body: JSON, changes: Sequence[tuple[str, Any]]) -> list[JSON]:
        """A JSON Patch of changes (None: removed) and our marks, if the object still is the one
        that was read, with the epoch that was read."""
        notes = body["metadata"].get("annotations")
        tests: list[tuple[str, Any]] = [("/metadata/uid", body["metadata"]["uid"])]
        added: list[tuple[str, Any]] = []
        if notes is None:
            # A test of what is not there holds for null.
            tests.append(("/metadata/annotations", None))
            added.append(("/metadata/annotations", {}))
        else:
            tests.append((_annotation(EPOCH), notes.get(EPOCH)))
        added += [(_annotation(key), value) for key, value in self.annotations.items()]
        done = [{"op": "test", "path": path, "value": value} for path, value in tests]
        done += [{"op": "add", "path": path, "value": value} for path, value in added]
        for path, value in changes:
            if value is None:
                done.append({"op": "remove", "path": path})
            else:
                done.append({"op": "add", "path": path, "value": value})
        return done


def _controller(body: JSON) -> str:
    """The uid of what an object belongs to; empty where it belongs to nothing."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((str(each["uid"]) for each in owners if each.get("controller")), "")


def _note(body: JSON, name: str) -> str:
    return str((body["metadata"].get("annotations") or {}).get(name, ""))


def _annotation(name: str) -> str:
    """Its place in the object, by RFC 6901."""
    return "/metadata/annotations/" + name.replace("~", "~0").replace("/", "~1")


def _life(pod: JSON, digest: str) -> tuple[str, int, str]:
    return str(pod["metadata"]["uid"]), ended(pod), digest


def _replicas(deployment: JSON) -> int:
    return int(deployment["spec"].get("replicas", 1))


def _wanted(deployment: JSON, scaled: Mapping[str, Scaler]) -> int:
    """How many it is to have: where an autoscaler has the number, as its bounds will have it."""
    scaler, replicas = scaled.get(deployment["metadata"]["name"]), _replicas(deployment)
    if scaler is None or scaler.paused or not replicas:
        return replicas
    return min(max(replicas, scaler.floor), scaler.ceiling)


def _is_held(scaler: Scaler) -> bool:
    """Whether it is ours, and another version serves beside its own."""
    return bool(_note(scaler.body, _HELD))


def _own_bounds(scaler: Scaler) -> tuple[int | None, int | None]:
    """Floor and ceiling as whoever scales has them, whatever we have made of them meanwhile."""
    kept = _note(scaler.body, _HELD) or _note(scaler.body, _BOUNDS)
    return _parsed(kept) if kept else scaler.stated


def _bounded(scaler: Scaler, wanted: tuple[int | None, int | None]) -> list[tuple[str, int | None]]:
    """What has to change in an autoscaler, to have those bounds."""
    places = (scaler.floor_at, scaler.ceiling_at)
    return [
        (at, value)
        for at, value, there in zip(places, wanted, scaler.stated, strict=True)
        if value != there
    ]


def _is_paused(deployment: JSON) -> bool:
    return bool(deployment["spec"].get("paused"))


def _ip(pod: JSON) -> str:
    return str((pod.get("status") or {}).get("podIP") or "")


def _address(pod: JSON) -> str:
    ip = _ip(pod)
    return f"[{ip}]:{port_of(pod)}" if ":" in ip else f"{ip}:{port_of(pod)}"


def _owner(deployment: JSON, scaled: Mapping[str, Scaler]) -> str:
    """Who else owns the number of servers, for people."""
    scaler = scaled.get(deployment["metadata"]["name"])
    if scaler is not None:
        return "" if _is_held(scaler) else str(scaler)
    owner = owner_of(deployment, "replicas")
    return str(owner) if owner is not None else ""


def _parsed(text: str) -> tuple[int | None, int | None]:
    floor, _, ceiling = text.partition(" ")
    return _number(floor), _number(ceiling)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _text(bounds: tuple[int | None, int | None]) -> str:
    return " ".join("-" if each is None else str(each) for each in bounds)
