"""From an error to an exit code and a text: the one place, for the commands and for the
`python -m` shells.

    error: s3://ml-models-eu-west-1/models/x: Access Denied (s3:PutObject)
    hint: …

With `--output json` the error is an object on stderr: code, message, hint, region, object,
retryable. A traceback is printed only with `--debug`.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mlplatform.core.errors import Interrupted, MlplatformError, StoreError, TopologyError

if TYPE_CHECKING:
    from mlplatform.cli.console import Console

EXIT_CODES = {
    0: "done, or nothing to do",
    1: "internal error",
    2: "usage or configuration",
    3: "a check found something (unhealthy, mismatch, anomaly)",
    4: "no permission",
    5: "incomplete: some region could not be read",
    6: "timed out",
    7: "stale plan or lost lease",
    8: "partly applied",
    130: "interrupted",
}
"""Never renumbered: scripts and runbooks branch on them."""

UNREADABLE_HINT = "`mlplatform validate` names each store's error, or the right that is missing"
"""What to try where a region could not be read."""

_RANK = (130, 1, 2, 7, 4, 6, 8, 3, 5, 0)

_SYSTEM = {
    errno.ENOENT: 2,
    errno.ENOTDIR: 2,
    errno.EISDIR: 2,
    errno.EEXIST: 2,
    errno.EACCES: 4,
    errno.EPERM: 4,
    errno.EROFS: 4,
    errno.ETIMEDOUT: 6,
}
"""The operating system's refusals of files that were named on the command line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is told of an error."""

    code: str
    """The error's class: stable, for machines."""
    message: str
    hint: str | None = None
    region: str | None = None
    object: str | None = None
    """What it is about: a store and key, or a file."""
    retryable: bool = False
    exit_code: int = 1


def outranking(codes: Iterable[int]) -> int:
    """The one exit code for many results: what is wrong outranks what could not be read."""
    return min(codes, key=_RANK.index, default=0)


def fault_of(error: BaseException) -> Fault:
    """What is told of `error`, whatever it is."""
    if isinstance(error, MlplatformError):
        about = None
        if isinstance(error, StoreError):
            about = error.where or None
        return Fault(
            code=type(error).__name__,
            message=str(error),
            hint=error.hint,
            region=getattr(error, "region", None),
            object=about,
            retryable=error.retryable,
            exit_code=error.exit_code,
        )
    if isinstance(error, KeyboardInterrupt):
        return Fault(Interrupted.__name__, "interrupted", exit_code=Interrupted.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        name = str(error.filename)
        return Fault(
            code=type(error).__name__,
            message=f"{name}: {error.strerror}",
            object=name,
            exit_code=_SYSTEM.get(error.errno or 0, 1),
        )
    return Fault(
        code="InternalError",
        message=f"internal error: {type(error).__name__}: {error}",
        hint="this is a bug; --debug shows where it happened",
    )


def report(error: BaseException, console: Console, *, as_json: bool, debug: bool) -> int:
    """Tell of `error`, and return the exit code."""
    fault = fault_of(error)
    if debug and not isinstance(error, KeyboardInterrupt):
        for line in "".join(traceback.format_exception(error)).rstrip().splitlines():
            console.say(line, level="debug" if console.json_lines else "info")
    tell(fault, console, as_json=as_json, each_line=isinstance(error, TopologyError))
    return fault.exit_code


def tell(fault: Fault, console: Console, *, as_json: bool, each_line: bool = False) -> None:
    """Print `fault`. `each_line`: every line of its message is an error by itself."""
    told = asdict(fault)
    if as_json:
        console.object({"schema_version": 1, **told})
        return
    if console.json_lines:
        console.say(told.pop("message"), level="error", **told)
        return
    first, *more = fault.message.splitlines() or [""]
    console.say(first, level="error")
    for line in more:
        if each_line:
            console.say(line, level="error")
        else:
            console.say(f"  {line}")
    if fault.hint:
        console.say(fault.hint, level="hint")
