"""A cluster's API server, by the name of a kubeconfig context: opened, asked, and its refusals in
our words. What is asked of it is its callers' business.

TLS is verified and credentials are demanded. Nothing is tried again here, except once with the
kubeconfig read anew where credentials are not accepted: tokens and certificates expire, and what
was refused for its credentials has done nothing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config import ConfigException, load_kube_config
from urllib3.exceptions import HTTPError

from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    NotFound,
    StoreError,
    Throttled,
    Unavailable,
    UsageError,
)
from mlplatform.core.store_url import is_loopback

JSON = dict[str, Any]

_CONNECT_SECONDS = 3.0
FIELD_MANAGER = "mlplatform"
"""Under which name the API server remembers what we wrote."""
_OURS = {"fieldManager": FIELD_MANAGER}
_METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}


def path_of(namespace: str, group: str, version: str, plural: str, name: str = "") -> str:
    """Where a namespace's objects of a kind are, or one of them; the core group has no name."""
    root = f"/apis/{group}" if group else "/api"
    return f"{root}/{version}/namespaces/{namespace}/{plural}{name and f'/{name}'}"


class KubernetesAPI:
    """One cluster. Nothing is asked of it, and no credentials are looked for, before the first
    question. Safe to share between threads."""

    page = 500
    """How many objects of a list are asked for at once."""

    def __init__(
        self, context: str, *, kubeconfig: str | None = None, timeout_seconds: float = 10.0
    ) -> None:
        """`kubeconfig` is a file, else `KUBECONFIG`, else `~/.kube/config`."""
        self.context = context
        self._kubeconfig = kubeconfig
        self._timeout_seconds = (min(_CONNECT_SECONDS, timeout_seconds), timeout_seconds)
        self._client: ApiClient | None = None
        self._opening = threading.Lock()

    @property
    def url(self) -> str:
        """What errors call it."""
        return f"kubernetes://{self.context}"

    def get(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JSON:
        """The object at a path."""
        return self._ask("GET", path, query=query, headers=headers)

    def is_there(self, path: str) -> bool:
        """Whether there is an object at a path. Its contents do not leave the API server."""
        try:
            self.get(path, headers=_METADATA_ONLY)
        except NotFound:
            return False
        return True

    def items(
        self, path: str, *, selector: str | None = None, fields: str | None = None
    ) -> Iterator[JSON]:
        """The objects of a list, page by page: all, or those that a label selector and a field
        selector have."""
        query = {"limit": str(self.page)}
        if selector is not None:
            query["labelSelector"] = selector
        if fields is not None:
            query["fieldSelector"] = fields
        while True:
            page = self._ask("GET", path, query=query)
            yield from page.get("items") or ()
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    def post(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Ask what is at a path to do something, whatever it answers beyond yes or no."""
        self._answered("POST", path, body, headers=headers)

    def create(self, path: str, body: JSON) -> JSON:
        """Put a new object into the list at a path; the object then. `ConditionFailed` where there
        is one of that name, or it would not be valid."""
        return self._ask("POST", path, body, query=_OURS)

    def patch(self, path: str, operations: list[JSON]) -> JSON:
        """Change the object at a path by a JSON Patch (RFC 6902); the object then.
        `ConditionFailed` where one of its tests did not hold, or the object would not be valid."""
        return self._ask("PATCH", path, operations, kind="application/json-patch+json", query=_OURS)

    def delete(self, path: str, *, uid: str, version: str | None = None) -> None:
        """Delete the object at a path if it still is that one, and at that `resourceVersion`, else
        `ConditionFailed`; what it owns goes after it."""
        only = {"uid": uid} if version is None else {"uid": uid, "resourceVersion": version}
        body = {"preconditions": only, "propagationPolicy": "Background"}
        self._answered("DELETE", path, body)

    def may(self, verb: str, namespace: str, group: str, plural: str) -> bool:
        """Whether we may do that to objects of a namespace, as the API server's authorisers say.
        Nothing is written."""
        about = {"namespace": namespace, "verb": verb, "group": group, "resource": plural}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": about},
        }
        said = self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool((said.get("status") or {}).get("allowed"))

    # ------------------------------------------------------------------------- one request

    def _ask(self, method: str, path: str, body: Any = None, **rest: Any) -> JSON:
        """One request, and the object that comes back."""
        found = _json(self._answered(method, path, body, **rest))
        if not isinstance(found, dict):
            raise Unavailable("what answers is no API server", store=self.url, key=path)
        return found

    def _answered(self, method: str, path: str, body: Any, **rest: Any) -> bytes:
        try:
            status, answer, wait_seconds = self._send(method, path, body, **rest)
            if status == 401:
                with self._opening:
                    self._client = None
                status, answer, wait_seconds = self._send(method, path, body, **rest)
        except (ApiException, HTTPError, OSError) as error:
            raise Unavailable(
                f"no answer from the API server: {_one_line(error)}",
                store=self.url,
                hint=f"kubectl --context {self.context} get --raw /readyz",
            ) from error
        if 200 <= status < 300:
            return answer
        told = _json(answer)
        said = told.get("message", "") if isinstance(told, dict) else ""
        raise self._refusal(method, path, status, str(said), wait_seconds)

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, float | None]:
        """Status, body, and after how many seconds it may be asked again, where that is said."""
        client = self._opened()
        sent_headers = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            sent_headers["Content-Type"] = kind
        sent = client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params=sent_headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        response = client.call_api(*sent, _request_timeout=self._timeout_seconds)
        wait = response.response.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdecimal() else None
        return response.status, bytes(response.response.data), seconds

    def _refusal(
        self, method: str, path: str, status: int, said: str, wait_seconds: float | None
    ) -> StoreError:
        text = f"{said} ({status})" if said else f"HTTP {status}"
        store, right = self.url, method.lower()
        if status == 401:
            said = "the credentials are not accepted, or have expired (401)"
            hint = f"kubectl --context {self.context} auth whoami"
            return Denied(said, right=right, store=store, key=path, hint=hint)
        if status == 403:
            hint = "infra/rbac holds the Roles that are needed"
            return Denied(text, right=right, store=store, key=path, hint=hint)
        if status == 404:
            return NotFound(text, store=store, key=path)
        if status in (409, 422):
            return ConditionFailed(f"not accepted: {text}", store=store, key=path)
        if status == 429:
            text = f"the API server asks for patience: {text}"
            return Throttled(text, retry_after_seconds=wait_seconds, store=store, key=path)
        if status == 410:  # a page of a list came too late: it is listed anew
            return Unavailable(f"the list has expired: {text}", store=store, key=path)
        if status >= 500:
            return Unavailable(f"the API server fails: {text}", store=store, key=path)
        return StoreError(f"the API server refuses: {text}", store=store, key=path)

    # ------------------------------------------------------------------------- opening

    def _opened(self) -> ApiClient:
        with self._opening:
            if self._client is None:
                self._client = ApiClient(
                    open_context(self.context, store=self.url, kubeconfig=self._kubeconfig)
                )
            return self._client


def open_context(
    context: str,
    *,
    store: str,
    where: str = "",
    right: str = "",
    kubeconfig: str | None = None,
    insecure: bool = False,
    insecure_hint: str = "use https",
) -> Configuration:
    """A context's cluster and user; its credentials command, if it has one, runs now. `store`, or
    `where` at more length, is what errors call it, and `right` what it is wanted for.

    `UsageError` for a context that is not there or is not safe to use, `Denied` for one that gives
    no credentials. `insecure` allows plain HTTP to another machine.
    """
    where = where or store
    configuration = Configuration()
    configuration.retries = False
    try:
        load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config",
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (ConfigException, OSError) as error:
        raise UsageError(
            f"{where}: context {context}: {_one_line(error)}",
            hint="kubectl config get-contexts shows those that there are",
        ) from error
    host = urlsplit(configuration.host)
    if host.scheme != "https" and not (insecure or is_loopback(host.hostname or "")):
        raise UsageError(
            f"{where}: the API server of context {context} is reached by plain HTTP",
            hint=insecure_hint,
        )
    if not configuration.verify_ssl:
        raise UsageError(
            f"{where}: context {context} says insecure-skip-tls-verify",
            hint="name who signs it instead: certificate-authority-data",
        )
    if host.scheme == "https" and not (configuration.api_key or configuration.cert_file):
        raise Denied(
            f"context {context} gives no credentials: its user has none, or the command that gets "
            "them failed",
            right=right,
            store=store,
            hint=f"kubectl --context {context} auth whoami",
        )
    return configuration


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
