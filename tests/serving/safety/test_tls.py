"""TLS: presented, verified by clients, and renewed under a running server."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlplatform_serving.http.tls import Certificate, CertificateUnusable
from tests.serving.rig import COMMAND, ServerProcess, environment, identity, publish, running


def write_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "tls.crt", folder / "tls.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def asked(server: ServerProcess, trusted: Path) -> tuple[int, bytes]:
    """The status of one request, and the certificate that it was verified by."""
    context = ssl.create_default_context(cafile=str(trusted))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
    try:
        connection.connect()
        presented = connection.sock.getpeercert(binary_form=True)
        connection.request("GET", "/health/ready")
        return connection.getresponse().status, presented or b""
    finally:
        connection.close()


def test_it_is_presented_and_renewed(tmp_path: Path) -> None:
    publish(tmp_path / "models", "echo", "v1", identity("FP32"))
    certificate, key = write_pair(tmp_path, "first")
    settings = {"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key}
    with running(tmp_path / "models", **settings) as server:
        assert server.wait_for("Uvicorn running on https://127.0.0.1:")
        status, first = asked(server, certificate)
        assert status == 200
        write_pair(tmp_path, "second")
        server.wait_for("the certificate is renewed")
        status, second = asked(server, certificate)
        assert status == 200
        assert second != first


def test_who_speaks_no_tls_or_an_old_one(tmp_path: Path) -> None:
    publish(tmp_path / "models", "echo", "v1", identity("FP32"))
    certificate, key = write_pair(tmp_path, "only")
    settings = {"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key}
    with running(tmp_path / "models", **settings) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert not plain.recv(4096).startswith(b"HTTP/")
        context = ssl.create_default_context(cafile=str(certificate))
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as old,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(old, server_hostname="127.0.0.1")
        assert asked(server, certificate)[0] == 200
        assert not [line for line in server.lines if line["level"] == "ERROR"]


class TestFiles:
    def test_half_of_a_new_pair_is_not_taken(self, tmp_path: Path) -> None:
        """Between the writing of one file and of the other the last pair holds."""
        paths = write_pair(tmp_path, "first")
        certificate = Certificate(*paths)
        (other := tmp_path / "other").mkdir()
        new = write_pair(other, "second")
        assert certificate.renew() is False
        paths[0].write_bytes(new[0].read_bytes())
        assert certificate.renew() is False
        paths[1].write_bytes(new[1].read_bytes())
        assert certificate.renew() is True
        assert certificate.renew() is False
        paths[0].unlink()
        assert certificate.renew() is False

    @pytest.mark.parametrize("wrong", ["missing", "empty", "another's"])
    def test_what_cannot_be_used_is_refused_at_start(self, tmp_path: Path, wrong: str) -> None:
        certificate, key = write_pair(tmp_path, "first")
        if wrong == "missing":
            key.unlink()
        elif wrong == "empty":
            key.write_bytes(b"")
        else:
            (other := tmp_path / "other").mkdir()
            key.write_bytes(write_pair(other, "second")[1].read_bytes())
        with pytest.raises(CertificateUnusable):
            Certificate(certificate, key)
        settings = {"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key}
        assert _refused(tmp_path, **settings).startswith("error: TLS_CERT_FILE, TLS_KEY_FILE: ")

    def test_a_key_that_wants_a_password_is_refused_and_asks_nobody(self, tmp_path: Path) -> None:
        certificate, key = write_pair(tmp_path, "first")
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        key.write_bytes(
            loaded.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with pytest.raises(CertificateUnusable):
            Certificate(certificate, key)

    def test_one_without_the_other(self, tmp_path: Path) -> None:
        certificate, _ = write_pair(tmp_path, "first")
        said = _refused(tmp_path, TLS_CERT_FILE=certificate)
        assert "TLS_CERT_FILE and TLS_KEY_FILE go together" in said


def _refused(models: Path, **settings: object) -> str:
    done = subprocess.run(
        COMMAND,
        env=environment(MODEL_CACHE_DIR=models, PORT=0, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    return done.stderr
