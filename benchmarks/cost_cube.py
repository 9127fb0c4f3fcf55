"""Bills of many millions of charges: the cube beside polars, what an import needs of memory, and
the report beside DuckDB's own query.

**The cube.** Ten million charges of FOCUS in 21 columns, generated, one Parquet file with zstd;
costs are DECIMAL, as FOCUS says, and
once more DOUBLE, as some exports have them. Both sides sum four costs, count who states them, and
sum the quantity, by day × region × service, into a Parquet file. Ours goes by way of the reader, so
its sums are DECIMAL and exact. Then the same file ten times over.

**The import.** CSV files of 100 MB and of 1 GB with a broken line in each, imported by the command.

**The report.** An export of a million charges, imported; seven days of it by region, beside the
same table that DuckDB makes of the export itself: in one process, and as `mlplatform cost report`
beside a Python process, where most is the start of both.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.cost_report_side import QUERY
from benchmarks.measure import MIB, Result, Row, Usage, in_turns, run
from benchmarks.rig import MLPLATFORM
from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.launch import ServerMissing

PAIRS = 5
ROWS = 10_000_000
MANY = 10
MEMORY_MIB = 96
CPU_LIMIT = 1.0
PEAK_LIMIT_MIB = 200.0
PEAK_OF_MANY_LIMIT_MIB = 250.0
REPORT_ROWS = 1_000_000
REPORT_LIMIT = 2.0
FLAT = 1.1
CSV_ROWS = (400_000, 4_000_000)
MONEY = "DECIMAL(18,6)"
HERE = Path(__file__).parent


def measure(pairs: int) -> Result:
    """All of it."""
    polars = BY_NAME["polars"]
    if not polars.built:
        raise ServerMissing(polars)
    result = Result(
        "cost_cube",
        f"bills of {ROWS / 1e6:.0f} million charges; medians of {pairs} interleaved pairs",
        peer="polars, streaming; for the report, DuckDB on the export itself",
    )
    with tempfile.TemporaryDirectory(prefix="mlplatform-bench-") as name:
        folder = Path(name)
        _cube(result, folder, pairs, polars.path)
        _import(result, folder)
        _report(result, folder, pairs)
    return result


def _cube(result: Result, folder: Path, pairs: int, polars: str | Path) -> None:
    bill = str(_generate(folder / "bill.parquet", ROWS, MONEY))
    env = _environment(folder)

    def ours(times: int, bill: str = bill) -> Usage:
        side = [sys.executable, "-m", "benchmarks.cost_cube_side", str(MEMORY_MIB)]
        return run([*side, *[bill] * times], env)

    def peer(bill: str = bill) -> Usage:
        return run([str(polars), str(HERE / "peer_polars.py"), bill], env)

    measured = in_turns(pairs, lambda: ours(1), peer)
    result.compare(", cube", [(one, other) for one, other in measured], cpu=CPU_LIMIT)
    peaks = [one.peak_bytes / MIB for one, _ in measured]
    result.rows.append(Row("peak memory, cube", "MiB", peaks, limit=PEAK_LIMIT_MIB))
    many = ours(MANY)
    once = sorted(one.cpu_seconds for one, _ in measured)[len(measured) // 2]
    result.rows += [
        Row(
            f"peak memory, {MANY} times the charges",
            "MiB",
            [many.peak_bytes / MIB],
            limit=PEAK_OF_MANY_LIMIT_MIB,
        ),
        Row(
            f"CPU for {MANY} times the charges, per charge", "s", [many.cpu_seconds / MANY], [once]
        ),
    ]
    floats = str(_generate(folder / "floats.parquet", ROWS))
    measured = in_turns(pairs, lambda: ours(1, floats), lambda: peer(floats))
    result.compare(", cube of DOUBLE", [(one, other) for one, other in measured], memory=False)


def _import(result: Result, folder: Path) -> None:
    peaks = []
    for rows in CSV_ROWS:
        place = _topology(folder / f"csv-{rows}")
        bill = _generate(place / "bills" / "bill.csv", rows)
        _break_a_line(bill)
        used = run(
            [*MLPLATFORM, "cost", "import", "--memory", "256", *_of(place)], _environment(place)
        )
        size = bill.stat().st_size
        bill.unlink()
        peaks.append(used.peak_bytes / MIB)
        result.notes.append(
            f"import of {size / 1e6:,.0f} MB of CSV: {used.wall_seconds:.1f} s, "
            f"{used.cpu_seconds:.1f} s of CPU, {peaks[-1]:.0f} MiB at most"
        )
    result.rows.append(
        Row("peak memory, CSV ten times as large", "MiB", peaks[1:], peaks[:1], limit=FLAT)
    )


def _report(result: Result, folder: Path, pairs: int) -> None:
    place = _topology(folder / "report")
    bill = _generate(place / "bills" / "bill.parquet", REPORT_ROWS)
    env = _environment(place)
    run([*MLPLATFORM, "cost", "import", *_of(place)], env)
    export = str(bill)
    program = f"import duckdb; duckdb.sql({QUERY.replace('$FILE', export)!r}).fetchall()"
    measured = in_turns(
        pairs,
        lambda: run([*MLPLATFORM, "cost", "report", "--days", "7", *_of(place)], env),
        lambda: run([sys.executable, "-c", program], env),
    )
    side = [sys.executable, "-m", "benchmarks.cost_report_side", str(place / "topology.yaml")]
    times = [run([*side, export], env).output.split() for _ in range(pairs)]
    ours, peer = ([1000 * float(each[place]) for each in times] for place in (0, 1))
    result.rows.append(Row("report, in one process", "ms", ours, peer, limit=REPORT_LIMIT))
    result.compare(", report as a command", [(one, other) for one, other in measured], memory=False)


def _generate(path: Path, rows: int, money: str = "DOUBLE") -> Path:
    """A bill of so many charges; made elsewhere, since a process that has been large looks large in
    all that it starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "benchmarks.cost_bill", str(rows), money, str(path)]
    run(program, _environment(path.parent))
    return path


def _break_a_line(bill: Path) -> None:
    """One in the middle has a column too few."""
    with bill.open("r+b") as file:
        file.seek(bill.stat().st_size // 2)
        file.readline()
        start = file.tell()
        line = file.readline()
        file.seek(start)
        file.write(line.replace(b",", b";", 1))


def _topology(folder: Path) -> Path:
    folder.mkdir()
    (folder / "bills").mkdir()
    (folder / "topology.yaml").write_text(
        f"control: file://{folder}/control\n"
        f"regions: {{r: {{store: 'file://{folder}/r'}}}}\n"
        f"cost: {{exports: 'file://{folder}/bills', tags: {{team: team, model: model}}}}\n"
    )
    return folder


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}


def _of(folder: Path) -> list[str]:
    return ["--topology", str(folder / "topology.yaml")]
