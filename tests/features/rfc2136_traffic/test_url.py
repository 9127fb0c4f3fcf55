"""What an actuator's URL and a route's targets may say, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.adapters.rfc2136 import open_traffic
from mlplatform.core.errors import Denied, UsageError
from mlplatform.core.store_url import StoreURL

from .conftest import SECRET, TARGETS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rfc2136://ns1.example", "does not name a zone"),
        ("rfc2136://ns1.example/example.com?key=k", "does not name a zone and a name"),
        ("rfc2136:///example.com/api?key=k", "names no server"),
        ("rfc2136://ns1.example/example.com/api", "names no key"),
        ("rfc2136://ns1.example/example.com/api?key=", "names no key"),
        ("rfc2136://ns1.example/example.com/api?key=k&tll=30", "unknown option 'tll'"),
        ("rfc2136://ns1.example/example.com/api?key=k&ttl=0", "ttl='0'"),
        ("rfc2136://ns1.example/example.com/api?key=k&ttl=1.5", "ttl='1.5'"),
        ("rfc2136://ns1.example/example.com/api?key=k&ttl=100000", "ttl='100000'"),
        ("rfc2136://ns1.example/example.com/api?key=k&algorithm=hmac-md5", "hmac-md5"),
        ("rfc2136://ns1.example/example.com/api?key=k&servers=a:b", "'a:b' is no name server"),
        ("rfc2136://ns1.example:99999/example.com/api?key=k", "is no name server"),
        ("rfc2136://ns1.example/example.com/api.example.net.?key=k", "not in the zone"),
        ("rfc2136://ns1.example/example..com/api?key=k", "empty"),
        (f"rfc2136://ns1.example/example.com/{'a' * 64}?key=k", "label"),
        (f"rfc2136://ns1.example/example.com/{'.'.join(['a' * 60] * 4)}?key=k", "255 octets"),
        ("rfc2136://ns1.example/example.com/api?key=k&timeout_seconds=0", "number of seconds"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)
    assert says in str(raised.value)
    assert "actuator rfc2136:" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("example.com/api", "api.example.com."),
        ("example.com/api.eu", "api.eu.example.com."),
        ("example.com/@", "example.com."),
        ("example.com./api", "api.example.com."),
        ("example.com/api.example.com", "api.example.com."),
        ("example.com/api.example.com.", "api.example.com."),
        ("Example.COM/API", "api.example.com."),
    ],
)
def test_the_name_is_within_the_zone_or_whole(path: str, name: str) -> None:
    traffic = open_traffic(StoreURL.parse(f"rfc2136://ns1.example/{path}?key=k"), TARGETS)
    assert traffic._name.to_text().lower() == name
    assert traffic._epoch_name.to_text().lower() == f"_epoch.{name}"


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ({"east": ("east.example:443",)}, "'east.example:443' of east is not an address"),
        ({"east": ("192.0.2.1",), "west": ("192.0.2.1",)}, "of east and of west"),
        ({"east": ("192.0.2.1:80",), "west": ("192.0.2.1:81",)}, "of east and of west"),
        ({"east": ("192.0.2.1", "192.0.2.2"), "west": ("192.0.2.3",)}, "unequal shares"),
        ({"east": ("192.0.2.1",), "west": ("2001:db8::1",)}, "west has 0 A and 1 AAAA"),
    ],
)
def test_targets_that_dns_cannot_hold(targets: dict[str, tuple[str, ...]], says: str) -> None:
    url = StoreURL.parse("rfc2136://ns1.example/example.com/api?key=k", noun="actuator")
    with pytest.raises(UsageError) as raised:
        open_traffic(url, targets)
    assert says in str(raised.value)


def test_a_port_behind_an_address_is_left_out() -> None:
    url = StoreURL.parse("rfc2136://ns1.example/example.com/api?key=k")
    traffic = open_traffic(url, {"east": ("192.0.2.1:8101", "[2001:db8::1]:8101")})
    assert traffic._targets == {"east": {"A": ("192.0.2.1",), "AAAA": ("2001:db8::1",)}}


def test_servers_are_the_primary_and_the_others_each_once() -> None:
    url = StoreURL.parse(
        "rfc2136://ns1.example/example.com/api?key=k"
        "&servers=ns1.example:53,ns2.example,[2001:db8::53]:5353"
    )
    traffic = open_traffic(url, TARGETS)
    assert [str(server) for server in traffic._servers] == [
        "ns1.example:53",
        "ns2.example:53",
        "[2001:db8::53]:5353",
    ]


# ------------------------------------------------------------------------------- the key's secret


def signing(options: str, environ: dict[str, str]) -> bytes:
    url = StoreURL.parse(f"rfc2136://127.0.0.1:1/example.com/api?{options}", noun="actuator")
    secret: bytes = open_traffic(url, TARGETS, environ=environ)._key.signing.secret
    return secret


def test_the_secret_is_in_a_variable_named_for_the_key() -> None:
    environ = {"MLPLATFORM_TSIG_SECRET_EU_FAILOVER_EXAMPLE_COM": f" {SECRET}\n"}
    assert signing("key=eu-failover.example.com", environ) == b"a-secret-that-nobody-prints"


def test_the_secret_is_in_a_file_as_tsig_keygen_writes_it(tmp_path: Path) -> None:
    (file := tmp_path / "keys.conf").write_text(
        'key "other" {\n\talgorithm hmac-sha256;\n\tsecret "b3RoZXI=";\n};\n'
        f'key "Failover" {{\n\talgorithm hmac-sha512;\n\tsecret "{SECRET}";\n}};\n'
    )
    assert signing(f"key=failover&key_file={file}", {}) == b"a-secret-that-nobody-prints"
    url = StoreURL.parse(f"rfc2136://127.0.0.1:1/example.com/api?key=failover&key_file={file}")
    assert open_traffic(url, TARGETS)._key.signing.algorithm.to_text() == "hmac-sha512."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("", "holds no key failover"),
        ('key "other" { algorithm hmac-sha256; secret "b3RoZXI="; };', "holds no key failover"),
        ('key "failover" { algorithm hmac-md5; secret "b3RoZXI="; };', "hmac-md5 is not used"),
        ('key "failover" { algorithm hmac-sha256; };', "no secret for key failover"),
        ('key "failover" { algorithm hmac-sha256; secret "%%hidden%%"; };', "is not base64"),
    ],
)
def test_a_key_file_that_is_no_good(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "failover.key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Denied) as raised:
        signing(f"key=failover&key_file={file}", {})
    assert says in str(raised.value)
    assert "hidden" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("secret", ["", "not base64!"])
def test_without_a_secret_the_variable_is_named(secret: str) -> None:
    with pytest.raises(Denied) as raised:
        signing("key=failover", {"MLPLATFORM_TSIG_SECRET_FAILOVER": secret})
    assert "MLPLATFORM_TSIG_SECRET_FAILOVER" in str(raised.value.hint)
    assert not secret or secret not in f"{raised.value} {raised.value.hint}"


def test_nothing_that_is_printed_holds_the_secret() -> None:
    url = StoreURL.parse("rfc2136://127.0.0.1:1/example.com/api?key=failover", noun="actuator")
    traffic = open_traffic(url, TARGETS, environ={"MLPLATFORM_TSIG_SECRET_FAILOVER": SECRET})
    assert traffic._key.signing.secret
    assert SECRET not in f"{traffic!r} {traffic.url} {traffic._key!r} {traffic.features}"


def test_a_secret_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as raised:
        StoreURL.parse(f"rfc2136://ns1.example/example.com/api?key=k&secret={SECRET}")
    assert SECRET not in str(raised.value)
