"""`mlplatform validate`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.errors import outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.control.store_probe import StoreReport
    from mlplatform.core.errors import MlplatformError
    from mlplatform.core.store_url import StoreURL
    from mlplatform.ports.traffic import Traffic


@command
def validate(
    session: Session,
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the file alone; ask no store.")
    ] = False,
    region_timeout: options.RegionTimeout = 10.0,
) -> int:
    """Check the topology, then every store and every route it names.

    In each store a scratch object is written, read, replaced and deleted again. The table shows
    which of the rights list, get, put and delete is missing, and whether conditional writes hold.
    Of each route the actuator is read, and nothing is written.

    $ mlplatform validate
    $ mlplatform validate --offline
    """
    from mlplatform import wiring

    topology = session.topology(doubts=True)
    places = wiring.places_of(topology)
    wiring.require_schemes(places)
    routes = {name: wiring.open_traffic(topology, name) for name in topology.traffic.routes}
    if offline:
        rows: list[dict[str, Any]] = [
            {"place": place, "store": str(url)} for place, url in places.items()
        ]
        told = [{"route": name, "actuator": traffic.url} for name, traffic in routes.items()]
        session.show("stores", rows, columns=[Column("place"), Column("store")], routes=told)
        _show_routes(session, told)
        return 0
    reports = _probe(places, region_timeout)
    rows = [_row(place, url, reports[place]) for place, url in places.items()]
    read, troubles = _read_routes(routes, region_timeout)
    session.show("stores", rows, columns=_COLUMNS, routes=read)
    _show_routes(session, read)
    for place, report in reports.items():
        _tell(session, place, str(places[place]), report)
    for name, error in troubles.items():
        session.console.say(f"route {name}: {error}", level="error")
        if error.hint:
            session.console.say(error.hint, level="hint")
    codes = [code for report in reports.values() for code in report.exit_codes]
    codes += [5 if error.retryable else error.exit_code for error in troubles.values()]
    return outranking(codes)


def _show_routes(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """For people, below the stores; programs have them beside these."""
    if rows and session.output is Output.TABLE:
        session.console.data("\n")
        session.show(
            "routes",
            rows,
            columns=[
                Column("route"),
                Column("actuator"),
                Column("weights", show=_shares, optional=True),
                Column("epoch", right=True, optional=True),
                Column("zero", "A WEIGHT OF ZERO", optional=True),
                Column("detail", optional=True),
            ],
        )


def _shares(weights: Mapping[str, int] | None) -> str:
    return ", ".join(f"{region} {weight}" for region, weight in (weights or {}).items()) or "-"


def _read_routes(
    routes: "Mapping[str, Traffic]", timeout_seconds: float
) -> "tuple[list[dict[str, Any]], dict[str, MlplatformError]]":
    """What each actuator holds, and why it could not be read."""
    from concurrent.futures import wait

    from mlplatform.control.executors import DaemonThreads
    from mlplatform.core.errors import MlplatformError, Unreadable

    executor = DaemonThreads()
    asked = {name: executor.submit(traffic.read) for name, traffic in routes.items()}
    wait(asked.values(), timeout=timeout_seconds)
    rows, troubles = [], {}
    for name, traffic in routes.items():
        row: dict[str, Any] = {
            "route": name,
            "actuator": traffic.url,
            "zero": traffic.features.zero,
            "exercised": traffic.features.exercised,
        }
        try:
            if not asked[name].done():
                raise Unreadable(f"{traffic.url}: no answer within {timeout_seconds:g} s")
            state = asked[name].result()
        except MlplatformError as error:
            troubles[name] = error
            row["detail"] = type(error).__name__
        else:
            row |= {"weights": dict(state.weights), "epoch": state.epoch, "writer": state.writer}
        rows.append(row)
    return rows, troubles


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
