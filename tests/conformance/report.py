"""The suites' summary: who upholds how much, and what no server of a scheme proves.

A pytest plugin, apart from the conftest, because under xdist the summary is written by a process
that collects no tests.
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum

import pytest

PROPERTY = "conformance"


class Verdict(Enum):
    """What a run showed of one clause on one server."""

    UPHELD = "upheld"
    BROKEN = "broken, as the table says"
    FAILED = "failed"
    NOT_DECLARED = "not declared"
    NOT_RUN = "not run"


class Conformance:
    """Collects verdicts and prints them at the end."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, dict[str, tuple[Verdict, str]]]] = defaultdict(
            lambda: defaultdict(dict)
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, (list, tuple)):
                scheme, server, clause, reason = map(str, value)
                self._seen[scheme][server][clause] = (_verdict(report, reason), reason)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._seen:
            return
        terminalreporter.section("conformance")
        for scheme, servers in sorted(self._seen.items()):
            for server, clauses in sorted(servers.items()):
                verdicts = [verdict for verdict, _ in clauses.values()]
                counts = ", ".join(
                    f"{verdicts.count(kind)} {kind.value}" for kind in Verdict if kind in verdicts
                )
                terminalreporter.write_line(f"{scheme}: {server}: {counts}")
            for clause, reasons in unproven(servers):
                terminalreporter.write_line(f"{scheme}: unproven: {clause} ({reasons})")


def unproven(servers: dict[str, dict[str, tuple[Verdict, str]]]) -> list[tuple[str, str]]:
    """Clauses that some server of a scheme breaks and none upholds, with the reasons."""
    upheld = {
        clause
        for clauses in servers.values()
        for clause, (verdict, _) in clauses.items()
        if verdict is Verdict.UPHELD
    }
    broken: dict[str, list[str]] = defaultdict(list)
    for server, clauses in sorted(servers.items()):
        for clause, (verdict, reason) in clauses.items():
            if verdict is Verdict.BROKEN and clause not in upheld:
                broken[clause].append(f"{server}: {reason}")
    return sorted((clause, "; ".join(reasons)) for clause, reasons in broken.items())


def _verdict(report: pytest.TestReport, reason: str) -> Verdict:
    if reason == Verdict.NOT_DECLARED.value:
        return Verdict.NOT_DECLARED
    if report.passed:
        return Verdict.UPHELD
    if report.failed:
        return Verdict.FAILED
    if hasattr(report, "wasxfail"):
        return Verdict.BROKEN
    return Verdict.NOT_RUN


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Conformance(), "conformance")
