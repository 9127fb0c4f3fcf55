"""YAML whose values remember their lines, so that an error can say where.

Two departures from PyYAML's habits. A key given twice is an error, since the loser would vanish.
Only `true` and `false` are booleans and dates stay text, so that a region may be called `no` and a
version `2026-01-31`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from mlplatform.core.errors import UsageError

Location = tuple[str | int, ...]
"""Keys and list indexes from the top: `("regions", "eu-west-1", "store")`."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong at a place in the file."""

    line: int
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class NotYaml(UsageError):
    """The text is not YAML at all; `problem` says where."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class YamlLines:
    """A parsed document: its `data`, the line of each of its values, and its duplicate keys."""

    def __init__(self, text: str) -> None:
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self.duplicates = tuple(_duplicates(self._root)) if self._root else ()
            self.data: Any = loader.construct_document(self._root) if self._root else None
        except yaml.YAMLError as error:
            raise NotYaml(_not_yaml(error, text)) from error
        except (ValueError, RecursionError) as error:
            raise NotYaml(Problem(1, "", f"not YAML: {error}")) from error

    def line(self, location: Location, *, key: bool = False) -> int:
        """The line, from 1, of the value at `location`, or of its key; for what is missing, of the
        nearest thing around it."""
        node, line = self._root, 1
        for index, step in enumerate(location):
            child = _child(node, step)
            if child is None:
                break
            name_node, node = child
            last = index == len(location) - 1
            line = (name_node if name_node and (key or not last) else node).start_mark.line + 1
        return line

    def text(self, location: Location) -> str | None:
        """The scalar at `location` as it was typed."""
        node = self._root
        for step in location:
            child = _child(node, step)
            if child is None:
                return None
            node = child[1]
        return node.value if isinstance(node, yaml.ScalarNode) else None


class _Loader(yaml.SafeLoader):
    """Safe, and with fewer surprises; see the module."""


_BOOL, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (_BOOL, _DATE)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node | None, yaml.Node] | None:
    """The key's node, if there is one, and the value's."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == str(step):
                return name, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None


def _duplicates(root: yaml.Node) -> Iterator[Problem]:
    """Each key that its mapping has already. Anchored nodes are looked at once."""
    todo: list[tuple[str, yaml.Node]] = [("", root)]
    seen: set[int] = set()
    while todo:
        where, node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += [(f"{where}[{index}]", child) for index, child in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for name, value in node.value:
                key = name.value if isinstance(name, yaml.ScalarNode) else str(name.start_mark.line)
                line, path = name.start_mark.line + 1, f"{where}.{key}".lstrip(".")
                if key in lines:
                    yield Problem(line, path, f"given twice; first in line {lines[key]}")
                lines.setdefault(key, line)
                todo.append((path, value))


def _not_yaml(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.problem, error.context) if part)
        return Problem(mark.line + 1 if mark else 1, "", f"not YAML: {said}")
    if isinstance(error, yaml.reader.ReaderError):
        position = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, position) + 1
        return Problem(line, "", f"not YAML: character {error.character!r} is not allowed")
    return Problem(1, "", f"not YAML: {error}")
