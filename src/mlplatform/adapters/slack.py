"""Slack's incoming webhooks, and whoever speaks their form (Mattermost, Rocket.Chat).

https://api.slack.com/messaging/webhooks
"""

from __future__ import annotations

from mlplatform.adapters.json_http import JSONService
from mlplatform.ports.notify import Notice, Severity

_MARK = {
    Severity.INFO: ":information_source:",
    Severity.WARNING: ":warning:",
    Severity.CRITICAL: ":rotating_light:",
}
_TEXT_CHARACTERS = 2900
"""A section's text may have 3,000 characters."""


class Slack:
    """POSTs to a URL, which is a secret."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._service = JSONService(url, name=f"slack {name}")

    def send(self, notice: Notice) -> None:
        mark = ":white_check_mark:" if notice.over else _MARK[notice.severity]
        head = f"{mark} *{_escaped(notice.title)}*"
        rest = "\n".join(_escaped(line) for line in notice.lines)
        small = " · ".join(part for part in (notice.source, notice.thread) if part)
        self._service.ask(
            "POST",
            "",
            {
                "text": notice.title,
                "blocks": [
                    {
                        "type": "section",
                        "text": {
                            "type": "mrkdwn",
                            "text": f"{head}\n{rest}".strip()[:_TEXT_CHARACTERS],
                        },
                    },
                    {
                        "type": "context",
                        "elements": [{"type": "mrkdwn", "text": _escaped(small) or "mlplatform"}],
                    },
                ],
            },
        )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def open_receiver(name: str, secret: str) -> Slack:
    """`secret` is the URL."""
    return Slack(name, secret)
