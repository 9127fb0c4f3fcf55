"""The report in Markdown, for a pull request or an incident. Pure.

Reasons and errors are what somebody typed or some server said: they are written so that no Markdown
or HTML in them counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from mlplatform.rollout.report import wording
from mlplatform.rollout.report.content import Content, Hand, MetricTold, RegionTold

_TEXT_MOST = 1_000
_MEANT = re.compile(r"([\\`*_\[\]<>|#~])")
_MENTION = re.compile(r"(?<!\w)@")
"""Before whom GitHub and GitLab would send somebody a message."""
_APART = "\u200b"
"""A space without width."""


def markdown(content: Content) -> str:
    """The whole report."""
    lines = [
        f"# `{content.subject}`: {content.state}",
        "",
        *_summary(content),
        "",
        "## By whose hand",
        "",
        "| UTC | | who | why |",
        "|---|---|---|---|",
        *(_hand_row(each) for each in content.hands),
        "",
        "## Waves",
        "",
        "| wave | region | from | UTC | took | |",
        "|---|---|---|---|---|---|",
        *(_region_row(each) for each in content.regions),
    ]
    for region in content.regions:
        if region.steps:
            lines += ["", *_region(region, content.version)]
    lines += ["", "## What this leaves out", ""]
    lines += [f"- {_text(each)}" for each in content.left_out] or ["- Nothing that was kept of it."]
    return "\n".join(lines) + "\n"


def _summary(content: Content) -> Iterator[str]:
    span = f"{content.began:%Y-%m-%d %H:%M:%S} UTC"
    took = "not over yet" if content.seconds is None else wording.duration(content.seconds)
    yield "| | |"
    yield "|---|---|"
    yield f"| operation | `{content.operation}` |"
    yield f"| began | {span}, {took} |"
    if content.because:
        yield f"| went back because | {_text(content.because)} |"
    if content.caught is not None:
        yield f"| caught | {_text(wording.caught(content.caught))} |"
    yield f"| requests to `{content.version}` | {wording.requests(content)} |"
    yield f"| cost | {_text(wording.money(content))} |"


def _hand_row(hand: Hand) -> str:
    who = _text(wording.who(hand))
    return f"| {_time(hand.at)} | {hand.what} | {who} | {_text(hand.reason)} |"


def _region_row(region: RegionTold) -> str:
    began = _time(region.began) if region.began else ""
    took = ""
    if region.began and region.ended:
        took = wording.duration((region.ended - region.began).total_seconds())
    before = f"`{region.last_good}`" if region.last_good else "nothing"
    return (
        f"| {region.wave} | {_text(region.region)} | {before} | {began} | {took} "
        f"| {_text(wording.region_line(region))} |"
    )


def _region(region: RegionTold, version: str) -> Iterator[str]:
    yield f"## {_text(region.region)}: {region.state}"
    yield ""
    if region.metrics:
        yield f"The verdict: **{region.decision}**."
        yield ""
        yield f"| | requests to `{version}` | failed | the fleet's | failed | the ratio |"
        yield "|---|---|---|---|---|---|"
        yield from (_metric_row(each) for each in region.metrics)
        yield ""
        for metric in region.metrics:
            line = wording.sparkline(metric.climb, metric.log10_e_needed)
            drawn = f": `{line}`" if line else ""
            yield f"- {metric.metric}: {wording.evidence_line(metric)}{drawn}"
        yield from (f"- {_text(each)}" for each in region.because)
        if told := wording.events(region):
            yield f"- {told}"
        yield ""
    if region.bake_requests is not None:
        share = wording.percent(region.bake_failures or 0, region.bake_requests)
        yield (
            f"With all requests: {region.bake_requests:,.0f} were answered, "
            f"{region.bake_failures or 0:,.0f} failed ({share})."
        )
        yield ""
    yield "| UTC | step | took | | |"
    yield "|---|---|---|---|---|"
    for step in region.steps:
        began = _time(step.began) if step.began else ""
        took = wording.duration(step.seconds) if step.seconds is not None else ""
        result = step.result if step.result == "done" else f"**{step.result}**"
        detail = _text(step.detail or step.does)
        yield f"| {began} | {_text(step.name)} | {took} | {result} | {detail} |"


def _metric_row(metric: MetricTold) -> str:
    own = wording.percent(metric.failures, metric.requests)
    fleet = wording.percent(metric.fleet_failures, metric.fleet_requests)
    return (
        f"| {metric.metric} | {metric.requests:,.0f} | {metric.failures:,.0f} ({own}) "
        f"| {metric.fleet_requests:,.0f} | {metric.fleet_failures:,.0f} ({fleet}) "
        f"| {metric.bound} |"
    )


def _time(at: datetime) -> str:
    return f"{at:%H:%M:%S}"


def _text(text: str) -> str:
    """A text that somebody else wrote, in one line and without a meaning in Markdown."""
    line = " ".join(text.split())
    cut = line if len(line) <= _TEXT_MOST else f"{line[: _TEXT_MOST - 1]}…"
    return _MENTION.sub(f"@{_APART}", _MEANT.sub(r"\\\1", cut))
