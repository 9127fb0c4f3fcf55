"""`python -m mlplatform_serving.lame_duck`: makes the server beside it a lame duck, for a pod's
preStop. It reads the server's own variables: PORT, ADMIN_TOKEN_FILE, TLS_CERT_FILE.

Exit 0 when the server says that it is one; 1 if it does not: the pod then ends as it would have, by
SIGTERM alone, which says the same.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

_SECONDS = 5.0


class NotOurs(Exception):
    """Another certificate is presented than the one in TLS_CERT_FILE."""


def _connected(environ: Mapping[str, str]) -> http.client.HTTPConnection:
    port = int(environ.get("PORT") or 8000)
    certificate = environ.get("TLS_CERT_FILE")
    if not certificate:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    # Its name is the service's and not this address's: it is known by itself, to the last byte.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=context)
    connection.connect()
    presented = connection.sock.getpeercert(binary_form=True)
    first = Path(certificate).read_text(encoding="ascii").partition("-----END CERTIFICATE-----")
    if presented != ssl.PEM_cert_to_DER_cert("".join(first[:2]).lstrip() + "\n"):
        connection.close()
        raise NotOurs("the server there presents another certificate than TLS_CERT_FILE")
    return connection


def ask(environ: Mapping[str, str], *, wanted: bool = True) -> bool:
    """Whether it is one now. `OSError`, `NotOurs` or `http.client.HTTPException` if it cannot be
    asked."""
    headers = {"Content-Type": "application/json"}
    if token_file := environ.get("ADMIN_TOKEN_FILE"):
        lines = [line.strip() for line in Path(token_file).read_text().splitlines()]
        token = next((line for line in lines if line and not line.startswith("#")), "")
        headers["Authorization"] = f"Bearer {token}"
    connection = _connected(environ)
    try:
        connection.request("POST", "/admin", json.dumps({"lame_duck": wanted}), headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{answer.status}: {told.get('error')}")
        return told.get("lame_duck") is True
    finally:
        connection.close()


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving.lame_duck", description=__doc__
    )
    parser.add_argument("--off", action="store_true", help="it is to be one no more")
    wanted = not parser.parse_args().off
    try:
        return 0 if ask(os.environ, wanted=wanted) is wanted else 1
    except (OSError, NotOurs, ValueError, http.client.HTTPException) as error:
        sys.stderr.write(f"error: the server could not be asked: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
