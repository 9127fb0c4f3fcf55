"""What `server.toml` and `servers.json` say, and what is judged from them: no process is touched
here."""

from __future__ import annotations

import json
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mlplatform.core.errors import Fenced, IntegrityError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.section import Section
from mlplatform.ports.servers import Ailing, Group, ServersState, Stuck

OURS = ("MODELS", "HOST", "PORT")
"""What each server is told by us."""
_SAID_CHARACTERS = 300


def _as_variable(value: object) -> object:
    """TOML knows numbers and booleans, an environment knows text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


_Port = Annotated[StrictInt, Field(ge=1, le=65535)]
_Seconds = Annotated[float, Field(gt=0, lt=86_400)]


class Settings(Section):
    """`server.toml`."""

    command: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    """Program and arguments. `python` is the interpreter of whoever starts it."""
    ports: tuple[_Port, _Port]
    """The first and the last that may be used."""
    host: Annotated[StrictStr, Field(min_length=1)] = "127.0.0.1"
    """The address that servers listen on, and are reached by."""
    environment: Mapping[str, Annotated[StrictStr, BeforeValidator(_as_variable)]] = Field(
        default_factory=dict
    )
    passed: tuple[StrictStr, ...] = Field(default=(), alias="pass")
    """Variables of the controller's own environment that servers get too."""
    ready_seconds: _Seconds = 120.0
    """How long a server may need to be ready."""
    grace_seconds: _Seconds = 30.0
    """From SIGTERM to SIGKILL. The model server needs 25 s at most, unless it is told otherwise."""
    logs: Annotated[StrictInt, Field(ge=1)] = 50
    """How many log files are kept, beside those of servers that are there."""

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        first, last = self.ports
        if first > last:
            raise PydanticCustomError("ports", "ports: {said} ends before it begins", _said(self))
        if self.host in ("0.0.0.0", "::"):  # noqa: S104 - it is refused
            raise PydanticCustomError(
                "host", "host: {host} is every address; give one by which servers are reached",
                {"host": self.host},
            )  # fmt: skip
        for name in OURS:
            if name in self.environment or name in self.passed:
                raise PydanticCustomError(
                    "ours", "{name} is set for each server, and not here", {"name": name}
                )
        return self


def _said(settings: Settings) -> dict[str, str]:
    return {"said": str(list(settings.ports))}


@dataclass(frozen=True, slots=True)
class Process:
    """One server."""

    host: str
    port: int
    pid: int
    began: str
    """With the pid, which process it is; see `process_table`."""
    started: str
    """For people."""
    started_seconds: float
    """On the clock that all processes of this machine share, until it is started anew."""
    log: str
    log_begins: int = 0
    """Where in it this server's words begin."""
    answered: bool = False
    """Whether it has ever been ready."""
    told_seconds: float | None = None
    """When it was told to end."""
    ended: str = ""
    """It ended by itself, and how."""

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def stays(self) -> bool:
        """It runs, and is to go on."""
        return self.told_seconds is None and not self.ended


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """The servers of a version."""

    wanted: int = 0
    digest: str = ""
    crashes: int = 0
    lacking: str = ""
    """Why fewer were started than were wanted."""
    servers: tuple[Process, ...] = ()
    """In the order in which they were started."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The servers of a model."""

    epoch: int = 0
    writer: str = ""
    groups: Mapping[str, VersionRecord] = field(default_factory=dict)

    def check_epoch(self, epoch: int, *, where: str) -> None:
        """`Fenced` if it was written under a higher one."""
        if self.epoch > epoch:
            raise Fenced(
                f"{where} was written under epoch {self.epoch}"
                f"{f' by {self.writer}' if self.writer else ''}, ours is {epoch}",
                hint="another controller has taken over; `mlplatform rollout status` shows it",
            )

    def written(
        self, version: str, group: VersionRecord | None, *, epoch: int, writer: str
    ) -> ModelRecord:
        """With that group, or without it, under an epoch that is no lower."""
        groups = dict(self.groups)
        if group is None:
            groups.pop(version, None)
        else:
            groups[version] = group
        if groups == self.groups and epoch == self.epoch:
            return self
        return ModelRecord(epoch, writer, groups)


@dataclass(frozen=True, slots=True)
class Record:
    """`servers.json`."""

    schema_version: Literal[1] = 1
    host: str = ""
    boot: str = ""
    """On which machine they run, and since which of its starts."""
    port_last: int = 0
    """The last that was given to a server."""
    models: Mapping[str, ModelRecord] = field(default_factory=dict)

    @property
    def processes(self) -> Iterator[Process]:
        """Every server, whatever has become of it."""
        for model in self.models.values():
            for group in model.groups.values():
                yield from group.servers

    @property
    def body(self) -> bytes:
        return _FORM.dump_json(self, indent=2) + b"\n"

    @classmethod
    def parse(cls, body: bytes, *, where: str) -> Record:
        """`IntegrityError` if it is none: never an empty one."""
        try:
            return _FORM.validate_json(body, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise IntegrityError(
                f"{where} is no record of servers: {at}{at and ': '}{first['msg']}",
                hint="mend it; or end the servers that run there, and remove it with `logs`",
            ) from error


_FORM: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class End:
    """How a process came to its end."""

    status: int | None
    said: str
    """Its last words."""
    never_began: bool = False
    """Whoever started it died before it was let loose: it is nobody's crash."""

    def __str__(self) -> str:
        if self.status is None:
            how = "ended, and nobody was there to see its exit status"
        elif self.status < 0:
            how = f"ended by {_signal(-self.status)}"
            if self.status == -signal.SIGKILL:
                how += ": by hand, or by the system for want of memory"
        else:
            how = f"ended with exit status {self.status}"
        return f"{how}; it said: {self.said}" if self.said else f"{how}, without a word"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def swept(model: ModelRecord, ends: Mapping[int, End]) -> ModelRecord:
    """What is left of it when those have ended; by pid. Who had been told to end is gone, who had
    not has crashed."""
    groups: dict[str, VersionRecord] = {}
    for version, group in model.groups.items():
        servers, crashes = [], group.crashes
        for each in group.servers:
            end = None if each.ended else ends.get(each.pid)
            if end is None:
                servers.append(each)
            elif each.told_seconds is None and not end.never_began:
                servers.append(replace(each, ended=str(end)))
                crashes += 1
        if group.wanted or servers:
            groups[version] = replace(group, servers=tuple(servers), crashes=crashes)
    return replace(model, groups=groups)


def overdue(model: ModelRecord, now_seconds: float, grace_seconds: float) -> list[Process]:
    """Who was told to end and has had the time for it."""
    return [
        each
        for group in model.groups.values()
        for each in group.servers
        if each.told_seconds is not None and now_seconds - each.told_seconds >= grace_seconds
    ]


def parted(
    servers: Sequence[Process], count: int, ready: Collection[int]
) -> tuple[list[Process], list[Process]]:
    """Of those that run, the `count` that stay and those that go, who goes first coming first.
    `ready` are pids: who does not answer goes before who does, and among equals the last that was
    started."""
    order = sorted(servers, key=lambda each: each.pid not in ready)
    return order[:count], order[count:][::-1]


def ports_from(settings: Settings, last: int, taken: Collection[int]) -> Iterator[int]:
    """Those that may be tried, beginning after the last that was given: a router that still knows
    the port of a server that is gone must not find one of another version there."""
    first, end = settings.ports
    begin = last + 1 if first <= last < end else first
    for port in (*range(begin, end + 1), *range(first, begin)):
        if port not in taken:
            yield port


@dataclass(frozen=True, slots=True)
class Told:
    """What a server answered when it was asked."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Digest by version of the model that it has ready, if it is ready at all."""
    started: bool = False
    """It says that its start is over."""
    reason: str = ""
    """Why nothing is ready there, in its words, or why it was not heard."""


def state_of(
    subject_model: str,
    model: ModelRecord,
    told: Mapping[int, Told],
    settings: Settings,
    now_seconds: float,
) -> ServersState:
    """A model's servers, as the port has them; `told` by pid. Who was not asked is starting."""
    groups: dict[str, Group] = {}
    for version, group in model.groups.items():
        subject = ModelVersion(subject_model, version)
        ready, ailing = [], []
        for each in group.servers:
            if each.told_seconds is not None:
                continue
            why = _why_not(each, told.get(each.pid), subject, group, settings, now_seconds)
            if why is None:
                ready.append(each.address)
            else:
                ailing.append(Ailing(name_of(subject, each.port), *why))
        missing = max(0, group.wanted - len(ready) - len(ailing))
        groups[version] = Group(
            version,
            digest=group.digest,
            wanted=group.wanted,
            ready=tuple(ready),
            ailing=(*ailing, *[_missing(subject, group.lacking)] * missing),
            crashes=group.crashes,
            leaving=sum(each.told_seconds is not None for each in group.servers),
        )
    return ServersState(groups, model.epoch, model.writer)


def name_of(subject: ModelVersion, port: int) -> str:
    """A server's name, and its log's."""
    return f"{subject.model}-{subject.version}-{port}"


def _why_not(
    process: Process,
    told: Told | None,
    subject: ModelVersion,
    group: VersionRecord,
    settings: Settings,
    now_seconds: float,
) -> tuple[Stuck, str] | None:
    """None: it is ready."""
    if process.ended:
        return Stuck.CRASH, process.ended
    if told is None:
        return Stuck.STARTING, "it was started just now"
    if subject.version in told.versions:
        stated = told.versions[subject.version]
        if group.digest in ("", stated):
            return None
        stated = stated or "no digest"
        reason = f"it has other bytes: it states {stated} for {subject}, not {group.digest}"
        return Stuck.CONFIGURATION, reason
    if told.versions:
        held = ", ".join(told.versions)
        return Stuck.CONFIGURATION, f"it serves {subject.model} {held}, not {subject.version}"
    age_seconds = now_seconds - process.started_seconds
    if process.answered:
        return Stuck.NOT_READY, f"it was ready, and is not: {told.reason}"
    if told.started:
        return Stuck.NOT_READY, f"its start is over, and it is not ready: {told.reason}"
    if age_seconds >= settings.ready_seconds:
        limit = f"{settings.ready_seconds:g} s"
        return Stuck.NOT_READY, f"started {limit} ago or more, and is not ready: {told.reason}"
    return Stuck.STARTING, f"started {age_seconds:.0f} s ago: {told.reason}"


def _missing(subject: ModelVersion, lacking: str) -> Ailing:
    if lacking:
        return Ailing(str(subject), Stuck.NO_CAPACITY, lacking)
    return Ailing(
        str(subject),
        Stuck.CRASH,
        "it never began: whoever started it ended first; ask for it again",
    )


def last_words(tail: str) -> str:
    """What a log's end says of why it ended: the last line that is an error, else the last. Of a
    line in JSON, its message."""
    lines = [_plain(line) for line in tail.splitlines() if line.strip()]
    errors = [said for said, wrong in lines if wrong]
    said = (errors or [said for said, _ in lines] or [""])[-1]
    return "".join(c if c.isprintable() else " " for c in said)[:_SAID_CHARACTERS].strip()


def _plain(line: str) -> tuple[str, bool]:
    """Its message, and whether it is an error."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return line, line.lower().startswith("error")
    if not isinstance(said, dict) or not isinstance(said.get("message"), str):
        return line, False
    return said["message"], said.get("level") in ("ERROR", "CRITICAL")
