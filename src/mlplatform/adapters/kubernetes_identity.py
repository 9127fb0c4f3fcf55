"""Who a cluster's API server says that we are: a SelfSubjectReview, which everybody who is let in
may ask for (Kubernetes 1.28 and newer, authentication.k8s.io/v1)."""

from __future__ import annotations

from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.core.errors import Denied, NotFound, Unavailable
from mlplatform.ports.identity import Identity

_PATH = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
_NOBODY = "system:unauthenticated"
"""The group of whoever was let in without saying who they are."""


def open_voucher(context: str) -> KubernetesVoucher:
    """The API server of a kubeconfig context. Nothing is asked of it yet."""
    return KubernetesVoucher(KubernetesAPI(context))


class KubernetesVoucher:
    """A `Voucher`: one cluster."""

    def __init__(self, api: KubernetesAPI) -> None:
        self._api = api

    @property
    def name(self) -> str:
        return self._api.url

    def vouch(self) -> Identity | None:
        """The name by which the cluster's authorisation knows us."""
        try:
            told = self._api.create(_PATH, _REVIEW)
        except NotFound as error:
            raise Unavailable(
                "the API server does not say who we are: it is older than Kubernetes 1.28",
                store=self.name,
            ) from error
        status = told.get("status")
        user = status.get("userInfo") if isinstance(status, dict) else None
        user = user if isinstance(user, dict) else {}
        name = user.get("username")
        if not isinstance(name, str) or not name:
            raise Unavailable("what answers is no SelfSubjectReview", store=self.name)
        if _NOBODY in (user.get("groups") or ()):
            raise Denied(
                f"we are let in as {name}: nobody",
                store=self.name,
                hint=f"kubectl --context {self._api.context} auth whoami",
            )
        return Identity(name, self.name)
