"""Whether somebody who may has said yes, and to which of the operations with a plan."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlplatform.rollout.course.approval import is_named, occasion, standing


@dataclass(frozen=True)
class Yes:
    by: str
    verified: str = ""


VOUCHED = "the API server of us"
CASES = {
    "nobody is named, nobody said so": ((), (), "", "nobody has said yes yet"),
    "nobody is named, somebody typed a name": ((), (Yes("ada@host"),), "ada@host (unverified)", ""),
    "nobody is named, somebody vouched for": ((), (Yes("ada", VOUCHED),), "ada", ""),
    "named, and vouched for": (("ada",), (Yes("ada", VOUCHED),), "ada", ""),
    "one of two named": (("ada", "bob"), (Yes("bob", VOUCHED),), "bob", ""),
    "named, and nobody said so": (("ada", "bob"), (), "", "ada or bob has not said yes yet"),
    "named, and only typed": (
        ("ada",),
        (Yes("ada"),),
        "",
        "ada has not said yes yet; ada, whom nobody verified did",
    ),
    "somebody else, vouched for": (
        ("ada",),
        (Yes("eve", VOUCHED),),
        "",
        "ada has not said yes yet; eve, who is not named did",
    ),
    "others first, then who may": (
        ("ada",),
        (Yes("eve", VOUCHED), Yes("ada"), Yes("ada", VOUCHED)),
        "ada",
        "",
    ),
    "a name that looks alike": (
        ("ada",),
        (Yes("Ada", VOUCHED), Yes("ada ", VOUCHED)),
        "",
        "ada has not said yes yet; Ada, who is not named, ada , who is not named did",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_who_said_yes(name: str) -> None:
    approvers, said, by, waits = CASES[name]
    found = standing(said, approvers)
    assert (found.by, found.waits) == (by, waits)


AGAIN = {
    "nobody is named": ((), (), "nobody has said yes yet to its being applied again"),
    "somebody is named": (
        ("ada",),
        (Yes("ada"),),
        "ada has not said yes yet to its being applied again; ada, whom nobody verified did",
    ),
}


@pytest.mark.parametrize(("approvers", "said", "waits"), AGAIN.values(), ids=AGAIN)
def test_a_plan_that_was_applied_before_is_asked_about_again(
    approvers: tuple[str, ...], said: tuple[Yes, ...], waits: str
) -> None:
    assert standing(said, approvers, before=1).waits == waits
    assert standing((Yes("ada", VOUCHED),), approvers, before=1).waits == ""


@pytest.mark.parametrize(
    ("before", "name"), [(0, "4f3a9c01"), (1, "4f3a9c01-2"), (10, "4f3a9c01-11")]
)
def test_each_operation_with_a_plan_is_agreed_to_by_a_name_of_its_own(
    before: int, name: str
) -> None:
    assert occasion("4f3a9c01", before) == name


MAY = {
    "nobody is named: anybody, whoever they say they are": (Yes("eve"), (), True),
    "named and vouched for": (Yes("ada", VOUCHED), ("bob", "ada"), True),
    "named, and nobody vouches": (Yes("ada"), ("ada",), False),
    "vouched for, and not named": (Yes("eve", VOUCHED), ("ada",), False),
}


@pytest.mark.parametrize(("who", "approvers", "may"), MAY.values(), ids=MAY)
def test_who_may_do_what_approvers_may(who: Yes, approvers: tuple[str, ...], may: bool) -> None:
    assert is_named(who, approvers) is may
