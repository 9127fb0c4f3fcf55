"""Of several who may vouch: whose word counts, and what becomes of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest

from mlplatform.core.errors import Denied, MlplatformError, TopologyError, UsageError
from mlplatform.core.topology import Topology
from mlplatform.ports.identity import Identity
from mlplatform.rollout.identity import require_named, who_is_it
from tests.features.rollout.plan.world import topology
from tests.features.rollout.rolling.world import World

TYPED = Identity("root@vm")


@dataclass
class Told:
    """One whose answer is known."""

    name: str
    answer: str | MlplatformError | None
    asked: int = 0

    def vouch(self) -> Identity | None:
        self.asked += 1
        if isinstance(self.answer, MlplatformError):
            raise self.answer
        return Identity(self.answer, self.name) if self.answer is not None else None


def echo(told: Told) -> Told:
    return told


ALICE, BOB = Told("one", "alice"), Told("two", "bob")
NOTHING, AWAY = Told("three", None), Told("four", Denied("it has expired", hint="ask again"))
CASES = {
    "nobody can be asked": ((), (), TYPED, 0),
    "nothing to show": ((NOTHING,), (), TYPED, 0),
    "the first who is proven": ((NOTHING, ALICE, BOB), (), Identity("alice", "one"), 0),
    "the first who may": ((ALICE, BOB), ("bob",), Identity("bob", "two"), 0),
    "proven, and not named": ((NOTHING, ALICE), ("carol",), Identity("alice", "one"), 0),
    "one refuses, another does not": ((AWAY, BOB), ("bob",), Identity("bob", "two"), 1),
    "all refuse": ((AWAY, NOTHING), ("bob",), TYPED, 1),
    "what was typed is proven by nobody": ((), ("root@vm",), TYPED, 0),
}


@pytest.mark.parametrize(("vouchers", "approvers", "found", "doubts"), CASES.values(), ids=CASES)
def test_whose_word_counts(
    vouchers: tuple[Told, ...], approvers: tuple[str, ...], found: Identity, doubts: int
) -> None:
    who = who_is_it([partial(echo, each) for each in vouchers], approvers, TYPED)
    assert who.identity == found
    assert len(who.doubts) == doubts
    assert all(each == "four: it has expired; ask again" for each in who.doubts)


def test_nobody_is_asked_after_one_is_found_who_may() -> None:
    first, second = Told("one", "alice"), Told("two", "bob")
    who_is_it((lambda: first, lambda: second), ("alice",), TYPED)
    assert (first.asked, second.asked) == (1, 0)


def test_one_that_cannot_be_opened_is_one_that_does_not_vouch() -> None:
    """An extra that is not installed keeps nobody from a brake, nor the next from being asked."""

    def opened() -> Told:
        raise UsageError("no kubernetes here", hint="pip install it")

    who = who_is_it((lambda: NOTHING, opened), (), TYPED)
    assert who.identity == TYPED
    assert who.doubts == ("no kubernetes here; pip install it",)
    assert who_is_it((opened, lambda: BOB), ("bob",), TYPED).identity == Identity("bob", "two")


def test_what_approvers_alone_may_is_refused_to_others_by_name() -> None:
    require_named(TYPED, (), "promote without the verdict")
    require_named(Identity("alice", "one"), ("alice",), "promote without the verdict")
    with pytest.raises(Denied, match=r"^root@vm \(unverified\) may not promote without the"):
        require_named(TYPED, ("root@vm",), "promote without the verdict")
    with pytest.raises(Denied, match=r"^bob may not .*waves.approvers names alice, carol"):
        require_named(Identity("bob", "two"), ("alice", "carol"), "approve rollouts")


def test_names_that_look_or_begin_alike_are_two_approvers() -> None:
    records = World().sites().records
    names = ["repo:a/b", "repo_a/b", "repo.a_b", f"repo:{'x' * 100}:prod", f"repo:{'x' * 100}:test"]
    for name in [*names, names[0]]:
        records.approve("0" * 64, by=name, verified="one", reason="")
    assert sorted(each.by for each in records.approvals("0" * 64)) == sorted(names)


def believing(**identity: object) -> Topology:
    return topology({"waves": {"identity": identity}})


def test_by_default_github_s_tokens_and_every_cluster_are_believed() -> None:
    believed = topology().rollout.waves.identity
    assert believed.clusters is None
    assert [each.audience for each in believed.issuers] == ["mlplatform"]


BAD: dict[str, tuple[dict[str, object], str]] = {
    "without TLS": ({"issuers": [{"url": "http://x.test"}]}, "must be an https:// URL"),
    "with a query": ({"issuers": [{"url": "https://x.test/?a=b"}]}, "without a query"),
    "with a password": ({"issuers": [{"url": "https://a:b@x.test"}]}, "carries credentials"),
    "a name that anybody's pipeline may have": (
        {"issuers": [{"url": "https://x.test", "claim": "actor"}]},
        "add claims, such as repository: org/name",
    ),
    "no audience": ({"issuers": [{"url": "https://x.test", "audience": ""}]}, "at least 1"),
    "a region that is not there": ({"clusters": ["mars"]}, "'mars'"),
    "an unknown key": ({"cluster": ["us"]}, "cluster"),
}


@pytest.mark.parametrize(("identity", "said"), BAD.values(), ids=BAD)
def test_what_the_topology_may_not_say(identity: dict[str, object], said: str) -> None:
    with pytest.raises(TopologyError, match=said):
        believing(**identity)
