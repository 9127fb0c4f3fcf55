"""`mlplatform validate`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.errors import outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.control.store_probe import StoreReport
    from mlplatform.core.store_url import StoreURL


@command
def validate(
    session: Session,
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the file alone; ask no store.")
    ] = False,
    region_timeout: options.RegionTimeout = 10.0,
) -> int:
    """Check the topology, then every store it names.

    In each store a scratch object is written, read, replaced and deleted again. The table shows
    which of the rights list, get, put and delete is missing, and whether conditional writes hold.

    $ mlplatform validate
    $ mlplatform validate --offline
    """
    from mlplatform import wiring

    topology = session.topology(doubts=True)
    places = wiring.places_of(topology)
    wiring.require_schemes(places)
    if offline:
        rows: list[dict[str, Any]] = [
            {"place": place, "store": str(url)} for place, url in places.items()
        ]
        session.show("stores", rows, columns=[Column("place"), Column("store")])
        return 0
    reports = _probe(places, region_timeout)
    rows = [_row(place, url, reports[place]) for place, url in places.items()]
    session.show("stores", rows, columns=_COLUMNS)
    for place, report in reports.items():
        _tell(session, place, str(places[place]), report)
    return outranking(code for report in reports.values() for code in report.exit_codes)


_STYLES = {"ok": "green", "denied": "red", "broken": "red", "no": "yellow", "unknown": "yellow"}
_COLUMNS = (
    Column("place"),
    Column("store"),
    *(
        Column(check, title, style=_STYLES.get)
        for check, title in (
            ("list", "LIST"),
            ("get", "GET"),
            ("put", "PUT"),
            ("delete", "DELETE"),
            ("conditional_put", "COND PUT"),
            ("conditional_complete", "COND COMPLETE"),
            ("conditional_delete", "COND DELETE"),
        )
    ),
)


def _probe(places: Mapping[str, "StoreURL"], timeout_seconds: float) -> dict[str, "StoreReport"]:
    import secrets

    from mlplatform import wiring
    from mlplatform.control.executors import DaemonThreads
    from mlplatform.control.store_probe import probe_all

    openers: dict[str, Callable[[], Any]] = {
        place: partial(wiring.open_store, url) for place, url in places.items()
    }
    return probe_all(
        openers,
        secrets.token_hex(8),
        executor=DaemonThreads(),
        timeout_seconds=timeout_seconds,
    )


def _row(place: str, url: "StoreURL", report: "StoreReport") -> dict[str, Any]:
    findings = report.findings.items()
    return {
        "place": place,
        "store": str(url),
        **{check.value: finding.verdict.value for check, finding in findings},
        "missing_rights": list(report.missing_rights),
        "reasons": {check.value: finding.reason for check, finding in findings if finding.reason},
        "features": asdict(report.features) if report.features else None,
        "leftover": report.leftover,
    }


def _tell(session: Session, place: str, store: str, report: "StoreReport") -> None:
    """Each thing that is wrong with a store, once, with the checks that it befell."""
    checks: dict[tuple[str, str, int], list[str]] = {}
    for check, found in report.findings.items():
        if found.verdict.value != "ok":
            name = check.value.replace("_", " ")
            checks.setdefault((found.verdict.value, found.reason, found.exit_code), []).append(name)
    for (verdict, reason, code), names in checks.items():
        where = reason if store in reason else f"{store}: {reason}"
        told = f"{place}: {', '.join(names)}: {verdict}: {where}"
        session.console.say(told, level="error" if code else "warning", region=place)
    for hint in report.hints:
        if "mlplatform validate" not in hint:
            session.console.say(hint, level="hint")
        else:  # which is what is being done
            rights = " and ".join(report.missing_rights)
            session.console.say(f"give these credentials the right to {rights}", level="hint")
    if report.leftover:
        session.console.warn(f"{place}: {store}/{report.leftover} may have been left there")
