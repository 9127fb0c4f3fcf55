"""Build what is missing of the real servers: ``python -m tests.real.servers.build [NAME…]``.

Each is made in a folder beside its place and moved there whole, so an interrupted build leaves
nothing behind that looks finished. What was there already from the same recipe is left alone.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .catalogue import (
    BY_NAME,
    SERVERS,
    DebianPackages,
    GoInstall,
    GoModule,
    NpmLock,
    OurEnvironment,
    PythonLock,
    Server,
    cache,
)

_AT_ONCE = 2  # a Go build is parallel itself; the second lane is for what waits on the network
_STRIPPED = ("-trimpath", "-ldflags", "-s -w")


class BuildFailed(Exception):
    """A step ended badly; the text is its own last words."""


class LeftOut(Exception):
    """This kind of machine has no such server."""


def _step(*argv: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Run one program to its end, quietly unless it fails."""
    if shutil.which(argv[0]) is None:
        raise BuildFailed(f"{argv[0]} is not on this machine")
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last_words = "\n".join(done.stdout.strip().splitlines()[-20:])
        raise BuildFailed(f"{' '.join(map(str, argv))}\n{last_words}")


def _make(server: Server, folder: Path) -> None:
    """Follow the server's recipe in an empty folder."""
    static = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    match server.recipe:
        case GoInstall(package=package):
            target = f"{package}@{server.version}"
            env = {**static, "GOFLAGS": "-buildvcs=false", "GOBIN": str(folder)}
            _step("go", "install", *_STRIPPED, target, cwd=folder, env=env)
        case GoModule(package=package, folder=module, beside=beside, linked=linked):
            flags = (*_STRIPPED[:-1], f"{_STRIPPED[-1]} {linked}".strip())
            program = folder / server.program
            _step("go", "build", *flags, "-o", program, package, cwd=module, env=static)
            if beside:
                _step("go", "build", *flags, "-o", folder, *beside, cwd=module, env=static)
        case NpmLock(folder=lock):
            for name in ("package.json", "package-lock.json"):
                shutil.copy(lock / name, folder)
            _step("npm", "ci", "--ignore-scripts", "--omit=dev", "--no-audit", cwd=folder)
        case PythonLock(lock=lock):
            _step(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
            pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "install")
            _step(*pip, "--require-hashes", "--no-deps", "--compile", "-r", lock, cwd=folder)
        case DebianPackages(packages=packages):
            _unpack(packages, folder)
        case OurEnvironment():
            raise BuildFailed("make setup installs it")
    (folder / ".identity").write_text(server.identity)


def _unpack(packages: Sequence[str], folder: Path) -> None:
    """Packages of this machine's distribution, and what they need that the machine has not. apt is
    given lists and a cache of its own: it then needs no rights, and no list is out of date."""
    if shutil.which("apt-get") is None:
        raise LeftOut("this machine has no apt-get; its tests are skipped")
    apt = folder / ".apt"
    archives = apt / "cache/archives"
    for part in (archives / "partial", apt / "lists/partial"):
        part.mkdir(parents=True)
    options = (
        f"Dir::State::Lists={apt}/lists",
        f"Dir::Cache={apt}/cache",
        "Debug::NoLocking=1",  # the locks are root's; these folders are ours alone
        "APT::Sandbox::User=root",  # whoever we are, without a second user
        "APT::Update::Post-Invoke=",
        "Acquire::Languages=none",
        "Acquire::Retries=3",
    )
    get = ("apt-get", "-qq", *(word for option in options for word in ("-o", option)))
    _step(*get, "update", cwd=folder)
    _step(
        *(*get, "--yes", "--download-only", "--no-install-recommends"),
        *("--reinstall", "install", *packages),
        cwd=folder,
    )
    for archive in sorted(archives.glob("*.deb")):
        _step("dpkg-deb", "--extract", archive, folder, cwd=folder)
    shutil.rmtree(apt)


def build(server: Server) -> str:
    """Make one server unless it is there; say what was done."""
    if server.built:
        return "there already"
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f".{server.name}-", dir=cache()))
    try:
        _make(server, folder)
        folder.chmod(0o755)
        shutil.rmtree(server.home, ignore_errors=True)
        folder.rename(server.home)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"built in {time.monotonic() - started:.0f} s"


def main(names: list[str]) -> int:
    """Build the servers named, or all of them; 1 when any could not be made."""
    if unknown := [name for name in names if name not in BY_NAME]:
        print(f"no such server: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
        return 2
    wanted = [BY_NAME[name] for name in names] or list(SERVERS)
    cache().mkdir(parents=True, exist_ok=True)
    print(f"real servers in {cache()}")

    def report(server: Server) -> bool:
        try:
            said, good = build(server), True
        except LeftOut as why:
            said, good = f"LEFT OUT: {why}", True
        except (BuildFailed, OSError) as error:
            said, good = f"FAILED: {error}", False
        print(f"  {server.name} {server.version}: {said}", flush=True)
        return good

    with (cache() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two checkouts at once build nothing twice
        with ThreadPoolExecutor(_AT_ONCE) as lanes:
            return 0 if all(list(lanes.map(report, wanted))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
