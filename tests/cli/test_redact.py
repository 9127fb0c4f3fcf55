"""Secrets never print. One corpus of what carries them, and one of what only looks as if it did."""

from __future__ import annotations

import time

import pytest

from mlplatform.core.redact import REDACTED, redact, secrets_of

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFO"

CARRIERS = {
    "aws environment": (f"AWS_SECRET_ACCESS_KEY={SECRET}", SECRET),
    "aws credentials file": (f"aws_secret_access_key = '{SECRET}'", SECRET),
    "aws json": (f'{{"SecretAccessKey": "{SECRET}", "x": 1}}', SECRET),
    "aws repr": (f"{{'secret_access_key': '{SECRET}'}}", SECRET),
    "aws key id": (f"The AWS Access Key Id {KEY_ID} does not exist", KEY_ID),
    "aws session token": ("x-amz-security-token:FwoGZXIvYXdzEBYaDK+8/=", "FwoGZXIvYXdzEBYaDK"),
    "sigv4 header": (
        (
            f"Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4, "
            "SignedHeaders=host;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027"
        ),
        "fe5f80f77d5fa3beca038a248ff027",
    ),
    "header in a dict": (
        "{'Authorization': b'AWS4-HMAC-SHA256 Credential=x, Signature=abc123def456', 'Host': 'h'}",
        "abc123def456",
    ),
    "signed url": (
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4&X-Amz-Credential=AK%2Fus&"
            "X-Amz-Signature=0123456789abcdef&X-Amz-Expires=60"
        ),
        "0123456789abcdef",
    ),
    "azure sas": (
        "https://a.blob.core.windows.net/c/b?sv=2024-11-04&sr=b&sig=Zm9vYmFy%2Fx%3D&se=2026",
        "Zm9vYmFy%2Fx%3D",
    ),
    "azure sas alone": ("?sig=Zm9vYmFy%2Fx%3D", "Zm9vYmFy%2Fx%3D"),
    "azure connection string": (
        "DefaultEndpointsProtocol=https;AccountName=dev;AccountKey=Eby8vdM02xNOcqFlq==;Blob=x",
        "Eby8vdM02xNOcqFlq",
    ),
    "azure shared key": (
        "authorization: SharedKey dev:ctzMq410TV3wS7upTBcunJTDLEJwMAZuFPfr0mrrA08=",
        "ctzMq410TV3",
    ),
    "azure secret": ("AZURE_CLIENT_SECRET=8Q~abcdefghijk.lmnop", "8Q~abcdefghijk"),
    "bearer": ("curl -H 'Authorization: Bearer ya29.a0AfH6SMBxyz-123' host", "a0AfH6SMBxyz"),
    "bearer alone": ("sent Bearer abcdef0123456789", "abcdef0123456789"),
    "basic": ("Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    "google token": ("token ya29.a0AfH6SMBxyz-123_45 refused", "a0AfH6SMBxyz"),
    "google key file": (
        '"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBg\\n-----END PRIVATE KEY-----"',
        "MIIEvQIBADANBg",
    ),
    "pem": (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBg\nxyz\n-----END RSA PRIVATE KEY-----",
        "MIIEvQIBADANBg",
    ),
    "pem cut short": ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg", "MIIEvQIBADANBg"),
    "gcs resumable session": (
        "PUT https://storage.googleapis.com/u?uploadType=resumable&upload_id=ADPycdt-xyz failed",
        "ADPycdt-xyz",
    ),
    "jwt": (f"jwt {JWT} expired", "eyJzdWIiOiIxMjM0NTY3ODkwIn0"),
    "userinfo": ("cannot reach https://user:hunter2@example.com/x", "hunter2"),
    "user only": ("cannot reach redis://s3cr3tuser@example.com/x", "s3cr3tuser"),
    "password in query": ("postgres://h/db?password=hunter2&sslmode=on", "hunter2"),
    "password with spaces": ('password: "correct horse battery"', "horse"),
    "environment dump": ("environ({'HF_TOKEN': 'hf_abcdefghijklmnop', 'HOME': '/root'})", "hf_abc"),
    "github": ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_abc"),
    "slack": ("POST https://hooks.slack.com/services/T000/B000/XXXX failed", "T000/B000"),
    "cookie": ("Cookie: session=abcdef0123456789", "abcdef0123456789"),
    "sse-c": ("x-amz-server-side-encryption-customer-key: MDEyMzQ1Njc4OWFi", "MDEyMzQ1Njc4OWFi"),
}

HARMLESS = (
    "s3://ml-models-eu-west-1/models/resnet50/v1.2.0/manifest.json: Access Denied (s3:PutObject)",
    "The security token included in the request is expired",
    "The request signature we calculated does not match the signature you provided.",
    "Checksum mismatch: blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "crc64nvme:ae8b14860a799888 crc32c:e3069283",
    "models/bert-tokenizer/v1/tokenizer.json: 466062 bytes",
    "models/secret-santa/v2/weights.safetensors: no such object",
    "hint: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "topology.yaml:12: regions.eu-west-1.stor: unknown key; did you mean 'store'?",
    "http://127.0.0.1:9000/ml-models?partNumber=3&uploads",
    "no password given",
    "user@example.com was told",
    "error: secret: not found",
    "token: expired",
    "tag 0x8DBD9F0A2C3B4D5 of models/a/v1/b is not the receipt's",
    "basic check and Bearer tokens",
)


@pytest.mark.parametrize(("text", "secret"), CARRIERS.values(), ids=CARRIERS)
def test_a_secret_does_not_survive(text: str, secret: str) -> None:
    assert secret in text
    shown = redact(text)
    assert secret not in shown
    assert REDACTED in shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("text", [text for text, _ in CARRIERS.values()])
def test_redacting_again_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_the_rest_of_the_line_stays() -> None:
    shown = redact(
        "GET https://a.blob.core.windows.net/c/b?sr=b&sig=Zm9v%3D&se=2026: 403 Forbidden"
    )
    assert shown == (
        f"GET https://a.blob.core.windows.net/c/b?sr=b&sig={REDACTED}&se=2026: 403 Forbidden"
    )


def test_the_environments_own_secrets_are_known_by_value() -> None:
    environ = {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;X=abcdef",
        "DB_PASSWORD": "pass word/1",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/gcp/key.json",
        "VAULT_TOKEN_FILE": "/run/secrets/token",
        "SHORT_TOKEN": "true",
        "HOME": "/home/operator",
    }
    known = secrets_of(environ)
    text = (
        f"bare {SECRET}, quoted pass%20word%2F1 and pass+word%2F1, in /home/operator/key.json, true"
    )
    shown = redact(text, known)
    assert "wJalr" not in shown
    assert "word" not in shown
    assert "/home/operator/key.json, true" in shown
    assert "/etc/gcp/key.json" not in known
    assert "/run/secrets/token" not in known
    assert redact(f"sig={SECRET}&x", known) == f"sig={REDACTED}&x"


def test_a_long_text_takes_no_long_time() -> None:
    text = ("a" * 5000 + "-token" + "_key." * 400) * 10 + "=" + "b" * 100_000
    began = time.thread_time()  # what others on this machine take is not counted
    redact(text)
    assert time.thread_time() - began < 2
