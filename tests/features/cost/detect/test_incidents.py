"""From alarms in a tree to what somebody is told: parents and children, masking, budget, words."""

from __future__ import annotations

import numpy as np

from mlplatform.cost.detect.alarms import Rules, alarms_of
from mlplatform.cost.detect.incidents import (
    Incident,
    Path,
    Tree,
    Word,
    incidents_of,
    told_of,
    tree_of,
    within_budget,
)
from mlplatform.cost.detect.scoring import Told, score

from .pictures import DAYS, Numbers, calendar, usual

EU_GPU, EU_STORE = ("aws", "eu-west-1", "gpu"), ("aws", "eu-west-1", "store")
US_GPU, GCP_GPU = ("aws", "us-east-1", "gpu"), ("gcp", "europe-west4", "gpu")


def leaves() -> dict[Path, Numbers]:
    return {
        EU_GPU: usual(seed=1, level=1000),
        EU_STORE: usual(seed=2, level=300),
        US_GPU: usual(seed=3, level=1000),
        GCP_GPU: usual(seed=4, level=800),
    }


def found(tree: Tree, *words: Word) -> list[Incident]:
    scores = score(tree.values, calendar(), told=told_of(tree, words))
    alarms = alarms_of(tree.values, scores, calendar(), Rules())
    alarms.alarm[:, :14] = False
    return incidents_of(tree, scores, alarms, words=words)


def test_the_tree_adds_up() -> None:
    tree = tree_of(leaves())
    assert tree.paths[0] == ()
    np.testing.assert_allclose(tree.values[0], sum(leaves().values()))
    assert [tree.paths[above] for above in tree.parents[1:]] == [p[:-1] for p in tree.paths[1:]]


def test_an_unknown_leaf_makes_its_sums_unknown() -> None:
    costs = leaves()
    costs[EU_GPU][50] = np.nan
    tree = tree_of(costs)
    unknown = {path for path, row in zip(tree.paths, tree.values, strict=True) if np.isnan(row[50])}
    assert unknown == {(), ("aws",), ("aws", "eu-west-1"), EU_GPU}


def test_nothing_is_no_incident() -> None:
    assert found(tree_of(leaves())) == []


def test_a_leaf_and_all_that_it_is_part_of_are_one_incident() -> None:
    costs = leaves()
    costs[EU_GPU][100:102] *= 3
    [incident] = found(tree_of(costs))
    assert (incident.path, incident.since) == (EU_GPU, 100)
    assert set(incident.members) >= {(), ("aws",), ("aws", "eu-west-1"), EU_GPU}
    assert incident.excess > 1900
    assert not incident.masked_by


def test_what_two_parts_carry_is_named_after_what_they_are_part_of() -> None:
    costs = leaves()
    for leaf in (EU_GPU, US_GPU):
        costs[leaf][100] *= 2
    [incident] = found(tree_of(costs))
    assert incident.path == ("aws",)
    assert {EU_GPU, US_GPU} <= set(incident.members)


def test_a_rise_behind_a_fall_is_found_in_the_leaf() -> None:
    costs = leaves()
    costs[EU_GPU][100] += 700
    costs[US_GPU][100] -= 700
    [incident] = found(tree_of(costs))
    assert incident.path == EU_GPU[:2] or incident.path == EU_GPU
    assert () not in incident.members
    assert incident.masked_by == (US_GPU[:2],)


def test_days_that_follow_each_other_are_one_and_weeks_apart_are_two() -> None:
    costs = leaves()
    costs[EU_GPU][[90, 92, 123]] *= 3
    assert [(each.since, each.until) for each in found(tree_of(costs))] == [(90, 92), (123, 123)]


def test_a_planned_change_is_no_incident_anywhere_above_it() -> None:
    costs = leaves()
    costs[EU_GPU][100:] *= 2
    words = Word(EU_GPU, 100, 102, Told.PLANNED)
    assert found(tree_of(costs)) != []
    planned = [each for each in found(tree_of(costs), words) if each.told is not Told.PLANNED]
    assert planned == []


def test_what_was_said_goes_with_the_incident() -> None:
    costs = leaves()
    costs[EU_GPU][100] *= 3
    [incident] = found(tree_of(costs), Word(EU_GPU, 100, 100, Told.YES))
    assert incident.told is Told.YES


def test_the_budget_tells_the_surest_first() -> None:
    values = np.stack([usual(seed=seed) for seed in range(6)])
    values[:, 100] *= np.array([1.0, 1.12, 1.14, 1.5, 2.0, 1.13])
    scores = score(values, calendar())
    alarm = np.zeros((6, DAYS), bool)
    alarm[:, 100] = True
    told = np.flatnonzero(within_budget(alarm, scores)[:, 100])
    assert {3, 4} <= set(told) < set(range(6))
    assert len(np.flatnonzero(within_budget(alarm, scores, 1.0)[:, 100])) == 6
