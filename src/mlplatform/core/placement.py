"""The placement: this model version, in this region, and how far up the ladder it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum

from mlplatform.core.errors import UsageError
from mlplatform.core.seen import Unknown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OLD_STYLE = re.compile(r"(?P<model>.+)-(?P<version>v\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?)")


@dataclass(frozen=True, slots=True, order=True)
class ModelVersion:
    """`model@version`: what is published once and never changes."""

    model: str
    version: str

    def __post_init__(self) -> None:
        for what, value in (("model", self.model), ("version", self.version)):
            if not _NAME.fullmatch(value):
                raise UsageError(
                    f"{what} name {value!r} cannot be used in a key",
                    hint="letters, digits, '.', '_' and '-', starting with a letter or digit, "
                    "at most 128",
                )

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def prefix(self) -> str:
        """Where its objects lie in every region's store."""
        return f"models/{self.model}/{self.version}/"

    @property
    def manifest_key(self) -> str:
        return f"{self.prefix}manifest.json"

    @property
    def receipt_key(self) -> str:
        return f".mlplatform/receipts/{self.model}/{self.version}.json"

    @property
    def withdrawal_key(self) -> str:
        return f".mlplatform/withdrawn/{self.model}/{self.version}.json"


def parse_reference(text: str) -> tuple[str, str | None]:
    """Model and version of `name@version`, the old `name-v1.2.0`, or a bare `name` (no version)."""
    if "@" in text:
        model, _, version = text.partition("@")
        subject = ModelVersion(model, version)
        return subject.model, subject.version
    if old := _OLD_STYLE.fullmatch(text):
        return old["model"], old["version"]
    ModelVersion(text, "v0")
    return text, None


class Rung(IntEnum):
    """How far a placement has climbed; each rung has one owner and one proof (see DESIGN)."""

    ABSENT = 0
    STORED = 1
    LOADED = 2
    WARM = 3
    SERVING = 4


TRANSITIONS: Mapping[Rung, frozenset[Rung]] = {
    Rung.ABSENT: frozenset({Rung.STORED}),
    Rung.STORED: frozenset({Rung.LOADED, Rung.ABSENT}),
    Rung.LOADED: frozenset({Rung.WARM, Rung.STORED, Rung.ABSENT}),
    Rung.WARM: frozenset({Rung.SERVING, Rung.LOADED, Rung.STORED, Rung.ABSENT}),
    Rung.SERVING: frozenset({Rung.WARM, Rung.LOADED, Rung.STORED, Rung.ABSENT}),
}
"""Up one rung at a time; down to any, since a fault can take several at once."""


class Integrity(StrEnum):
    """What is known of a placement's bytes."""

    VERIFIED = "verified"
    PARTIAL = "partial"
    """Bytes are there, but no manifest: a publication or replication is unfinished."""
    MISMATCH = "mismatch"
    """A check found other bytes; the placement is demoted until it is repaired."""
    UNKNOWN = "unknown"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Placement:
    """One cell of the grid."""

    subject: ModelVersion
    region: str
    rung: Rung | Unknown
    integrity: Integrity
    digest: str | None = None
    """The manifest's, `blake3:<hex>`; none where no manifest was read."""
    size_bytes: int | None = None
    stored_at: datetime | None = None
    verified_at: datetime | None = None
    wanted: bool = False
    """Whether the topology asks for it."""
    withdrawn: bool = False
    detail: str = ""
    shares: tuple[tuple[str, int], ...] = ()
    """Per cent of the traffic of each route that it serves."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All placements: regions by model versions."""

    placements: tuple[Placement, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Regions that could not be read, with the reason."""

    def __iter__(self) -> Iterator[Placement]:
        return iter(self.placements)

    def at(self, subject: ModelVersion, region: str) -> Placement | None:
        """The cell, if the grid has it."""
        for placement in self.placements:
            if placement.subject == subject and placement.region == region:
                return placement
        return None

    def of(self, subject: ModelVersion) -> Iterable[Placement]:
        """The row of one model version."""
        return (placement for placement in self.placements if placement.subject == subject)

    def subjects(self) -> list[ModelVersion]:
        return sorted({placement.subject for placement in self.placements})
