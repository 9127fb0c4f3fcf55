"""A program on the frame, with a command for each way in which commands can end. Tests run it as a
process of its own: `python -m tests.cli.sample COMMAND`."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mlplatform.cli import frame, options
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, size
from mlplatform.cli.session import Session
from mlplatform.core import errors

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


@command
def fail(
    session: Session,
    kind: str,
    *,
    message: str = "it went wrong",
    region: str | None = None,
) -> None:
    """End with an error."""
    made: Any
    if kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if kind == "OSError":
        open("/nowhere/at/all").close()
    if kind == "Secret":
        raise errors.Unavailable(f"https://a:{SECRET}@host/?sig={SECRET}: reset", store="s3://b")
    if hasattr(errors, kind):
        cls = getattr(errors, kind)
        if issubclass(cls, errors.StoreError):
            made = cls(message, store="s3://b", key="models/m", hint="look there")
        else:
            made = cls(message, hint="look there")
        if region:
            made.region = region
        raise made
    raise ValueError(f"{message}: password={SECRET}")


@command
def rows(session: Session, count: int = 3, code: int = 0) -> int:
    """Print rows."""
    found = [
        {"region": f"r{number}", "size_bytes": number * 1024**2, "note": "all well"}
        for number in range(count)
    ]
    columns = [Column("region"), Column("size_bytes", "SIZE", size, right=True), Column("note")]
    session.show("rows", found, columns=columns, unreadable={})
    return code


@command
def speak(session: Session) -> None:
    """Say something on every channel."""
    log = logging.getLogger("mlplatform.sample")
    session.say("said")
    session.console.warn("doubtful")
    log.debug("finest")
    log.info("fine", extra={"region": "eu-west-1", "latency_ms": 3})
    log.warning("Authorization: Bearer %s", SECRET)
    logging.getLogger("botocore").info("sdk chatter")
    try:
        raise ValueError(f"password={SECRET}")
    except ValueError:
        log.exception("caught")
    with session.working() as work:
        work.progress.total("eu-west-1", 10)
        work.progress.add("eu-west-1", 10)
        work.progress.note("eu-west-1", "slower than the others")
        work.progress.done("eu-west-1", "stored and verified")
    session.show("rows", [{"a": 1}], columns=[Column("a")])


@command
def work(session: Session, *, deaf: bool = False, seconds: float = 120.0) -> int:
    """Work until told to stop."""
    with session.working() as work:
        work.progress.total("eu-west-1", 1000)
        session.say("working")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            work.progress.add("eu-west-1", 1)
            time.sleep(0.02)
            if work.stop() and not deaf:
                raise errors.Interrupted("m@v1: stopped; what was sent is kept", hint="run again")
    return 0


@command
def wait(session: Session) -> None:
    """Wait, outside any work."""
    session.say("waiting")
    time.sleep(120)


@command
def crew(session: Session, number: int, *, within: bool = False) -> None:
    """Wait for a thread that works, to which the kernel gives a signal; within work, or outside."""
    if not within:
        _wait_for(lambda: False, number)
        return
    with session.working() as work:
        _wait_for(work.stop, number)
        raise errors.Interrupted("m@v1: stopped; what was sent is kept")


def _wait_for(stop: Callable[[], bool], number: int) -> None:
    def toil() -> None:
        time.sleep(0.3)  # until the other waits; one that is not there yet would hear it anyway
        signal.pthread_kill(threading.get_ident(), number)
        while not stop():
            time.sleep(0.01)
        ended.set()

    ended = threading.Event()
    threading.Thread(target=toil, daemon=True).start()
    ended.wait()


@command
def delete(
    session: Session, region: str, *, yes: options.Yes = False, confirm: options.Confirm = None
) -> None:
    """A severe act."""
    session.confirm(f"this deletes everything in {region}", region, yes=yes, given=confirm)
    session.say("deleted")


@command
def odd(session: Session) -> None:
    """Print what no terminal should obey."""
    session.say("key \x1b[2J\x07 and \u202e back")
    session.show("rows", [{"key": "a\x1b[31mb"}], columns=[Column("key")])


@command
def names(
    session: Session,
    *,
    regions: options.Regions = None,
    size_limit: Annotated[int | None, typer.Option(min=1, help="A limit.")] = None,
) -> None:
    """Print the names given."""
    session.show("names", [{"name": name} for name in options.split(regions)], columns=[])


def build() -> Any:
    app = frame.new_app()
    for each in (fail, rows, speak, work, wait, crew, delete, odd, names):
        frame.add(app, each)
    return frame.to_click(app)


if __name__ == "__main__":
    sys.argv[0] = "sample"
    frame.main(build, prog="sample")
