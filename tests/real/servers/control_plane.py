"""A Kubernetes API server over an etcd, for as long as a ``with`` block lasts, and its restart."""

from __future__ import annotations

import contextlib
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .catalogue import kube_apiserver
from .launch import Endpoint, running

ADMIN = "admin"
_CSV = "{token},{user},{user},{groups}\n"


class ControlPlane:
    """One API server. No controllers run beside it, and no gateway: nothing moves by itself."""

    def __init__(self, etcd: Endpoint, folder: Path) -> None:
        self._etcd = etcd
        self._folder = folder
        self._process = contextlib.ExitStack()
        self.endpoint: Endpoint

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.endpoint.port}"

    @property
    def authority(self) -> Path:
        """The certificates that its own is to be checked against."""
        return self._folder / "apiserver.crt"

    def token(self, user: str) -> str:
        """What a user shows to be let in."""
        return f"{self.endpoint.secret}-{user}"

    def start(self, *, port: int | None = None, secret: str | None = None) -> None:
        """Start it: for the first time, or with the port and the secret that it had."""

        def command(room: Any) -> Any:
            (tokens := self._folder / "tokens.csv").touch(mode=0o600)
            tokens.write_text(
                "".join(
                    _CSV.format(token=f"{room.secret}-{user}", user=user, groups=groups)
                    for user, groups in USERS.items()
                )
            )
            return kube_apiserver(room, etcd=self._etcd.url, folder=self._folder)

        self.endpoint = self._process.enter_context(
            running("kubernetes", start=command, port=port, secret=secret)
        )

    def stop(self) -> None:
        """End it; etcd keeps what it knew."""
        self._process.close()

    def restart(self) -> None:
        """End it, and start it again where it was."""
        self.stop()
        self.start(port=self.endpoint.port, secret=self.endpoint.secret)

    def kubeconfig(self, path: Path, user: str, *, context: str, server: str | None = None) -> Path:
        """A file with one context, of that user; `server` where it is reached by another way."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "cluster",
                    "cluster": {
                        "server": server or self.url,
                        "certificate-authority": str(self.authority),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": context, "context": {"cluster": "cluster", "user": user}}],
            "current-context": context,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: str = ADMIN,
        kind: str = "application/json",
    ) -> Any:
        """One request, and the object that comes back."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token(user)}", "Content-Type": kind},
        )
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                raise RuntimeError(f"{method} {path}: {refused.read().decode()}") from None

    def merge(self, path: str, patch: object) -> Any:
        """What an operator's `kubectl patch --type merge` does."""
        return self.ask("PATCH", path, patch, kind="application/merge-patch+json")


USERS = {
    ADMIN: "system:masters",
    "failover-1": "mlplatform:failover",
    "rollout-1": "mlplatform:rollout",
    "nobody": "visitors",
}
"""Who may enter, and their group."""


@contextlib.contextmanager
def control_plane(etcd: Endpoint) -> Iterator[ControlPlane]:
    """An API server that is ready to answer."""
    with tempfile.TemporaryDirectory(prefix="mlplatform-control-plane-") as folder:
        plane = ControlPlane(etcd, Path(folder))
        plane.start()
        try:
            yield plane
        finally:
            plane.stop()
