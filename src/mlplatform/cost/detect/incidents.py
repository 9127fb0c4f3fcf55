"""From alarms in a tree of series to incidents that somebody is told of. Pure.

The tree is total → provider → region → service → model or team: a node's series is the sum of its
leaves, and every node is scored. What rises in one leaf and falls in another leaves no trace in
their sum, but it does in the leaf. What is seen in a node and in what it is part of is one
incident, named after the deepest node that carries it; days that follow each other are one
incident too.

An alarm budget is kept over all series: of the alarms told of one step, no more than a share is
expected to be false (Newton, Noueiry, Sarkar and Ahlquist, "Detecting differential gene expression
with a semiparametric hierarchical mixture method", 2004: the mean chance of being nothing, over
those told). What is over the budget is held back, not lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.alarms import Alarms
from mlplatform.cost.detect.baseline import Flags, Numbers
from mlplatform.cost.detect.scoring import Codes, Scores, Told

Path = tuple[str, ...]

FALSE_SHARE = 0.1
"""Of what is told, so much may be nothing."""
_GAP_STEPS = 3
"""An episode goes on over so many steps without an alarm."""
_CARRIES = 0.8
"""A part that has so much of the excess is what the incident is about."""
_OFFSETS = 0.5
"""Siblings that fell by so much of what a node rose by hide it in the sum."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes, the total first, each after what it is part of; and their series."""

    paths: Sequence[Path]
    parents: Sequence[int]
    """The place of what a node is part of; -1 for the total."""
    values: Numbers


@dataclass(frozen=True, slots=True)
class Word:
    """What somebody said: of a node and all below it, from one step to another, that one included.
    A planned change is the same, said beforehand."""

    path: Path
    since: int
    until: int
    told: Told


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that somebody should look at, once."""

    path: Path
    """The deepest node that carries it."""
    since: int
    until: int
    """The last step of its last alarm."""
    excess: float
    """What the node cost beyond what was expected, over those steps."""
    score: float
    """The highest of its steps."""
    members: tuple[Path, ...]
    """All nodes in which it was seen."""
    masked_by: tuple[Path, ...] = ()
    """Siblings that fell meanwhile, so that the sum shows nothing."""
    held_back: bool = False
    """Over the alarm budget."""
    told: Told = Told.NOTHING


def tree_of(leaves: Mapping[Path, Numbers]) -> Tree:
    """Add leaves up. Where a leaf is unknown, so are the sums that it is part of."""
    members: dict[Path, list[Path]] = {}
    for leaf in leaves:
        for depth in range(len(leaf) + 1):
            members.setdefault(leaf[:depth], []).append(leaf)
    paths = sorted(members, key=lambda path: (len(path), path))
    place = {path: i for i, path in enumerate(paths)}
    values = np.stack([np.sum([leaves[leaf] for leaf in members[path]], axis=0) for path in paths])
    return Tree(paths, [place[path[:-1]] if path else -1 for path in paths], values)


def told_of(tree: Tree, words: Iterable[Word]) -> Codes:
    """What was said, for every node and step. It holds for what the node is part of as well, whose
    sum shows the same change; whatever else happens there is seen in its own leaves."""
    told = np.zeros(tree.values.shape, np.int8)
    for word in words:
        for node, path in enumerate(tree.paths):
            short = min(len(path), len(word.path))
            if path[:short] == word.path[:short]:
                told[node, word.since : word.until + 1] = word.told
    return told


def within_budget(alarm: Flags, scores: Scores, false_share: float = FALSE_SHARE) -> Flags:
    """Which alarms are told, step by step: the surest first, as long as the mean chance of being
    nothing stays within the share."""
    with np.errstate(invalid="ignore"):  # of what is unknown there is no evidence
        nothing = np.where(alarm, np.exp(-np.logaddexp(0.0, scores.evidence)), np.inf)
    order = np.argsort(nothing, axis=0, kind="stable")
    ranked = np.take_along_axis(nothing, order, axis=0)
    mean = np.cumsum(ranked, axis=0) / np.arange(1, len(ranked) + 1)[:, None]
    told = np.zeros_like(alarm)
    np.put_along_axis(told, order, mean <= false_share, axis=0)
    return told & alarm


def incidents_of(
    tree: Tree,
    scores: Scores,
    alarms: Alarms,
    *,
    words: Iterable[Word] = (),
    false_share: float = FALSE_SHARE,
) -> list[Incident]:
    """Gather alarms into incidents, the largest excess first."""
    budget = within_budget(alarms.alarm, scores, false_share)
    told_steps = budget | alarms.by_own_test
    said = list(words)
    episodes = [
        _Episode(node, since, until)
        for node in range(len(tree.paths))
        for since, until in _episodes(alarms.alarm[node])
    ]
    excess = np.nan_to_num(tree.values - scores.expected)
    found = [
        _incident(tree, scores, excess, told_steps, group, said)
        for group in _grouped(tree, episodes)
    ]
    return sorted(found, key=lambda incident: (-incident.excess, incident.path, incident.since))


@dataclass(frozen=True, slots=True)
class _Episode:
    node: int
    since: int
    until: int


def _episodes(alarm: Flags) -> list[tuple[int, int]]:
    steps = np.flatnonzero(alarm)
    if not len(steps):
        return []
    cuts = np.flatnonzero(np.diff(steps) > _GAP_STEPS) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(steps, cuts)]


def _grouped(tree: Tree, episodes: Sequence[_Episode]) -> list[list[_Episode]]:
    """Episodes that overlap, of nodes that are part of each other, together."""
    by_node: dict[int, list[int]] = {}
    for place, episode in enumerate(episodes):
        by_node.setdefault(episode.node, []).append(place)
    root = list(range(len(episodes)))

    def top(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    for place, episode in enumerate(episodes):
        above = tree.parents[episode.node]
        while above >= 0:
            for other in by_node.get(above, ()):
                apart = max(episode.since, episodes[other].since) - min(
                    episode.until, episodes[other].until
                )
                if apart <= _GAP_STEPS:
                    root[top(place)] = top(other)
            above = tree.parents[above]
    groups: dict[int, list[_Episode]] = {}
    for place, episode in enumerate(episodes):
        groups.setdefault(top(place), []).append(episode)
    return list(groups.values())


def _incident(
    tree: Tree,
    scores: Scores,
    excess: Numbers,
    told_steps: Flags,
    group: Sequence[_Episode],
    words: Sequence[Word],
) -> Incident:
    since = min(episode.since for episode in group)
    until = max(episode.until for episode in group)
    nodes = sorted({episode.node for episode in group})
    over = excess[:, since : until + 1].sum(1)
    head = min(nodes, key=lambda node: (len(tree.paths[node]), -over[node]))
    while True:
        parts = [node for node in nodes if tree.parents[node] == head]
        below = [node for node in parts if over[node] >= _CARRIES * over[head]]
        if not below:
            break
        head = max(below, key=lambda node: over[node])
    path = tree.paths[head]
    said = [
        word.told
        for word in words
        if word.since <= until and word.until >= since and _related(word.path, path)
    ]
    return Incident(
        path=path,
        since=since,
        until=until,
        excess=float(over[head]),
        score=float(np.max(scores.score[nodes, since : until + 1])),
        members=tuple(tree.paths[node] for node in nodes),
        masked_by=_masks(tree, over, nodes),
        held_back=not any(
            told_steps[episode.node, episode.since : episode.until + 1].any() for episode in group
        ),
        told=said[-1] if said else Told.NOTHING,
    )


def _related(one: Path, other: Path) -> bool:
    short = min(len(one), len(other))
    return one[:short] == other[:short]


def _masks(tree: Tree, over: npt.NDArray[np.float64], nodes: Sequence[int]) -> tuple[Path, ...]:
    """Siblings of the topmost node that fell, where they make up for most of it."""
    highest = min(nodes, key=lambda node: len(tree.paths[node]))
    above = tree.parents[highest]
    if above < 0:
        return ()
    fell = [
        node
        for node, parent in enumerate(tree.parents)
        if parent == above and node not in nodes and over[node] < 0
    ]
    lost = -sum(over[node] for node in fell)
    if lost < _OFFSETS * over[highest]:
        return ()
    fell.sort(key=lambda node: over[node])
    return tuple(tree.paths[node] for node in fell if -over[node] >= 0.1 * lost)
