"""`docs/dns.md` against the adapter and the servers."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mlplatform.adapters.rfc2136 import _ALGORITHMS, _OPTIONS, open_traffic
from mlplatform.core.errors import Denied
from mlplatform.core.store_url import StoreURL
from tests.real.servers.catalogue import BY_NAME, Command, Room, named, pdns
from tests.real.servers.launch import Endpoint, free_port
from tests.real.servers.names import Authority

from .conftest import on

PAGE = (Path(__file__).parents[3] / "docs/dns.md").read_text()
WEST = {"east": 0, "west": 100, "north": 0}


def block(start: str) -> str:
    """The fenced block that starts with these words."""
    found: str = re.search(
        rf"^```\w+\n({re.escape(start)}.*?)^```", PAGE, re.DOTALL | re.MULTILINE
    )[1]  # type: ignore[index]
    return found


def test_each_option_is_told() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == _OPTIONS
    for algorithm in _ALGORITHMS:
        assert f"`{algorithm}`" in PAGE


def test_the_url_can_be_opened() -> None:
    (url,) = re.findall(r'actuator: "(.*)"', PAGE)
    targets = {"us-east-1": ("192.0.2.1",), "eu-west-1": ("192.0.2.2",)}
    traffic = open_traffic(StoreURL.parse(url, noun="actuator"), targets)
    assert traffic._name.to_text() == "api.example.com."


@pytest.fixture
def narrow(bind: Endpoint, tmp_path: Path) -> Iterator[Authority]:
    """BIND with the page's rights, in the tests' zone."""
    rights = re.search(r"update-policy \{.*?\};", block("key"), re.DOTALL)[0]  # type: ignore[index]

    def start(room: Room) -> Command:
        command = named(room, folder=tmp_path)
        file = tmp_path / "named.conf"
        text = file.read_text().replace("update-policy { grant failover zonesub ANY; };", rights)
        file.write_text(text.replace("example.com.", "failover.test."))
        return command

    server = Authority("bind", start, free_port())
    yield server
    server.stop()


def test_the_rights_in_bind_are_enough_and_no_more(narrow: Authority) -> None:
    traffic = on(narrow)
    state = traffic.write(WEST, epoch=1, writer="us", expected=traffic.read())
    assert traffic.read() == state
    with pytest.raises(AssertionError, match="REFUSED"):
        narrow.change(lambda update: update.add("other", 60, "A", "192.0.2.1"))
    with pytest.raises(AssertionError, match="REFUSED"):
        narrow.change(lambda update: update.add("api", 60, "MX", "10 mail.example."))


def test_the_rights_in_powerdns(powerdns: Endpoint, tmp_path: Path) -> None:
    """From a server that knows no key: refused, then, with the page's two lines, allowed."""
    server = Authority("powerdns", partial(pdns, folder=tmp_path), free_port())
    try:
        database = tmp_path / "pdns.sqlite3"
        connection = sqlite3.connect(database)
        with connection:
            connection.execute("delete from tsigkeys")
            connection.execute("delete from domainmetadata")
        connection.close()
        server.kill_and_start()
        with pytest.raises(Denied):
            on(server).read()
        home = BY_NAME["powerdns"].home
        (modules,) = {str(path.parent) for path in home.glob("**/libgsqlite3backend.so")}
        libraries = {str(path.parent) for path in home.glob("**/*-linux-gnu/*.so*")}
        (tmp_path / "pdns.conf").write_text(
            f"launch=gsqlite3\nmodule-dir={modules}\ngsqlite3-database={database}\n"
        )
        for line in block("pdnsutil").splitlines():
            words = line.replace("…", server.endpoint.secret).replace(
                "example.com", "failover.test"
            )
            subprocess.run(
                [home / "usr/bin/pdnsutil", f"--config-dir={tmp_path}", *words.split()[1:]],
                check=True,
                capture_output=True,
                env={"LD_LIBRARY_PATH": ":".join(sorted(libraries))},
            )
        server.kill_and_start()
        traffic = on(server)
        state = traffic.write(WEST, epoch=1, writer="us", expected=traffic.read())
        assert traffic.read() == state
    finally:
        server.stop()
