"""A process that dies at a chosen system call: everything from there on does not happen.

`crashes(monkeypatch, act)` runs `act` again and again, dying before the first effect, after it,
before the second, and so on until it survives. Unlike an exception, a death runs no clean-up: the
clean-up's own system calls do nothing either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlplatform.adapters import local

EFFECTS = {
    "fdatasync", "fsync", "ftruncate", "link", "mkdir", "pwrite", "rename", "replace", "rmdir",
    "unlink", "utime", "copy_file_range",
}  # fmt: skip


class Death(BaseException):
    """The process is gone. Not an `Exception`, so that nothing handles it."""


class DyingOs:
    """The module `os`, until the effect number `last`; it happens only if `after`."""

    def __init__(self, last: int, *, after: bool) -> None:
        self.done: list[str] = []
        self._last = last
        self._after = after

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name in EFFECTS:
            return self._counted(name, call)
        if name == "open":
            return self._open
        return call

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            number = len(self.done)
            if number > self._last or (number == self._last and not self._after):
                self.done.append(f"not {name}")
                raise Death
            self.done.append(name)
            result = call(*args, **options)
            if number == self._last:
                raise Death
            return result

        return counted

    def _open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not os.path.lexists(path):
            os.close(self._counted("create", os.open)(path, flags, mode))
            flags &= ~(os.O_CREAT | os.O_EXCL)
        return os.open(path, flags, mode)


def crashes(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[int], Any], act: Callable[[Any], Any]
) -> Iterator[tuple[Any, list[str]]]:
    """For each point of death: a new world from `prepare`, what `act` left of it, and the effects
    that it had. The last one survived."""
    for last in range(1000):
        for after in (False, True):
            world = prepare(2 * last + after)
            dying = DyingOs(last, after=after)
            with monkeypatch.context() as patch:
                patch.setattr(local, "os", dying)
                try:
                    act(world)
                    survived = True
                except Death:
                    survived = False
            yield world, dying.done
            if survived:
                return
    raise AssertionError("a thousand effects, and no end")
