"""A webhook: every notice as one JSON object, `mlplatform/notice/1`."""

from __future__ import annotations

from mlplatform.adapters.json_http import JSONService
from mlplatform.ports.notify import Notice


class Webhook:
    """POSTs to a URL, which is a secret."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._service = JSONService(url, name=f"webhook {name}")

    def send(self, notice: Notice) -> None:
        self._service.ask(
            "POST",
            "",
            {
                "schema": "mlplatform/notice/1",
                "title": notice.title,
                "severity": notice.severity.value,
                "at": notice.at.isoformat(),
                "source": notice.source,
                "thread": notice.thread,
                "lines": list(notice.lines),
                "over": notice.over,
                "fields": notice.fields,
            },
        )


def open_receiver(name: str, secret: str) -> Webhook:
    """`secret` is the URL."""
    return Webhook(name, secret)
