"""Whether somebody who may has said yes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlplatform.rollout.course.approval import standing


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
