"""`mlplatform rollout approve`, and orders about a rollout, as they are typed on a laptop and in a
pipeline: whose name is recorded, and that no token is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlplatform import wiring
from mlplatform.control.journal import Journal, Kind
from mlplatform.core.plan import Plan
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from tests.cli.estate import Ran, require
from tests.cli.test_rollout import ROUTES, Site
from tests.features.rollout.identity.issuer import BEARER, SUBJECT, LocalIssuer, issuing
from tests.real.servers.control_plane import ControlPlane


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("approval"))
        site.begin(stack)
        yield site


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalIssuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as issuer:
        yield issuer


def planned(site: Site, **identity: Any) -> str:
    """The name of a plan that `SUBJECT` and rollout-1 may approve."""
    waves = {
        "approval": "first",
        "approvers": [SUBJECT, "rollout-1"],
        **({"identity": identity} if identity else {}),
    }
    site.describe(rollout={"models": {"m": ROUTES}, "waves": waves})
    digest = site.good("rollout", "plan", "m@v2", "--output", "json").json()["digest"]
    return str(digest).removeprefix("blake3:")


def approve(site: Site, name: str, **env: str) -> Ran:
    return site.process("rollout", "approve", name[:12], "--reason", "reviewed", "-vvv", env=env)


def in_actions(issuer: LocalIssuer) -> dict[str, str]:
    """What a job of GitHub Actions finds in its environment."""
    return {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/runner/token?v=2",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
        "SSL_CERT_FILE": str(issuer.authority.path),
    }


def recorded(site: Site, name: str) -> list[dict[str, Any]]:
    """Every approval of a plan, as it is kept."""
    folder = site.folder / "control/observations/approvals" / name
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def require_no_secret(site: Site, ran: Ran, *secrets: str) -> None:
    kept = [p.read_bytes() for p in (site.folder / "control").rglob("*") if p.is_file()]
    for secret in secrets:
        for part in secret.split("."):
            assert part not in ran.said
            assert not any(part.encode() in each for each in kept)


def test_a_pipeline_is_named_by_the_issuer_of_its_token(site: Site, issuer: LocalIssuer) -> None:
    name = planned(site, issuers=[{"url": issuer.url}])
    issuer.token = issuer.signed()
    ran = approve(site, name, **in_actions(issuer))
    assert ran.code == 0, ran.said
    assert issuer.url in ran.out
    assert [(each["by"], each["verified"]) for each in recorded(site, name)] == [
        (SUBJECT, issuer.url)
    ]
    require_no_secret(site, ran, issuer.token, BEARER)


def test_a_token_in_a_variable_that_has_expired_counts_for_nobody(
    site: Site, issuer: LocalIssuer
) -> None:
    name = planned(site, issuers=[{"url": issuer.url, "variable": "ROLLOUT_ID_TOKEN"}])
    before = recorded(site, name)
    token = issuer.signed(exp=datetime.now(UTC) - timedelta(hours=1))
    env = {"ROLLOUT_ID_TOKEN": token, "SSL_CERT_FILE": str(issuer.authority.path)}
    ran = approve(site, name, **env)
    require(ran, 4, "(unverified) may not approve rollouts", "let one of them run this")
    assert f"who you are is not proven: {issuer.url}: the token is not accepted: it has" in ran.err
    assert recorded(site, name) == before
    require_no_secret(site, ran, token)


def test_another_pipeline_is_proven_and_not_named(site: Site, issuer: LocalIssuer) -> None:
    name = planned(site, issuers=[{"url": issuer.url}])
    issuer.token = issuer.signed(sub="repo:mallory/platform:ref:refs/heads/main")
    ran = approve(site, name, **in_actions(issuer))
    require(ran, 4, "repo:mallory/platform:ref:refs/heads/main may not approve", "let one of them")


def test_a_name_that_was_typed_counts_for_nobody_where_approvers_are_named(site: Site) -> None:
    ran = approve(site, planned(site))
    require(ran, 4, "(unverified) may not approve rollouts", "let one of them run this")


def test_on_a_laptop_the_cluster_says_who_it_is(
    site: Site, kubernetes: ControlPlane, tmp_path: Path
) -> None:
    name = planned(site)
    text = json.loads((site.folder / "topology.yaml").read_text())
    # A region with a cluster; the plan was made before, and rests on no more than it says.
    text["regions"]["us"]["cluster"] = {"context": "us", "namespace": "models"}
    (site.folder / "topology.yaml").write_text(json.dumps(text))
    file = kubernetes.kubeconfig(tmp_path / "config", "rollout-1", context="us")
    ran = approve(site, name, KUBECONFIG=str(file))
    assert ran.code == 0, ran.said
    told = [(each["by"], each["verified"]) for each in recorded(site, name)]
    assert told == [("rollout-1", "kubernetes://us")]
    require_no_secret(site, ran, kubernetes.token("rollout-1"))


@contextmanager
def under_way(site: Site, name: str) -> Iterator[str]:
    """An operation with a plan, which nobody is at work on. It is over afterwards."""
    topology = Topology.load(site.folder / "topology.yaml")
    clock = SystemClock()
    control = wiring.open_control(topology, clock, Random())
    journal = Journal(control, clock, Random(), "alice@laptop:42")
    stored = json.loads((site.folder / f"control/plans/rollout/{name}.json").read_text())
    operation = journal.new_operation("rollout")
    plan = Plan.model_validate(stored["plan"])
    stream = journal.start(operation, plan, lease="rollout/m", fence=1)
    try:
        yield operation
    finally:
        stream.append(Kind.CLOSED, {"text": "ended"}, fence=1)


def hands(site: Site) -> list[tuple[str, str]]:
    """Who had which hand in the newest rollout, as `status` tells programs."""
    told = site.run("rollout", "status", "m", "--output", "json").json()
    return [(each["what"], each["verified"]) for each in told["hands"]]


def test_who_may_not_approve_may_not_promote_without_the_verdict(
    site: Site, issuer: LocalIssuer
) -> None:
    name = planned(site, issuers=[{"url": issuer.url}])
    issuer.token = issuer.signed()
    with under_way(site, name):
        ran = site.process("rollout", "promote", "m", "--reason", "it is well")
        require(ran, 4, "(unverified) may not promote without the verdict", "let one of them run")
        assert hands(site)[-1] == ("began it", "")
        ran = site.process("rollout", "promote", "m", "-vvv", env=in_actions(issuer))
        assert ran.code == 0, ran.said
        assert issuer.url in ran.out
        promoted = "promoted it by hand, without waiting for the verdict"
        assert hands(site)[-1] == (promoted, issuer.url)
        require_no_secret(site, ran, issuer.token, BEARER)


def test_anybody_pulls_a_brake_and_it_is_told_who(site: Site) -> None:
    with under_way(site, planned(site)) as operation:
        ran = site.good("rollout", "pause", "m", "--reason", "INC-4711", "--output", "json")
        (order,) = ran.json()["orders"]
        assert (order["kind"], order["scope"], order["verified"]) == ("pause", operation, "")
        ran = site.run("rollout", "status", "m")
        require(ran, 3, f"{order['by']} (unverified) paused it: INC-4711", hint=False)
        nobody = f"nobody is at work on it; mlplatform rollout resume {operation} goes on"
        assert nobody in " ".join(ran.err.split())
        (row, *_) = site.good("rollout", "history", "m", "--output", "json").json()["rollouts"]
        assert [(each["what"], each["by"]) for each in row["ordered"]] == [("pause", order["by"])]
    assert f"{order['by']} (unverified)" in site.good("rollout", "report", operation).out


def test_a_plan_that_was_applied_is_approved_anew(site: Site, issuer: LocalIssuer) -> None:
    name = planned(site, issuers=[{"url": issuer.url}])
    issuer.token = issuer.signed()
    approve(site, name, **in_actions(issuer))
    with under_way(site, name) as operation:
        pass
    ran = approve(site, name, **in_actions(issuer))
    assert f"was applied before, by {operation}: this is a yes to its being applied again" in (
        " ".join(ran.err.split())
    )
    with under_way(site, name) as again:
        ran = site.run("rollout", "status", again, "--output", "json")
        told = ran.json()
        assert (ran.code, told["at_work"]) == (3, None), "nobody carries it out"
        assert [each["what"] for each in told["hands"]] == ["approved its plan", "began it"]


def test_a_plan_is_shown_before_anybody_is_asked_to_agree(site: Site) -> None:
    with under_way(site, planned(site)):
        pass
    for line in (("apply", "m@v2"), ("retry", "m")):
        ran = site.run("rollout", *line)
        require(ran, 2, "34 steps in us, eu, ap", "hint: add --yes, if that is")
        assert "GOES BACK BY" in ran.out, line
        assert "weight-25" in " ".join(ran.out.split()), line
        ran = site.run("rollout", *line, "--output", "json")
        assert (ran.code, ran.out) == (2, ""), line
        assert "eu: weight-25: gives v2 25 % of the requests\n" in ran.err, line
        assert "the verdict will promote nothing: rollout.verdict.disp" in ran.err, line
