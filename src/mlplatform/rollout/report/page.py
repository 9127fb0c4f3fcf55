"""The report as one HTML page: nothing is fetched, nothing runs, every text is escaped. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from importlib.resources import files

from mlplatform.core.page.axes import Axis
from mlplatform.core.page.document import document
from mlplatform.rollout.report import wording
from mlplatform.rollout.report.charts import (
    SHARES,
    Span,
    climb_chart,
    powers,
    shares_chart,
    span_of,
)
from mlplatform.rollout.report.content import Content, MetricTold, RegionTold, StepTold

_TEXT_MOST = 400
"""Characters of a text that somebody else wrote, so that the page stays small."""
_DRAWN_MOST = 12
"""Regions with charts and steps; those that did not end well come first."""
_STEPS_MOST = 24
_DETAIL_MOST = 200
"""Characters of what became of a step."""
_HANDS_MOST = 30
_LISTED_MOST = 300


def page(content: Content) -> str:
    """The whole page."""
    drawn = _drawn(content)
    parts = [
        _summary(content),
        _hands(content),
        _waves(content),
        *(_region(each, content) for each in drawn),
        _left_out(content, [r for r in content.regions if r.steps and r not in drawn]),
        _footer(content),
    ]
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    return document(f"Rollout of {content.subject}: {content.state}", parts, style=style)


def _drawn(content: Content) -> list[RegionTold]:
    begun = [region for region in content.regions if region.steps]
    worst = sorted(begun, key=lambda region: region.state == "promoted")[:_DRAWN_MOST]
    return [region for region in begun if region in worst]


def _summary(content: Content) -> str:
    took = "not over yet" if content.seconds is None else wording.duration(content.seconds)
    done = sum(region.state == "promoted" for region in content.regions)
    cards = [
        (content.state.capitalize(), took, f"{done} of {len(content.regions)} regions promoted"),
        (
            f"Requests to {content.version}",
            f"{content.requests:,.0f} <small>{content.failures:,.0f} failed</small>",
            wording.percent(content.failures, content.requests) + " of those that were counted",
        ),
    ]
    if content.caught is not None:
        soon = content.caught.seconds
        value = "before any request" if soon is None else f"after {wording.duration(soon)}"
        cards.append(("Caught", value, wording.caught(content.caught)))
    told = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{value}</dd><dd class=note>{_text(note)}</dd></div>"
        for name, value, note in cards
    )
    why = f"<p class=why>{_text(content.because)}</p>" if content.because else ""
    return (
        f"<header><p class=kicker>Rollout</p><h1>{_text(content.subject)}</h1>"
        f"<p><code>{_text(content.operation)}</code>, begun {content.began:%Y-%m-%d %H:%M:%S} UTC"
        f"</p></header>{why}<dl class=cards>{told}</dl>"
        f"<p>Cost: {_text(wording.money(content))}.</p>"
    )


def _hands(content: Content) -> str:
    rows = "".join(
        f"<tr><td>{_time(hand.at)}</td><td>{escape(hand.what)}</td>"
        f"<td class=text>{_text(wording.who(hand))}</td><td class=text>{_text(hand.reason)}</td>"
        "</tr>"
        for hand in content.hands[:_HANDS_MOST]
    )
    more = len(content.hands) - _HANDS_MOST
    rest = f"<p>And {more} more.</p>" if more > 0 else ""
    return (
        "<section><h2>By whose hand</h2><div class=scroll><table><thead><tr>"
        "<th scope=col>UTC</th><th scope=col>What</th><th scope=col>Who</th>"
        f"<th scope=col>Why</th></tr></thead><tbody>{rows}</tbody></table></div>{rest}</section>"
    )


def _waves(content: Content) -> str:
    rows = "".join(_wave_row(each) for each in content.regions[:_LISTED_MOST])
    more = len(content.regions) - _LISTED_MOST
    rest = f"<p>And {more} more.</p>" if more > 0 else ""
    return (
        "<section><h2>Waves</h2><div class=scroll><table><thead><tr><th scope=col>Region</th>"
        "<th scope=col class=n>Wave</th><th scope=col>From</th><th scope=col class=n>UTC</th>"
        "<th scope=col class=n>Took</th><th scope=col>What became of it</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{rest}</section>"
    )


def _wave_row(region: RegionTold) -> str:
    took = began = ""
    if region.began and region.ended:
        took = wording.duration((region.ended - region.began).total_seconds())
    if region.began:
        began = _time(region.began)
    return (
        f"<tr><th scope=row>{_text(region.region)}</th><td class=n>{region.wave}</td>"
        f"<td>{_text(region.last_good or 'nothing')}</td><td class=n>{began}</td>"
        f'<td class=n>{took}</td><td class="{_mood(region.state)}">'
        f"{_text(wording.region_line(region))}</td></tr>"
    )


def _region(region: RegionTold, content: Content) -> str:
    span = span_of(region)
    charts = ""
    if span is not None and region.weights:
        charts = _shares(region, span, content.version)
        charts += "".join(_climb(region, metric, span) for metric in region.metrics if metric.climb)
    return (
        f'<section><h2>{_text(region.region)}<span class="status {_mood(region.state)}">'
        f"{escape(region.state)}</span></h2>{charts}{_metrics(region, content.version)}"
        f"{_words(region)}{_steps(region.steps)}</section>"
    )


def _shares(region: RegionTold, span: Span, version: str) -> str:
    most = max(each.percent for each in region.weights)
    label = f"Share of requests of {version} in {region.region} over time, at most {most} %"
    keys = [
        "<li><i class=line></i>weight, per cent of requests</li>",
        "<li><i class=faint></i>share that was measured</li>",
    ]
    if any(step.back for step in region.steps):
        keys.append("<li><i class=back></i>the way back</li>")
    ticks = [(SHARES.share(tick), f"{tick} %") for tick in SHARES.ticks[::2]]
    return _figure(shares_chart(region, span, label), ticks, span, keys)


def _climb(region: RegionTold, metric: MetricTold, span: Span) -> str:
    scale: Axis = powers(metric.climb, metric.log10_e_needed)
    label = (
        f"Evidence against it by {metric.metric} in {region.region}, look by look: "
        f"{wording.evidence_line(metric)}"
    )
    last = wording.e_value(metric.log10_e)
    keys = [
        f"<li><i class=line></i>{escape(metric.metric)}: e-value against it, {last} at last</li>"
    ]
    if metric.log10_e_needed is not None:
        keys.append(
            f"<li><i class=held></i>{wording.e_value(metric.log10_e_needed)} return it</li>"
        )
    ticks = [(scale.share(tick), _power(tick)) for tick in scale.ticks]
    chart = climb_chart(region, metric.climb, metric.log10_e_needed, span, label)
    return _figure(chart, ticks, span, keys)


def _figure(chart: str, ticks: Sequence[tuple[float, str]], span: Span, keys: Sequence[str]) -> str:
    marks = "".join(
        f'<span style="bottom:{100 * share:.1f}%">{mark}</span>' for share, mark in ticks
    )
    middle = span.start + (span.end - span.start) / 2
    times = "".join(f"<span>{_time(at)}</span>" for at in (span.start, middle, span.end))
    return (
        f"<figure><div class=plot><div class=y aria-hidden=true>{marks}</div>{chart}"
        f"<div class=x aria-hidden=true>{times}</div></div>"
        f"<figcaption><ul class=keys>{''.join(keys)}</ul></figcaption></figure>"
    )


def _metrics(region: RegionTold, version: str) -> str:
    if not region.metrics:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(each.metric)}</th>"
        f"<td class=n>{each.failures:,.0f} of {each.requests:,.0f} "
        f"<small>{wording.percent(each.failures, each.requests)}</small></td>"
        f"<td class=n>{each.fleet_failures:,.0f} of {each.fleet_requests:,.0f} "
        f"<small>{wording.percent(each.fleet_failures, each.fleet_requests)}</small></td>"
        f"<td>{_text(each.bound)}</td><td class=n>{wording.e_value(each.log10_e)}</td>"
        f"<td class=n>{wording.e_value(each.log10_e_needed)}</td></tr>"
        for each in region.metrics
    )
    return (
        "<div class=scroll><table><thead><tr><th scope=col>Metric</th>"
        f"<th scope=col class=n>{_text(version)}</th><th scope=col class=n>The fleet</th>"
        "<th scope=col>Its rate beside the fleet's</th><th scope=col class=n>E-value</th>"
        f"<th scope=col class=n>The bar</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _words(region: RegionTold) -> str:
    told = [f"The verdict: {region.decision}."] if region.decision else []
    told += region.because
    if events := wording.events(region):
        told.append(events)
    if region.bake_requests is not None:
        share = wording.percent(region.bake_failures or 0, region.bake_requests)
        told.append(
            f"With all requests it answered {region.bake_requests:,.0f}, "
            f"{region.bake_failures or 0:,.0f} failed ({share})."
        )
    lines = "".join(f"<li>{_text(each)}</li>" for each in told)
    return f"<ul class=told>{lines}</ul>" if lines else ""


def _steps(steps: Sequence[StepTold]) -> str:
    rows = "".join(
        f"<tr{' class=undo' if each.back else ''}><th scope=row>{_text(each.name)}</th>"
        f"<td class=n>{_time(each.began) if each.began else ''}</td>"
        f"<td class=n>{wording.duration(each.seconds) if each.seconds is not None else ''}</td>"
        f'<td class="{"" if each.result == "done" else "bad"}">{escape(each.result)}</td>'
        f'<td class="text wide">{_text(each.detail or each.does, _DETAIL_MOST)}</td></tr>'
        for each in steps[-_STEPS_MOST:]
    )
    more = len(steps) - _STEPS_MOST
    rest = f"<p>The first {more} steps are left out.</p>" if more > 0 else ""
    return (
        f"<details open><summary>Its steps</summary>{rest}<div class=scroll><table class=steps>"
        "<thead><tr><th scope=col>Step</th><th scope=col class=n>UTC</th>"
        "<th scope=col class=n>Took</th><th scope=col>Result</th>"
        f"<th scope=col class=wide>What became of it</th></tr></thead><tbody>{rows}</tbody></table>"
        "</div></details>"
    )


def _left_out(content: Content, not_drawn: Sequence[RegionTold]) -> str:
    told = list(content.left_out)
    if not_drawn:
        told.append(f"{len(not_drawn)} more regions, promoted all of them, are only in the table.")
    lines = "".join(f"<li>{_text(each)}</li>" for each in told)
    body = f"<ul class=told>{lines}</ul>" if lines else "<p>Nothing that was kept of it.</p>"
    return f"<section><h2>What this page leaves out</h2>{body}</section>"


def _footer(content: Content) -> str:
    return (
        f"<footer>Made {content.made:%Y-%m-%d %H:%M} UTC by <code>mlplatform rollout report</code> "
        "from the journal, and the windows that were kept. Times are UTC.</footer>"
    )


def _mood(state: str) -> str:
    return {"promoted": "good", "people have to look": "bad", "returned": "bad"}.get(state, "")


def _power(tick: Decimal) -> str:
    return wording.e_value(float(tick))


def _time(at: datetime) -> str:
    return f"{at:%H:%M:%S}"


def _text(text: str, most: int = _TEXT_MOST) -> str:
    """A text that somebody else wrote."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return f"<bdi>{escape(cut)}</bdi>"
