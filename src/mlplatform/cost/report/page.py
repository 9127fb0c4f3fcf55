"""The report as one HTML page. Bills hold whatever people type into tags, so every text is escaped.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape

from mlplatform.core.page.axes import axis
from mlplatform.core.page.document import document
from mlplatform.cost.cube import Measure
from mlplatform.cost.report.charts import Drawn, bars, spark
from mlplatform.cost.report.content import Bar, Breakdown, Compared, Content, Incident, Share
from mlplatform.cost.spending import ZERO

_TEXT_MOST = 1_000
"""Characters of a text that somebody else wrote; names are cut before. So the page stays small."""

MEANINGS = {
    Measure.EFFECTIVE: "what was used, with reservations and savings plans spread over their use",
    Measure.BILLED: "what is invoiced, also for what is used later",
    Measure.CONTRACTED: "what was used, at negotiated prices and without commitments",
    Measure.LIST: "what was used, at public prices",
}
"""Which cost it is, in words (FOCUS 1.2, the columns of these names)."""
_INCIDENTS_MOST = 50
_NONE = "(none)"
_MINUS = "\N{MINUS SIGN}"


def page(content: Content) -> str:
    """The whole page."""
    spending = content.spending
    span = f"{spending.since} to {spending.until}"
    parts = [
        _summary(content),
        _days(content),
        *(_breakdown(each, content) for each in content.breakdowns),
        _incidents(content.incidents, spending.currency),
        _reconciliation(content),
        _left_out(content),
        _footer(content),
    ]
    return document(f"Cost, {span}", parts)


def _footer(content: Content) -> str:
    return (
        f"<footer>Made {content.made:%Y-%m-%d %H:%M} UTC by <code>mlplatform cost report</code> "
        "from the bills themselves. Days are UTC.</footer>"
    )


def _summary(content: Content) -> str:
    spending, total = content.spending, content.total
    days = spending.asked.days
    many = f"{days} days" if days > 1 else "day"
    cards = [("Total", f"{money(total.cost)} <small>{escape(spending.currency)}</small>", "")]
    if total.change is not None and total.before is not None:
        relative = f"{signed_percent(total.relative)}" if total.relative is not None else ""
        cards.append(
            (
                f"Against the {many} before",
                f"{signed(total.change)} <small>{relative}</small>",
                f"{money(total.before)} from {content.before_since} to {content.before_until}",
            )
        )
    else:
        cards.append((f"Against the {many} before", "unknown", "not all of them are known"))
    if content.days_known:
        note = "" if content.days_known == days else f" of the {content.days_known} that are known"
        cards.append(("A day", money(total.cost / content.days_known), f"on average{note}"))
    measure = spending.asked.measure
    told = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}</dd><dd class=note>{escape(note)}</dd></div>"
        for name, value, note in cards
    )
    return (
        f"<header><p class=kicker>Cost report</p><h1><span>{spending.since}</span> to "
        f"<span>{spending.until}</span></h1>"
        f"<p>{measure.column}: {escape(MEANINGS[measure])}. In {escape(spending.currency)}.</p>"
        f"</header><dl class=cards>{told}</dl>{_movers(content)}"
    )


def _movers(content: Content) -> str:
    """What moved most, of each dimension, in one line."""
    if content.total.before is None:
        return ""
    lines = []
    for each in content.breakdowns:
        rows = [(row.compared.change or ZERO, row) for row in each.rows if not row.rest]
        change, most = max(rows, key=lambda row: abs(row[0]), default=(ZERO, None))
        if change and most is not None:
            lines.append(
                f"<li>By {escape(_title(each.dimension))}, most of the change: {_name(most)} "
                f"<b>{signed(change)}</b></li>"
            )
    return f"<ul class=movers>{''.join(lines)}</ul>" if lines else ""


def _days(content: Content) -> str:
    spending = content.spending
    known = [each.cost for each in content.bars if each.cost is not None]
    before = content.total.before
    of_before = None
    several = any(each.since != each.until for each in content.bars)
    if before is not None and not several:
        of_before = before / spending.asked.days
    scale = axis([*known, *([of_before] if of_before is not None else [])])
    drawn = [Drawn(each.cost, _told(each), each.provisional) for each in content.bars]
    most = max(known, default=Decimal(0))
    label = (
        f"{'Cost of each span of days' if several else 'Cost of each day'} from {spending.since} "
        f"to {spending.until}, at most {money(most)} {spending.currency}; "
        "the table below has the figures"
    )
    ticks = "".join(
        f'<span style="bottom:{100 * scale.share(tick):.1f}%">{_short_money(tick)}</span>'
        for tick in scale.ticks
    )
    places = sorted({0, len(content.bars) // 2, len(content.bars) - 1})
    dates = "".join(f"<span>{content.bars[place].since}</span>" for place in places)
    keys = ["<li><i class=bar></i>cost</li>"]
    if any(each.provisional for each in content.bars):
        keys.append("<li><i class=soft></i>provisional: may still be restated</li>")
    if any(each.cost is None for each in content.bars):
        keys.append("<li><i class=gap></i>no data</li>")
    if of_before is not None:
        keys.append(f"<li><i class=held></i>average of the days before: {money(of_before)}</li>")
    heading = "Several days at a time" if several else "Day by day"
    rows = "".join(
        f"<tr><th scope=row>{_span(each)}</th><td class=n>"
        f"{'no data' if each.cost is None else money(each.cost)}</td>"
        f"<td>{_state(each)}</td></tr>"
        for each in content.bars
    )
    return (
        f"<section><h2>{heading}</h2><figure><div class=plot><div class=y aria-hidden=true>{ticks}"
        f"</div>{bars(drawn, scale, label, line=of_before)}<div class=x aria-hidden=true>{dates}"
        f"</div></div><figcaption><ul class=keys>{''.join(keys)}</ul></figcaption></figure>"
        f"<details><summary>The figures</summary><table class=days><thead><tr>"
        f"<th scope=col>Day</th><th scope=col class=n>{escape(spending.currency)}</th>"
        f"<th scope=col>State</th></tr></thead><tbody>{rows}</tbody></table></details></section>"
    )


def _span(bar: Bar) -> str:
    return f"{bar.since}" if bar.since == bar.until else f"{bar.since} to {bar.until}"


def _state(bar: Bar) -> str:
    told = ["provisional"] if bar.provisional else []
    if bar.missing and bar.cost is not None:
        told.append(f"{bar.missing} days without data")
    return ", ".join(told)


def _told(bar: Bar) -> str:
    told = f"{_span(bar)}: {'no data' if bar.cost is None else money(bar.cost)}"
    state = _state(bar)
    return f"{told} ({state})" if state else told


def _breakdown(breakdown: Breakdown, content: Content) -> str:
    currency = content.spending.currency
    title = _title(breakdown.dimension)
    compared = content.total.before is not None
    most = max((abs(row.share or 0) for row in breakdown.rows), default=0) or 1
    rows = "".join(_row(row, most, compared=compared) for row in breakdown.rows)
    heads = '<th scope=col class="n wide">Before</th><th scope=col class=n>Change</th>'
    return (
        f"<section><h2>By {escape(title)}</h2><div class=scroll><table class=by>"
        f"<thead><tr><th scope=col>{escape(title.capitalize())}</th>"
        f"<th scope=col class=wide>Day by day</th><th scope=col class=n>{escape(currency)}</th>"
        f'<th scope=col class="n share">Share</th>{heads if compared else ""}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _row(row: Share, most: float, *, compared: bool) -> str:
    known = [slot.cost for slot in row.line if slot.cost is not None]
    if known:
        label = f"day by day, from {money(known[0])} to {money(known[-1])}, at most "
        label += money(max(known))
    else:
        label = "no data"
    share = "-" if row.share is None else f"{100 * row.share:.1f} %".replace("-", _MINUS)
    length = 100 * abs(row.share or 0) / most
    bar = f'<span class=meter aria-hidden=true><i style="width:{length:.1f}%"></i></span>'
    return (
        f"<tr{' class=rest' if row.rest else ''}><th scope=row>{_name(row)}</th>"
        f"<td class=wide>{spark(row.line, label)}</td><td class=n>{money(row.compared.cost)}</td>"
        f'<td class="n share">{bar}<span class=percent>{share}</span></td>'
        f"{_change(row.compared) if compared else ''}</tr>"
    )


def _change(compared: Compared) -> str:
    before, change = compared.before, compared.change
    if before is None or change is None:
        return '<td class="n wide">unknown</td><td class=n>unknown</td>'
    relative = compared.relative
    new = "new" if change else ""
    note = new if relative is None else signed_percent(relative)
    return (
        f'<td class="n wide">{money(before)}</td>'
        f"<td class=n>{signed(change)} <small>{note}</small></td>"
    )


def _name(row: Share) -> str:
    if row.rest:
        return f"{row.rest:,} others"
    return f"<bdi>{escape(row.name)}</bdi>" if row.name else f"<i>{_NONE}</i>"


def _incidents(incidents: Sequence[Incident] | None, currency: str) -> str:
    if incidents is None:
        return ""
    if not incidents:
        return "<section><h2>Unusual costs</h2><p>None was found in these days.</p></section>"
    rows = "".join(
        f"<li><h3><bdi>{_text(each.title)}</bdi> <span class=status>{_text(each.status)}</span>"
        f"</h3><p>{_amount(each, currency)}<bdi>{_text(each.explanation)}</bdi></p></li>"
        for each in incidents[:_INCIDENTS_MOST]
    )
    more = len(incidents) - _INCIDENTS_MOST
    rest = f"<p>And {more:,} more.</p>" if more > 0 else ""
    return f"<section><h2>Unusual costs</h2><ul class=incidents>{rows}</ul>{rest}</section>"


def _amount(incident: Incident, currency: str) -> str:
    since = f" since {incident.since}" if incident.since else ""
    if incident.amount is None:
        return f"<b>Amount unknown{since}.</b> "
    return f"<b>{signed(incident.amount)} {escape(currency)}{since}.</b> "


def _reconciliation(content: Content) -> str:
    spending = content.spending
    measure = spending.asked.measure
    is_other = measure is not Measure.BILLED
    rows = ""
    for each in spending.reconciled:
        rows += f"<tr><th scope=row>{escape(each.kind.value.capitalize())}</th>"
        rows += f"<td class=n>{money(each.billed)}</td>"
        if is_other:
            rows += f"<td class=n>{money(each.shown)}</td>"
            rows += f"<td class=n>{signed(each.shown - each.billed)}</td>"
        rows += "</tr>"
    total = f"<tr><th scope=row>Total</th><td class=n>{money(spending.billed)}</td>"
    heads = "<th scope=col>Kind of charge</th><th scope=col class=n>BilledCost</th>"
    if is_other:
        heads += f"<th scope=col class=n>{measure.column}</th><th scope=col class=n>Difference</th>"
        total += f"<td class=n>{money(spending.total)}</td>"
        total += f"<td class=n>{signed(spending.total - spending.billed)}</td>"
    told = (
        f"The bill says {money(spending.billed)} {escape(spending.currency)} (BilledCost) for "
        "these days"
    )
    told += (
        f"; this page shows {money(spending.total)} ({measure.column})." if is_other else ", too."
    )
    return (
        f"<section><h2>How it adds up to the bill</h2><p>{told}</p><div class=scroll><table>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody><tfoot>{total}</tr></tfoot></table>"
        "</div></section>"
    )


def _left_out(content: Content) -> str:
    if not content.left_out:
        return (
            "<section><h2>What this page leaves out</h2><p>Nothing that the bills of these days "
            "hold.</p></section>"
        )
    lines = "".join(f"<li><bdi>{_text(each)}</bdi></li>" for each in content.left_out)
    return f"<section><h2>What this page leaves out</h2><ul>{lines}</ul></section>"


def _text(text: str) -> str:
    return escape(text if len(text) <= _TEXT_MOST else f"{text[: _TEXT_MOST - 1]}…")


def _title(dimension: str) -> str:
    return dimension.replace("_", " ").replace("-", " ")


def money(amount: Decimal) -> str:
    """An amount as people read it."""
    return f"{amount:,.2f}".replace("-", _MINUS)


def signed(amount: Decimal) -> str:
    """An amount that is a difference."""
    told = f"{amount:+,.2f}"
    return "0.00" if told in {"+0.00", "-0.00"} else told.replace("-", _MINUS)


def signed_percent(share: float | None) -> str:
    """A difference as a share."""
    if share is None:
        return ""
    told = f"{100 * share:+,.1f} %" if abs(share) < 10 else f"×{share + 1:,.0f}"
    return told.replace("-", _MINUS)


def _short_money(amount: Decimal) -> str:
    for unit, name in ((Decimal(10) ** 9, "G"), (Decimal(10) ** 6, "M"), (Decimal(10) ** 3, "k")):
        if abs(amount) >= unit:
            return f"{(amount / unit).normalize():f} {name}".replace("-", _MINUS)
    return f"{amount.normalize():f}".replace("-", _MINUS)
