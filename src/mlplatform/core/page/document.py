"""A report as one HTML page: nothing is fetched, nothing runs. Pure.

Reports hold what others have typed, so whoever writes a page escapes every text, and a policy in
the page itself forbids all but its own style (Content Security Policy level 3, W3C), should one
slip through.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files


def document(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """The whole page. `parts` are HTML, those that are empty left out; `style` is CSS beside what
    all pages have."""
    body = "\n".join(part for part in parts if part)
    return f"{_head(title, style)}\n<body><main>\n{body}\n</main></body></html>\n"


def _head(title: str, style: str) -> str:
    shared = (files(__package__) / "page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(title)}</title><style>{shared}{style}</style></head>'
    )
