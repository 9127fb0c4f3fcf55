"""Model servers as processes of this machine, `processes:///FOLDER`: for laptops, single hosts and
the demo.

**The folder** belongs on a disk of this machine, and holds what its operator says, `server.toml`::

    command = ["python", "-m", "mlplatform_serving"]  # `python` is the controller's interpreter
    ports = [9100, 9199]        # the first and the last; shared with no other folder
    host = "127.0.0.1"          # where servers listen, and are reached; plain HTTP
    ready_seconds = 120         # how long one may take to be ready
    grace_seconds = 30          # from SIGTERM to SIGKILL
    pass = ["AWS_PROFILE"]      # what else servers get of the controller's environment
    logs = 50                   # log files kept, beside those in use

    [environment]
    MODEL_CACHE_DIR = "/srv/mlplatform/us-east-1/models"
    REGION = "us-east-1"

Each server is told `MODELS=<model>@<version>`, `HOST` and `PORT`, and beside that gets `PATH`,
`HOME`, `LANG` and what the file says, nothing else: the controller's secrets are not theirs. It
runs in the folder, and has to be the command itself: a script ends with `exec`. The file is read
anew each time; what changed in it holds for servers that are started from then on.

**What is there** is in `servers.json`, for people too: pid, port and log of each server, epoch and
writer. What a server says is in `logs/<model>-<version>-<port>.log`, opened for appending, so that
it may be cut short while it runs; we limit how many logs there are, not how long one gets
(`LOG_LEVEL` does).

**A controller that dies** loses no server: they run on, and whoever reads the folder next goes on.
`servers.json` is replaced by compare-and-set under a lock, with epoch and writer in it, so a
deposed writer is refused where the state lies. A server waits at a gate until it is written there,
so none runs that is not. Nobody watches: who has ended is found by the next `read` or `scale`,
which also kills who was told to end and has not after `grace_seconds`. Where the controller that
started a server is gone, nobody sees the server's exit status.

**Ready** is who says so over HTTP and states the version and, where a digest is recorded, that
digest. Ports are given in turn, so that a router which still knows the port of a server that is
gone does not find another version there.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pydantic import ValidationError

from mlplatform.adapters import process_table
from mlplatform.adapters.http_fleet import HttpFleet, open_fleet
from mlplatform.adapters.json_http import JSONService
from mlplatform.adapters.local import LocalStore
from mlplatform.adapters.process_record import (
    End,
    ModelRecord,
    Process,
    Record,
    Settings,
    Told,
    VersionRecord,
    last_words,
    name_of,
    overdue,
    parted,
    ports_from,
    state_of,
    swept,
)
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    IntegrityError,
    NotFound,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.clock import Clock, SystemClock
from mlplatform.ports.servers import ServersFeatures, ServersState
from mlplatform.ports.store import ABSENT, Condition, Matches, Stat, read_bytes

FEATURES = ServersFeatures(exercised="mlplatform_serving on Linux")

_SETTINGS, _RECORD, _LOGS = "server.toml", "servers.json", "logs"
_OPTIONS = frozenset({"timeout_seconds"})
_TIMEOUT_SECONDS = 2.0
"""A server on this machine that is well answers in milliseconds."""
_ALWAYS_PASSED = ("PATH", "HOME", "LANG")
_TRIES = 100
_PAUSE_SECONDS = 0.005
_TAIL_BYTES = 16 * 1024
_EXAMPLE = 'command = ["python", "-m", "mlplatform_serving"] and ports = [9100, 9199]'


def open_servers(url: StoreURL, model: str) -> ProcessServers:
    """`processes:///FOLDER`. Nothing is touched yet.

    Option: `timeout_seconds`, how long a server may take to say whether it is ready.
    """
    url.reject_unknown(_OPTIONS)
    if url.authority not in ("", "localhost") or not url.path.strip("/"):
        raise UsageError(
            f"{url.noun} {url.text!r} names no folder of this machine",
            hint="write an absolute path after three slashes: processes:///srv/us/magika",
        )
    return ProcessServers(
        Path(os.path.normpath(url.path)),
        model,
        timeout_seconds=url.seconds("timeout_seconds", default=_TIMEOUT_SECONDS),
    )


class ProcessServers:
    """One model's servers in one folder; a folder may hold several models'. Any number of
    controllers may use it at once."""

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._folder = folder
        self._model = model
        self._store = LocalStore(folder)
        self._clock = clock or SystemClock()
        self._environ = environ
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"<ProcessServers {self.url}>"

    @property
    def url(self) -> str:
        return f"processes://{self._folder}"

    @property
    def features(self) -> ServersFeatures:
        return FEATURES

    def read(self) -> ServersState:
        settings = self._settings()
        model = self._swept(settings)
        told = self._ask(model)
        if any(not each.answered for each in _answering(model, told)):
            model = self._note_answered(told)
        return state_of(self._model, model, told, settings, self._clock.monotonic())

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        subject = ModelVersion(self._model, version)
        if servers < 0:
            raise UsageError(f"{self.url}: {servers} servers of {subject}: there is no such number")
        settings = self._settings()
        model = self._swept(settings)
        model.check_epoch(epoch, where=self.url)
        told = self._ask(model)
        ready = {each.pid for each in _answering(model, told)}
        start = _Start(self._folder, subject, settings, self._environ, self._clock)
        go: list[Process] = []

        def step(record: Record) -> Record:
            start.abandon()
            model = self._looked_at(record)
            model.check_epoch(epoch, where=self.url)
            group = model.groups.get(version, VersionRecord())
            stay, go[:] = parted([each for each in group.servers if each.stays], servers, ready)
            for each in go:
                process_table.check_ours(each.pid, name_of(subject, each.port))
            new, lacking = start.begin(servers - len(stay), record)
            group = replace(
                group,
                wanted=servers,
                digest=digest or group.digest,
                lacking=lacking,
                servers=(*self._told(group.servers, go), *new),
            )
            changed = model.written(
                version,
                group if group.wanted or group.servers else None,
                epoch=epoch,
                writer=writer,
            )
            if new:
                record = replace(record, port_last=new[-1].port)
            return self._with(record, changed)

        with start:
            if not self._known():
                # Before the first log, whose presence tells a record that was lost from none.
                self._change(self._unmade)
            model = self._change(step)
            start.open()
        for each in go:
            self._signal(each, signal.SIGTERM)
        if start.begun:
            self._drop_old_logs(settings)
        return state_of(self._model, model, told, settings, self._clock.monotonic())

    # --- the record ------------------------------------------------------------------------------

    def _known(self) -> bool:
        return self._load()[1] is not ABSENT

    def _load(self) -> tuple[Record, Condition]:
        where = f"{self.url}/{_RECORD}"
        found = self._found()
        if found is None and (self._folder / _LOGS).exists():
            # The first log comes after the first record: it may have come with it just now.
            found = self._found()
            if found is None:
                raise IntegrityError(
                    f"{where} is gone, and servers were started there, which may still run",
                    hint=f"put it back; or end them, and remove {self._folder / _LOGS}",
                )
        if found is None:
            return Record(), ABSENT
        body, stat = found
        record = Record.parse(body, where=where)
        here = socket.gethostname()
        if record.boot != process_table.boot() and record.host != here and any(record.processes):
            raise Unsupported(
                f"its servers run on {record.host}, and this is {here}",
                store=self.url,
                hint="run the controller there; or, if that machine is no more, remove "
                f"{_RECORD} and {_LOGS}",
            )
        return record, Matches(stat.tag)

    def _found(self) -> tuple[bytes, Stat] | None:
        try:
            return read_bytes(self._store, _RECORD)
        except ContainerMissing:
            raise
        except NotFound:
            return None

    def _change(self, step: Callable[[Record], Record]) -> ModelRecord:
        """Let `step` change what is there, as often as somebody else was quicker; our model."""
        for _ in range(_TRIES):
            record, when = self._load()
            changed = step(record)
            if changed == record:
                break
            changed = replace(changed, host=socket.gethostname(), boot=process_table.boot())
            try:
                self._store.put(_RECORD, changed.body, when=when)
            except ConditionFailed:
                time.sleep(_PAUSE_SECONDS)
                continue
            break
        else:
            raise Unavailable("others write there without a pause", store=self.url, key=_RECORD)
        return changed.models.get(self._model, ModelRecord())

    def _unmade(self, record: Record) -> Record:
        return replace(record, host=socket.gethostname())

    def _with(self, record: Record, model: ModelRecord) -> Record:
        if model == record.models.get(self._model, ModelRecord()):
            return record
        return replace(record, models={**record.models, self._model: model})

    def _told(self, servers: Sequence[Process], go: Collection[Process]) -> Iterator[Process]:
        """Those that were there, without those that have ended."""
        now = self._clock.monotonic()
        for each in servers:
            if not each.ended:
                yield replace(each, told_seconds=now) if each in go else each

    # --- the processes ---------------------------------------------------------------------------

    def _swept(self, settings: Settings) -> ModelRecord:
        """Our model, once it is written down who has ended; who ought to have is killed."""
        model = self._change(lambda record: self._with(record, self._looked_at(record)))
        for each in overdue(model, self._clock.monotonic(), settings.grace_seconds):
            self._signal(each, signal.SIGKILL)
        return model

    def _looked_at(self, record: Record) -> ModelRecord:
        model = record.models.get(self._model, ModelRecord())
        ends = {}
        for group in model.groups.values():
            for each in group.servers:
                if each.ended:
                    continue
                ended = process_table.ended(each.pid, each.began)
                if ended is not None:
                    tail = _tail(self._folder / each.log, each.log_begins)
                    never = process_table.never_began(each.pid, tail)
                    ends[each.pid] = End(ended.status, last_words(tail), never)
        return swept(model, ends)

    def _signal(self, process: Process, number: signal.Signals) -> None:
        process_table.tell(process.pid, process.began, number, process.log)

    def _drop_old_logs(self, settings: Settings) -> None:
        """All but the newest, and those of servers that are on record."""
        used = {each.log for each in self._load()[0].processes}
        with suppress(OSError):  # whoever starts the next one tries again
            old = sorted(
                (path for path in (self._folder / _LOGS).glob("*.log")
                 if f"{_LOGS}/{path.name}" not in used),
                key=lambda path: path.stat().st_mtime,
            )  # fmt: skip
            for path in old[: -settings.logs]:
                path.unlink(missing_ok=True)

    # --- what servers say ------------------------------------------------------------------------

    def _ask(self, model: ModelRecord) -> dict[int, Told]:
        """Every server that is to stay, side by side; by pid."""
        asked = [
            (each, version)
            for version, group in model.groups.items()
            for each in group.servers
            if each.stays
        ]
        if not asked:
            return {}
        with ThreadPoolExecutor(len(asked), "mlplatform-asks") as pool:
            found = pool.map(lambda pair: self._asked(*pair), asked)
            return {each.pid: told for (each, _), told in zip(asked, found, strict=True)}

    def _asked(self, process: Process, version: str) -> Told:
        door = f"http://{process.address}"
        fleet = _fleet(door, self._timeout_seconds)
        try:
            told = self._served(fleet)
        except Unavailable as error:
            return Told(reason=error.message)
        if told.versions:
            return told
        service = JSONService(door, timeout_seconds=self._timeout_seconds, context=_context())
        started, reason = False, told.reason
        with suppress(StoreError):
            service.ask("GET", "/health/startup")
            # It may have become ready since it was asked.
            started, told = True, self._served(fleet)
            reason = told.reason
        with suppress(StoreError):
            reason = _reason(service, self._model, version) or reason
        return replace(told, started=started, reason=reason)

    def _served(self, fleet: HttpFleet) -> Told:
        """`Unavailable` where nobody answers."""
        try:
            served = fleet.served(frozenset({self._model}))[self._model]
        except Unavailable:
            raise
        except StoreError as error:
            return Told(reason=error.message)
        if isinstance(served, Unknown):
            return Told(reason=str(served))
        return Told(served.versions, reason="" if served.versions else "it says that it is not")

    def _note_answered(self, told: Mapping[int, Told]) -> ModelRecord:
        """Write down who was ready for the first time."""

        def step(record: Record) -> Record:
            model = record.models.get(self._model, ModelRecord())
            ready = {each.pid for each in _answering(model, told)}
            groups = {
                version: replace(
                    group,
                    servers=tuple(
                        replace(each, answered=each.answered or each.pid in ready)
                        for each in group.servers
                    ),
                )
                for version, group in model.groups.items()
            }
            return self._with(record, replace(model, groups=groups))

        return self._change(step)

    # --- what the operator says ------------------------------------------------------------------

    def _settings(self) -> Settings:
        """`server.toml`. `ContainerMissing` without the folder, `NotFound` without the file,
        `UsageError` where it cannot be."""
        path = self._folder / _SETTINGS
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError as error:
            missing = NotFound if self._folder.is_dir() else ContainerMissing
            what = f"no {_SETTINGS}" if self._folder.is_dir() else "no such folder"
            raise missing(
                f"there is {what}", store=self.url, hint=f"write {path}, with {_EXAMPLE}"
            ) from error
        except PermissionError as error:
            raise Denied(f"no right to read {path}", right="read", store=self.url) from error
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{path} cannot be read: {error}", store=self.url) from error
        try:
            return Settings.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: {error}") from error
        except ValidationError as error:
            problems = [
                ": ".join(part for part in (".".join(map(str, each["loc"])), each["msg"]) if part)
                for each in error.errors()
            ]
            raise UsageError(
                "\n".join(f"{path}: {problem}" for problem in problems),
                hint=f"it takes {', '.join(_keys())}",
            ) from error


def _keys() -> list[str]:
    return [each.alias or name for name, each in Settings.model_fields.items()]


class _Start:
    """Servers on their way: at their gates until `open`, and gone if that does not come."""

    def __init__(
        self,
        folder: Path,
        subject: ModelVersion,
        settings: Settings,
        environ: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._subject = subject
        self._settings = settings
        self._environ = environ
        self._clock = clock
        self._gated: list[process_table.Gated] = []
        self.begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def begin(self, count: int, record: Record) -> tuple[list[Process], str]:
        """So many at their gates, and why they are fewer, if they are."""
        if count <= 0:
            return [], ""
        environment = self._environment()
        argv = self._argv(environment)
        taken = {each.port for each in record.processes}
        new: list[Process] = []
        for port in ports_from(self._settings, record.port_last, taken):
            if len(new) == count:
                return new, ""
            if _is_free(self._settings.host, port):
                new.append(self._gate(argv, environment, port))
        first, last = self._settings.ports
        return new, "" if len(new) == count else f"no port of {first} to {last} is free"

    def _gate(self, argv: Sequence[str], environment: Mapping[str, str], port: int) -> Process:
        log = f"{_LOGS}/{name_of(self._subject, port)}.log"
        own = {"MODELS": str(self._subject), "HOST": self._settings.host, "PORT": str(port)}
        with _appended(self._folder / log) as file:
            begins = file.tell()
            gated = process_table.Gated(
                argv, environment={**environment, **own}, folder=self._folder, log=file
            )
        self._gated.append(gated)
        return Process(
            self._settings.host,
            port,
            gated.pid,
            gated.began,
            started=self._clock.now().isoformat(timespec="seconds"),
            started_seconds=self._clock.monotonic(),
            log=log,
            log_begins=begins,
        )

    def open(self) -> None:
        """They are on record: let them run."""
        self.begun = bool(self._gated)
        for each in self._gated:
            each.open()
        self._gated = []

    def abandon(self) -> None:
        """They are not, and end."""
        for each in self._gated:
            each.abandon()
        self._gated = []

    def _environment(self) -> dict[str, str]:
        path = self._folder / _SETTINGS
        missing = [name for name in self._settings.passed if name not in self._environ]
        if missing:
            raise UsageError(
                f"{path}: pass: {', '.join(missing)}: not set where the controller runs",
                hint="set it there, or take it out of `pass`",
            )
        passed = (*_ALWAYS_PASSED, *self._settings.passed)
        kept = {name: self._environ[name] for name in passed if name in self._environ}
        return {**kept, **self._settings.environment}

    def _argv(self, environment: Mapping[str, str]) -> list[str]:
        program, *rest = self._settings.command
        if program == "python":
            return [sys.executable, *rest]
        at = str(self._folder / program) if "/" in program else program
        found = shutil.which(at, path=environment.get("PATH", os.defpath))
        if found is None:
            raise UsageError(
                f"{self._folder / _SETTINGS}: command: {program} is no program here",
                hint="give its absolute path, or one from the folder that the file is in",
            )
        return [found, *rest]


def _answering(model: ModelRecord, told: Mapping[int, Told]) -> list[Process]:
    """Who is ready, with the right bytes."""
    return [
        each
        for version, group in model.groups.items()
        for each in group.servers
        if each.stays
        and each.pid in told
        and version in told[each.pid].versions
        and group.digest in ("", told[each.pid].versions[version])
    ]


@contextmanager
def _appended(path: Path) -> Iterator[BinaryIO]:
    """A log, made if need be."""
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("ab", buffering=0)
    except PermissionError as error:
        raise Denied(f"no right to write {path}", right="put") from error
    except OSError as error:
        raise StoreFull(f"{path} cannot be written: {error.strerror}") from error
    with file:
        yield file


def _tail(path: Path, begins: int) -> str:
    """The end of what a server said; empty where nobody has it any more."""
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            # One that was cut short since holds nothing but what this server said.
            begins = begins if begins <= size_bytes else 0
            file.seek(max(begins, size_bytes - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _is_free(host: str, port: int) -> bool:
    """Whether a server could listen there. `UsageError` where no server could on any port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            # As servers do: connections of one that has ended do not keep its port.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
            tried.listen(1)
    except socket.gaierror as error:
        raise UsageError(f"{_SETTINGS}: host: {host} is no address: {error.strerror}") from error
    except OSError:
        return False
    return True


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _fleet(door: str, timeout_seconds: float) -> HttpFleet:
    return open_fleet(door, timeout_seconds=timeout_seconds)


def _reason(service: JSONService, model: str, version: str) -> str:
    """What the index says of a version that is not ready."""
    entries = service.json("GET", "/v2/repository/index")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and (entry.get("name"), entry.get("version")) == (
            model,
            version,
        ):
            return str(entry.get("reason") or "")
    return ""
