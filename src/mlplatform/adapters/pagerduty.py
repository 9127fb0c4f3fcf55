"""PagerDuty's Events API v2, and whoever speaks its form.

https://developer.pagerduty.com/docs/events-api-v2-overview
"""

from __future__ import annotations

from mlplatform.adapters.json_http import JSONService
from mlplatform.ports.notify import Notice

EVENTS_URL = "https://events.pagerduty.com/v2/enqueue"
_SUMMARY_CHARACTERS = 1024


class PagerDuty:
    """Triggers an incident for each thread, and resolves it when that is over."""

    def __init__(self, name: str, routing_key: str, *, url: str = EVENTS_URL) -> None:
        self.name = name
        self._routing_key = routing_key
        self._service = JSONService(url, name=f"pagerduty {name}")

    def send(self, notice: Notice) -> None:
        self._service.ask(
            "POST",
            "",
            {
                "routing_key": self._routing_key,
                "event_action": "resolve" if notice.over else "trigger",
                "dedup_key": notice.thread or notice.title,
                "payload": {
                    "summary": notice.title[:_SUMMARY_CHARACTERS],
                    "source": notice.source,
                    "severity": notice.severity.value,
                    "timestamp": notice.at.isoformat(),
                    "custom_details": {**notice.fields, "lines": list(notice.lines)},
                },
            },
        )


def open_receiver(name: str, secret: str) -> PagerDuty:
    """`secret` is the routing key, or `KEY@URL` for an events API of one's own."""
    key, _, url = secret.partition("@")
    return PagerDuty(name, key, url=url or EVENTS_URL)
