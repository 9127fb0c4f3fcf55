"""What is held of a region, given what vantages saw of it: tables to read and argue about.

How rounds are drawn: eyes.py. The region judged is `us`; fall is 3, rise is 5, 3 domains must vote.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.evidence.record import Evidence, Sighting, VantageRecord
from mlplatform.failover.verdict.judge import Health, Verdict, judge, judge_all

from .eyes import REGION, Row, direct, expiring, outside, record, rows, seen, traffic_of

HEALTHY, SUSPECT, UNHEALTHY, UNKNOWN = (
    Health.HEALTHY,
    Health.SUSPECT,
    Health.UNHEALTHY,
    Health.UNKNOWN,
)


@dataclass(frozen=True)
class Case:
    name: str
    picture: str
    health: Health
    because: str = ""
    """Found in the reasons."""
    callers: str | None = None
    fall: int = 3
    domains: int = 3


def verdict(case: Case) -> Verdict:
    traffic = traffic_of(rows(case.picture), fall=case.fall, domains=case.domains)
    return judge(REGION, seen(case.picture, case.callers), traffic)


WELL = """
    fra     ........
    lon     ........
    sin     ........
"""
DEAD = """
    fra     .....xxx
    lon     .....rrr
    sin     .....xxx
"""
ONE_SEES_IT_UP = """
    fra     .....xxx
    lon     .....xxx
    sin     .....xxx
    tok     ........
"""
UNDECIDED = """
    fra     .....xxx
    lon     .....xxx
    sin     ........
    tok     ........
"""


CASES = [
    Case("well", WELL, HEALTHY, "3 of 3 domains see it up"),
    Case("well, and callers agree", WELL, HEALTHY, "99.9 % of 120 requests/s", "99.9% 120/s 0.1s"),
    Case(
        "a blip of two rounds",
        """
        fra     ........xx.
        lon     ........xx.
        sin     ........xx.
        """,
        HEALTHY,
    ),
    Case(
        "dead", DEAD, UNHEALTHY, "3 of 3 domains get no answer: fra, sin (timeout); lon (refused)"
    ),
    # --- callers and vantages ---------------------------------------------------------------------
    Case("dead, callers agree", DEAD, UNHEALTHY, "callers agree: 3 % of 40 req", "3% 40/s"),
    Case("dead, nobody calls", DEAD, UNHEALTHY, "counts no requests", "100% 0/s"),
    Case("dead, Prometheus is empty", DEAD, UNHEALTHY, "has no sample", "empty"),
    Case("dead, Prometheus says NaN", DEAD, UNHEALTHY, "has no sample", "nan"),
    Case("dead, no Prometheus to be read", DEAD, UNHEALTHY, "could not be read", "unknown"),
    Case("dead, but callers are served", DEAD, SUSPECT, "callers contradict", "99.9% 40/s"),
    Case("good ratio of unknown many", DEAD, UNHEALTHY, "is not known", "99.9%"),
    Case("one sees it up, callers fail", ONE_SEES_IT_UP, UNHEALTHY, "3 of 4", "40% 9/s"),
    Case("one sees it up, callers unheard", ONE_SEES_IT_UP, SUSPECT, "have to agree", "empty"),
    Case("one sees it up, no Prometheus", ONE_SEES_IT_UP, SUSPECT, "tok sees it up"),
    Case("one sees it up, callers are well", ONE_SEES_IT_UP, SUSPECT, "contradict", "100% 9/s"),
    Case("two against two", UNDECIDED, SUSPECT, "gray failure: 2 of 4", "40% 9/s"),
    Case("only callers suffer", WELL, SUSPECT, "gray failure: 3 of 3 domains see it up", "80% 9/s"),
    Case("callers wait", WELL, SUSPECT, "in 0.8 s (objective 0.5 s)", "100% 9/s 0.8s"),
    Case("nobody waits where nobody calls", WELL, HEALTHY, "", "100% 0/s 0.8s"),
    Case("none of no requests succeed", WELL, HEALTHY, "counts no requests", "0% 0/s"),
    # --- who votes --------------------------------------------------------------------------------
    Case(
        "its own vantage calls it up, and is not asked",
        DEAD + "us ........",
        UNHEALTHY,
        "us stands in it and does not vote",
    ),
    Case("its own vantage calls it down", WELL + "us xxxxxxxx", HEALTHY),
    Case(
        "a vantage that fails together with it has no vote either",
        WELL + "dc2/us xxxxxxxx",
        HEALTHY,
        "dc2 stands in it",
    ),
    Case(
        "two domains are too few to be sure",
        """
        fra     .....xxx
        lon     .....xxx
        """,
        SUSPECT,
        "2 domains vote, 3 are needed",
    ),
    Case(
        "five vantages, two domains",
        """
        fra1/fra   .....xxx
        fra2/fra   .....xxx
        fra3/fra   .....xxx
        lon1/lon   .....xxx
        lon2/lon   .....xxx
        """,
        SUSPECT,
        "2 domains vote, 3 are needed",
    ),
    Case(
        "the third is blind, and might have seen it up",
        """
        fra     .....xxx
        lon     .....xxx
        sin     blind
        """,
        SUSPECT,
        "sin does not vote: blind: none of its 3 references answers",
    ),
    Case(
        "a laptop: one vantage, and the safety that it asked for",
        "fra .....xxx",
        UNHEALTHY,
        domains=1,
    ),
    Case(
        "inside a domain its majority speaks",
        """
        fra1/fra   .....xxx
        fra2/fra   .....xxx
        fra3/fra   ........
        lon        .....xxx
        sin        .....xxx
        """,
        UNHEALTHY,
        "3 of 3 domains",
    ),
    Case(
        "a domain that is divided agrees with nobody",
        """
        fra1/fra   .....xxx
        fra2/fra   ........
        lon        .....xxx
        sin        .....xxx
        """,
        SUSPECT,
        "of two minds: fra (timeout)",
    ),
    Case(
        "a divided domain is outvoted, where callers fail",
        """
        fra1/fra   .....xxx
        fra2/fra   ........
        lon        .....xxx
        sin        .....xxx
        """,
        UNHEALTHY,
        "of two minds",
        "40% 9/s",
    ),
    Case(
        "a minority that hears nothing, beside a majority that sees it up",
        """
        fra     ........
        lon     ........
        sin     stale
        """,
        HEALTHY,
        "sin does not vote: no word for 60 s, a round takes 10 s",
    ),
    Case(
        "one good word of four is not enough",
        """
        fra     ........
        lon     stale
        sin     blind
        tok     absent
        """,
        UNKNOWN,
        "1 of 4 domains sees it up (fra), the others say nothing: 3 are needed",
    ),
    Case(
        "half is not enough either",
        """
        fra     ........
        lon     ........
        sin     blind
        tok     absent
        """,
        UNKNOWN,
        "3 are needed",
    ),
    Case(
        "no opinion yet: four good rounds of five, two bad ones of three",
        """
        fra     ....
        lon     ....
        sin     xx
        """,
        UNKNOWN,
        "sin does not vote: no opinion yet: 2 bad in a row, of 3",
    ),
    Case(
        "once down, five good rounds bring it back",
        """
        fra     -....
        lon     -....
        sin     -....
        """,
        UNHEALTHY,
    ),
    Case(
        "and the fifth does",
        """
        fra     -.....
        lon     -.....
        sin     -.....
        """,
        HEALTHY,
    ),
    Case(
        "a region that was never probed",
        """
        fra     _
        lon     _
        sin     _
        """,
        UNKNOWN,
        "has not probed it",
    ),
    # --- clocks and darkness ----------------------------------------------------------------------
    Case(
        "clocks an hour off: their word counts for nothing",
        """
        fra     ahead
        lon     ahead
        sin     behind
        tok     ........
        """,
        UNKNOWN,
        "fra does not vote: its record is 3600 s from the future",
    ),
    Case(
        "all stale",
        """
        fra     stale
        lon     stale
        sin     stale
        """,
        UNKNOWN,
        "all dark: no vantage can vote on any region, we are blind",
    ),
    Case(
        "all dark, though callers fail: hold",
        """
        fra     blind
        lon     blind
        sin     unreadable
        """,
        UNKNOWN,
        "20 % of 9 requests/s succeed",
        "20% 9/s",
    ),
    # --- gray -------------------------------------------------------------------------------------
    Case(
        "one domain of four is outvoted",
        """
        fra     xxxxxxxx
        lon     ........
        sin     ........
        tok     ........
        """,
        HEALTHY,
        "outvoted: 1 of 4 domains gets no answer: fra (timeout)",
    ),
    Case(
        "two domains of five are a gray failure",
        """
        fra     xxxxxxxx
        lon     xxxxxxxx
        sin     ........
        tok     ........
        syd     ........
        """,
        SUSPECT,
        "gray failure: 2 of 5 domains get no answer: fra, lon (timeout)",
    ),
    Case(
        "slow for most",
        """
        fra     .....sss
        lon     .....sss
        sin     ........
        """,
        SUSPECT,
        "gray failure: 2 of 3 domains find it slower than 0.5 s (fra, lon)",
    ),
    Case(
        "slow from far away only",
        """
        fra     ........
        lon     ........
        syd     ssssssss
        """,
        HEALTHY,
        "outvoted: 1 of 3 domains finds it slower than 0.5 s (syd)",
    ),
    Case(
        "two slow rounds",
        """
        fra     ......ss
        lon     ......ss
        sin     ......ss
        """,
        HEALTHY,
    ),
    Case(
        "silence that is unlike it: phi suspects before the third failure",
        """
        fra     ..........xx
        lon     ..........xx
        sin     ...........x
        """,
        SUSPECT,
        "2 of 3 domains wait for an answer longer than is usual (fra, lon; phi over 8)",
    ),
    Case(
        "silence that is nothing new",
        """
        fra     +.x.xx.xx.x.xx
        lon     +.xx.x.xx.x.xx
        sin     +.x.xx.xx.x.xx
        """,
        HEALTHY,
    ),
    Case(
        "phi alone never makes it unhealthy",
        """
        fra     +............xx
        lon     +............xx
        sin     +............xx
        """,
        SUSPECT,
        "",
        "3% 40/s",
    ),
    # --- golden requests --------------------------------------------------------------------------
    Case(
        "a dead gateway before healthy pods (k8gb #1754)",
        """
        fra     ........   resnet=..xxx bert=..xxx
        lon     ........   resnet=..xxx bert=..xxx
        sin     ........   resnet=..xxx bert=..xxx
        """,
        UNHEALTHY,
        "3 of 3 domains see it down: fra, lon, sin (answers, but no golden request is answered",
    ),
    Case(
        "a dead gateway, while callers are served",
        """
        fra     ........   resnet=..xxx
        lon     ........   resnet=..xxx
        sin     ........   resnet=..xxx
        """,
        SUSPECT,
        "callers contradict",
        "99.9% 9/s",
    ),
    Case(
        "half of the models",
        """
        fra     ........   resnet=..... bert=..xxx
        lon     ........   resnet=..... bert=..xxx
        sin     ........   resnet=..... bert=..xxx
        """,
        SUSPECT,
        "gray failure: 1 of 2 models fails golden requests here: bert",
    ),
    Case(
        "one model of three: its own verdict, not the region's",
        """
        fra     ........   resnet=..... bert=..xxx llama=....
        lon     ........   resnet=..... bert=..xxx llama=....
        sin     ........   resnet=..... bert=..xxx llama=....
        """,
        HEALTHY,
        "1 of 3 models fails golden requests here: bert",
    ),
    Case(
        "a golden answer that went wrong once",
        """
        fra     ........   resnet=..x.
        lon     ........   resnet=..x
        sin     ........   resnet=x...
        """,
        HEALTHY,
    ),
    Case(
        "one wrong answer from everywhere, and no other: too little to call it down",
        """
        fra     ........   resnet=x
        lon     ........   resnet=x
        sin     ........   resnet=x
        """,
        SUSPECT,
        "1 of 1 models fails golden requests here: resnet",
    ),
    Case(
        "golden answers of eleven minutes ago",
        f"""
        fra     ........   resnet=xxx{"_" * 66}
        lon     ........   resnet=xxx{"_" * 66}
        sin     ........   resnet=xxx{"_" * 66}
        """,
        HEALTHY,
    ),
    Case(
        "one vantage that cannot read a golden answer",
        """
        fra     ........   resnet=xxxxx
        lon     ........   resnet=.....
        sin     ........   resnet=.....
        """,
        HEALTHY,
        "outvoted: 1 of 3 domains sees it down: fra (answers, but no golden request",
    ),
    # --- certificates, and the front door ---------------------------------------------------------
    Case(
        "a certificate that expired in one region: down for whoever verifies",
        """
        fra     ....cccc
        lon     ....cccc
        sin     ....cccc
        """,
        UNHEALTHY,
        "certificate: expired on 2026-02-28",
    ),
    Case(
        "a certificate that only one vantage does not trust",
        """
        fra     ....cccc
        lon     ........
        sin     ........
        """,
        HEALTHY,
        "outvoted: 1 of 3 domains",
    ),
    Case(
        "status 503 from all",
        """
        fra     .....555
        lon     .....555
        sin     .....555
        """,
        UNHEALTHY,
        "3 of 3 domains see it down: fra, lon, sin (status 503)",
    ),
    Case(
        "the direct path is cut, clients are served at the front door",
        """
        fra     .....xxx   front=.....xx.
        lon     .....xxx   front=....x.x.
        sin     .....xxx   front=......x.
        """,
        SUSPECT,
        "yet it answers at the front door",
    ),
    Case(
        "it answered at the front door before it died",
        """
        fra     .....xxx   front=....xxxx
        lon     .....xxx   front=....xxxx
        sin     .....xxx   front=....xxxx
        """,
        UNHEALTHY,
        "the front door of api is shut to 3 of 3 domains",
    ),
    Case(
        "a front door that is shut is no region's fault",
        """
        fra     ........   front=...xxxxx
        lon     ........   front=...xxxxx
        sin     ........   front=...xxxxx
        """,
        HEALTHY,
        "the front door of api is shut to 3 of 3 domains (fra, lon, sin); that is held against no",
    ),
    # --- replays ----------------------------------------------------------------------------------
    Case(
        "AWS, 7 Dec 2021: monitoring is lost, callers are not asked",
        """
        fra     blind
        lon     stale
        sin     blind
        """,
        UNKNOWN,
        "we are blind",
    ),
    Case(
        "a one-way partition: one neighbour cannot reach it, everyone else can",
        """
        eu      .....xxx
        fra     ........
        lon     ........
        sin     ........
        """,
        HEALTHY,
        "outvoted: 1 of 4 domains gets no answer: eu (timeout)",
        "99.95% 800/s",
    ),
    Case(
        "a one-way partition: its answers reach nobody, and its own vantage is content",
        """
        us      ........
        fra     .....xxx
        lon     .....xxx
        sin     .....xxx
        """,
        UNHEALTHY,
        "us stands in it and does not vote",
        "empty",
    ),
    Case(
        "one lying vantage calls a dead region up",
        """
        liar    ........
        fra     .....xxx
        lon     .....xxx
        sin     .....xxx
        """,
        UNHEALTHY,
        "liar sees it up",
        "2% 30/s",
    ),
    Case(
        "one lying vantage calls a good region down",
        """
        liar    xxxxxxxx
        fra     ........
        lon     ........
        """,
        HEALTHY,
        "outvoted: 1 of 3 domains gets no answer: liar (timeout)",
    ),
    Case(
        "karmada's and k8gb's secondary that loses its own network: one witness, alone",
        """
        eu      .....xxx
        """,
        SUSPECT,
        "1 domain votes, 3 are needed",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case: Case) -> None:
    judged = verdict(case)
    assert judged.health is case.health, "\n".join(judged.because)
    assert case.because in "\n".join(judged.because)
    assert judged.because
    assert (judged.sick_seconds is not None) is (case.health in {SUSPECT, UNHEALTHY})
    if case.health is not HEALTHY:
        assert judged.well_seconds is None


# --- GitHub, 21 October 2018: 43 seconds --------------------------------------------------------


def after(rounds: int, cut: int, *, fall: int) -> Health:
    """The verdict so many rounds after the beginning of a cut that lasts `cut` rounds."""
    signs = "........" + "x" * min(rounds, cut) + "." * max(rounds - cut, 0)
    picture = "\n".join(f"{name} {signs}" for name in ("fra", "lon", "sin"))
    return judge(REGION, seen(picture), traffic_of(rows(picture), fall=fall)).health


@pytest.mark.parametrize(
    ("fall", "story"),
    [
        # A round every 10 s; the cut takes rounds 1 to 5.
        (
            3,
            "healthy suspect unhealthy unhealthy unhealthy unhealthy unhealthy unhealthy unhealthy",
        ),
        (6, "healthy suspect suspect suspect suspect healthy healthy healthy healthy"),
    ],
)
def test_github_2018_a_cut_of_43_seconds_from_everywhere(fall: int, story: str) -> None:
    """With `fall: 3` a verdict does not outlast 43 s: it is down at the third failure, and stays so
    until the fifth success. Whoever must outlast such a cut sets `fall` to 6, and decides a minute
    later; what must not be moved at all (data) is for `decide` to hold."""
    assert [str(after(rounds, 5, fall=fall)) for rounds in range(1, 10)] == story.split()
    assert after(10, 5, fall=fall) is HEALTHY


def test_github_2018_as_it_was_a_cut_between_two_sites() -> None:
    """One site did not see the other; the rest of the world saw both."""
    picture = """
        west    .....xxxxx
        fra     ..........
        lon     ..........
    """
    judged = judge(REGION, seen(picture), traffic_of(rows(picture)))
    assert judged.health is HEALTHY
    assert "outvoted: 1 of 3 domains gets no answer: west (timeout)" in judged.because


# --- how long -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "sick", "well"),
    [
        # The record is 3 s old; the oldest good round was 70 s before it.
        (WELL, None, 73),
        (DEAD, 23, None),
        ("fra .....xxx\nlon ....xxxx\nsin ...xxxxx", 33, None),  # what two of three confirm
        ("fra ........\nlon +..xx.....\nsin -.......", None, 63),  # the shortest; a blip ends none
        # A majority confirms it. The first could have a wrong clock, or be a liar.
        ("fra xxxxxxxxxxxxxxx\nlon .....xxx\nsin .....xxx", 23, None),
        ("fra xxxxxxxxxxxxxxx\nlon .....xxx\nsin ........\ntok ........", 23, None),
        # One is outvoted: the verdict is healthy, but nobody should go back there yet.
        ("fra xxxxxxxx\nlon ........\nsin ........", None, None),
        # Slow until five quick rounds ago.
        ("fra ...sss.....\nlon ...sss.....\nsin ...........", None, 43),
        # Two slow rounds are a blip.
        ("fra ...ss......\nlon ...ss......\nsin ...........", None, 103),
        # A far vantage is slow for ever. That keeps nobody away.
        ("fra .........\nlon .........\nsyd sssssssss", None, 83),
        # Golden requests were answered wrong until five rounds ago.
        (
            "fra ......... m=xxx.....\nlon ......... m=xxx.....\nsin ......... m=xxx.....",
            None,
            43,
        ),
    ],
)
def test_how_long(picture: str, sick: float | None, well: float | None) -> None:
    judged = judge(REGION, seen(picture), traffic_of(rows(picture)))
    assert (judged.sick_seconds, judged.well_seconds) == (sick, well), judged


def test_a_hold_off_outlasts_the_samples_that_are_kept() -> None:
    """The record holds minutes; a region is well for hours."""
    evidence = seen(WELL)
    for name, held in evidence.vantages.items():
        assert isinstance(held.record, VantageRecord)
        series = direct("+....").model_copy(update={"up_seconds_ago": 7200.0})
        told = held.record.model_copy(update={"series": (series,)})
        evidence = replace(
            evidence, vantages={**evidence.vantages, name: replace(held, record=told)}
        )
    assert judge(REGION, evidence, traffic_of(rows(WELL))).well_seconds == 7203


# --- what is left to protect --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "callers", "nothing"),
    [
        (DEAD, None, True),
        ("fra .....ccc\nlon .....xxx\nsin .....rrr", None, True),
        ("fra .....555\nlon .....xxx\nsin .....xxx", None, False),  # an answer, if a bad one
        ("fra .....xxx\nlon .....xxx\nsin .....xxx\ntok ..", "2% 9/s", False),  # one gets through
        ("fra ..... m=xxx\nlon ..... m=xxx\nsin ..... m=xxx", None, False),
        ("fra .....xxx\nlon .....xxx", None, False),  # too few to be sure
        (WELL, None, False),
    ],
)
def test_serves_nothing(picture: str, callers: str | None, nothing: bool) -> None:
    judged = judge(REGION, seen(picture, callers), traffic_of(rows(picture)))
    assert judged.serves_nothing is nothing


# --- models -------------------------------------------------------------------------------------


def world(pictures: dict[str, str]) -> Evidence:
    """Several regions, drawn apart, seen by the same vantages."""
    records: dict[str, VantageRecord] = {}
    for region, picture in pictures.items():
        for row in rows(picture):
            told = record(row, region=region)
            held = records.get(row.name)
            records[row.name] = (
                told
                if held is None
                else held.model_copy(
                    update={
                        "series": held.series + told.series,
                        "golden": held.golden + told.golden,
                    }
                )
            )
    return Evidence({name: Sighting(told, 3.0) for name, told in records.items()})


def topology(regions: list[str], vantages: list[str]) -> Topology:
    stores = "".join(f"  {region}: {{store: 'memory://{region}'}}\n" for region in regions)
    named = "".join(f"    {name}: {{domain: {name}}}\n" for name in vantages)
    return Topology.parse(
        f"control: memory://control\nregions:\n{stores}traffic:\n  vantages:\n{named}"
    )


@pytest.mark.parametrize(
    ("picture", "callers", "called_down"),
    [
        (DEAD, None, True),
        ("fra .....xxx\nlon .....xxx", None, True),  # too few to be sure
        (ONE_SEES_IT_UP, None, True),  # not of one mind
        (DEAD, "99.9% 40/s", False),  # callers contradict
        (UNDECIDED, None, False),
        (WELL, None, False),
    ],
)
def test_called_down(picture: str, callers: str | None, called_down: bool) -> None:
    case = Case("", picture, HEALTHY, callers=callers)
    assert verdict(case).called_down is called_down


def test_a_model_that_fails_everywhere_is_not_the_regions_fault() -> None:
    everywhere = "\n".join(f"{name} ..... m=..xxx n=....." for name in ("fra", "lon", "sin"))
    evidence = world({"us": everywhere, "eu": everywhere, "ap": everywhere})
    verdicts = judge_all(evidence, topology(["us", "eu", "ap"], ["fra", "lon", "sin"]))
    for judged in verdicts.values():
        assert judged.health is HEALTHY
        assert judged.models == {"m": UNHEALTHY, "n": HEALTHY}
        assert (
            "m fails golden requests in every region that was asked: its own fault, not this "
            "region's" in judged.because
        )


def test_nor_is_it_where_no_other_model_is_served() -> None:
    everywhere = "\n".join(f"{name} ..... m=..xxx" for name in ("fra", "lon", "sin"))
    evidence = world({"us": everywhere, "eu": everywhere})
    verdicts = judge_all(evidence, topology(["us", "eu"], ["fra", "lon", "sin"]))
    assert {judged.health for judged in verdicts.values()} == {HEALTHY}
    assert all(judged.models == {"m": UNHEALTHY} for judged in verdicts.values())


def test_a_model_that_fails_in_one_region_is_that_regions() -> None:
    wrong = "\n".join(f"{name} ..... m=..xxx" for name in ("fra", "lon", "sin"))
    right = wrong.replace("x", ".")
    evidence = world({"us": wrong, "eu": right})
    verdicts = judge_all(evidence, topology(["us", "eu"], ["fra", "lon", "sin"]))
    assert {region: judged.health for region, judged in verdicts.items()} == {
        "us": UNHEALTHY,
        "eu": HEALTHY,
    }


def test_a_dead_region_does_not_excuse_the_models_of_another() -> None:
    """What is asked of a region that does not answer says nothing of the model."""
    dead = "\n".join(f"{name} xxxxx m=xxxxx" for name in ("fra", "lon", "sin"))
    wrong = "\n".join(f"{name} ..... m=xxxxx" for name in ("fra", "lon", "sin"))
    evidence = world({"us": wrong, "eu": dead})
    verdicts = judge_all(evidence, topology(["us", "eu"], ["fra", "lon", "sin"]))
    assert verdicts["us"].health is UNHEALTHY
    assert verdicts["eu"].health is UNHEALTHY


def test_a_model_on_which_few_have_spoken_is_suspect() -> None:
    picture = """
        fra     .....   m=xxx  n=.
        lon     .....   n=.
        sin     .....   n=x
    """
    judged = judge(REGION, seen(picture), traffic_of(rows(picture)))
    assert judged.models == {"m": SUSPECT, "n": HEALTHY}
    assert judged.health is HEALTHY


# --- what a record may be like ------------------------------------------------------------------


@pytest.mark.parametrize(("days", "words"), [(30, None), (6, "in 6 days"), (0.25, "in 6 h")])
def test_a_certificate_that_expires_soon_is_told_of(days: float, words: str | None) -> None:
    judged = judge(REGION, expiring(seen(WELL), "lon", days), traffic_of(rows(WELL)))
    assert judged.health is HEALTHY
    told = [line for line in judged.because if "expires" in line]
    assert told == ([f"its certificate expires {words}"] if words else [])


def test_a_front_door_that_opens_is_not_spoken_of() -> None:
    picture = """
        fra     ........   front=........
        lon     ........   front=xxxxxxxx
        sin     ........   front=.....x..
    """
    judged = judge(REGION, seen(picture), traffic_of(rows(picture)))
    assert judged.because == ("3 of 3 domains see it up",)


def test_a_record_under_anothers_name_counts_for_nothing() -> None:
    """Somebody copied a vantage's machine, and its settings."""
    evidence = seen(WELL)
    copied = replace(evidence, vantages={**evidence.vantages, "sin": evidence.vantages["fra"]})
    judged = judge(REGION, copied, traffic_of(rows(WELL)))
    assert "sin does not vote: its record is signed by fra" in judged.because


def test_a_vantage_that_nobody_declared_has_no_vote() -> None:
    evidence = seen(DEAD)
    judged = judge(REGION, evidence, traffic_of(rows("fra _\nlon _")))
    assert judged.health is SUSPECT
    assert "sin does not vote: the topology declares no such vantage" in judged.because


def test_a_probe_that_stopped_while_others_went_on() -> None:
    old = Row("fra", rounds="xxx")
    told = record(old)
    (series,) = told.series
    late = series.model_copy(
        update={
            "samples": tuple(
                sample.model_copy(update={"seconds_ago": sample.seconds_ago + 120})
                for sample in series.samples
            )
        }
    )
    evidence = Evidence({"fra": Sighting(told.model_copy(update={"series": (late,)}), 3.0)})
    judged = judge(REGION, evidence, traffic_of([old]))
    assert judged.health is UNKNOWN
    assert "fra does not vote: its last probe is 123 s old" in judged.because


def test_a_clock_that_jumps_while_it_probes_makes_nothing_older() -> None:
    """The vantage's clock went an hour ahead between two samples: its own ages are nonsense. It
    still votes, by the order of what it saw; how long, the others say."""
    evidence = seen(DEAD)
    held = evidence.vantages["fra"]
    assert isinstance(held.record, VantageRecord)
    (series,) = held.record.series
    jumped = series.model_copy(
        update={
            "samples": tuple(
                sample
                if sample.ok
                else sample.model_copy(update={"seconds_ago": sample.seconds_ago + 3600})
                for sample in series.samples[:-1]
            )
            + series.samples[-1:]
        }
    )
    told = replace(held, record=held.record.model_copy(update={"series": (jumped,)}))
    judged = judge(
        REGION,
        replace(evidence, vantages={**evidence.vantages, "fra": told}),
        traffic_of(rows(DEAD)),
    )
    assert judged.health is UNHEALTHY
    assert judged.sick_seconds == 23


def test_the_wall_clock_of_a_record_means_nothing() -> None:
    evidence = seen(DEAD)
    traffic = traffic_of(rows(DEAD))
    expected = judge(REGION, evidence, traffic)
    for hours in (-1, 1, 24 * 365):
        shifted = {
            name: replace(
                held,
                record=held.record.model_copy(
                    update={"at": held.record.at + timedelta(hours=hours)}
                ),
            )
            for name, held in evidence.vantages.items()
            if isinstance(held.record, VantageRecord)
        }
        assert judge(REGION, replace(evidence, vantages=shifted), traffic) == expected


def test_no_vantages_at_all() -> None:
    judged = judge(REGION, Evidence(), traffic_of([]))
    assert judged.health is UNKNOWN
    assert judged.because == ("no vantage outside it is declared: nobody may vote",)
    assert judged.would_change == (
        (
            "never unhealthy: 0 domains can vote on it, 3 are needed; declare more under "
            "traffic.vantages"
        ),
    )


def test_an_unreadable_prometheus_is_named() -> None:
    evidence = replace(seen(WELL), outside={REGION: Unknown("http://prometheus: 503")})
    judged = judge(REGION, evidence, traffic_of(rows(WELL)))
    assert judged.health is HEALTHY
    assert "Prometheus could not be read: http://prometheus: 503" in judged.because
    assert outside("unknown") == evidence.outside


# --- what is said -------------------------------------------------------------------------------


def test_a_sick_region_as_it_is_read_at_night() -> None:
    picture = """
        hetzner-fra   .....xxx
        aws-euw2      .....xxx
        gcp-ew4       .....rrr
        do-sgp        ........
        us            ........
    """
    judged = judge(REGION, seen(picture, "empty"), traffic_of(rows(picture)))
    assert judged.health is SUSPECT
    assert judged.because == (
        "3 of 4 domains get no answer: aws-euw2, hetzner-fra (timeout); gcp-ew4 (refused)",
        "Prometheus has no sample of it",
        "while callers say nothing, every domain that votes would have to agree",
        "do-sgp sees it up",
        "us stands in it and does not vote",
    )
    assert judged.would_change == (
        "unhealthy if do-sgp saw it down",
        "unhealthy if Prometheus saw fewer than 99 % of requests succeed",
        "healthy if aws-euw2 and gcp-ew4 saw it up and quick",
    )


def test_a_well_region_says_what_it_would_take() -> None:
    judged = judge(REGION, seen(WELL, "99.9% 120/s"), traffic_of(rows(WELL)))
    assert judged.would_change == (
        "suspect if fra and lon saw it down",
        "suspect if Prometheus saw fewer than 99 % of requests succeed",
        (
            "unhealthy if fra and lon saw it down, and Prometheus saw fewer than 99 % of requests "
            "succeed"
        ),
        "unknown if fra and lon fell silent",
    )
