"""Who a real API server says that we are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.adapters.kubernetes_identity import KubernetesVoucher
from mlplatform.core.errors import Denied, Unavailable, UsageError
from mlplatform.ports.identity import Identity
from tests.real.servers.control_plane import ControlPlane


def voucher(file: Path, context: str = "eu") -> KubernetesVoucher:
    return KubernetesVoucher(KubernetesAPI(context, kubeconfig=str(file), timeout_seconds=5.0))


@pytest.mark.parametrize("user", ["rollout-1", "nobody"])
def test_the_name_by_which_its_authorisation_knows_us(
    kubernetes: ControlPlane, tmp_path: Path, user: str
) -> None:
    """Without a right to anything else, too."""
    file = kubernetes.kubeconfig(tmp_path / "config", user, context="eu")
    assert voucher(file).vouch() == Identity(user, "kubernetes://eu")


def test_a_token_that_is_not_accepted(kubernetes: ControlPlane, tmp_path: Path) -> None:
    file = kubernetes.kubeconfig(tmp_path / "config", "nobody", context="eu")
    token = kubernetes.token("nobody")
    file.write_text(file.read_text().replace(token, "made-up-made-up"))
    with pytest.raises(Denied, match="not accepted, or have expired") as raised:
        voucher(file).vouch()
    assert "made-up" not in f"{raised.value} {raised.value.hint}"


def test_a_context_that_is_not_there(kubernetes: ControlPlane, tmp_path: Path) -> None:
    file = kubernetes.kubeconfig(tmp_path / "config", "nobody", context="eu")
    with pytest.raises(UsageError, match="context mars"):
        voucher(file, "mars").vouch()


def test_an_api_server_that_is_away(kubernetes: ControlPlane, tmp_path: Path) -> None:
    file = kubernetes.kubeconfig(
        tmp_path / "config", "nobody", context="eu", server="https://127.0.0.1:9"
    )
    with pytest.raises(Unavailable, match="kubernetes://eu"):
        voucher(file).vouch()
