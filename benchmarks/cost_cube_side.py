"""The cube as `cost import` makes it: `python -m benchmarks.cost_cube_side MEMORY_MIB FILE…`."""

import sys
import tempfile
from pathlib import Path

from mlplatform.cost.cube import cube_of
from mlplatform.cost.engine import connect, text_of
from mlplatform.cost.readers.files import open_file
from mlplatform.cost.readers.focus import Focus
from mlplatform.cost.readers.shape import WHOLE, Columns


def main() -> None:
    """Day × region × service by way of the FOCUS reader; how many rows it has."""
    memory_mib, *files = sys.argv[1:]
    with (
        tempfile.TemporaryDirectory() as folder,
        connect(Path(folder), memory_mib=int(memory_mib)) as connection,
    ):
        columns = Columns(open_file(connection, Path(files[0]), called=files[0]).types)
        relation = f"read_parquet([{', '.join(map(text_of, files))}])"
        charges = Focus().select(relation, columns, {}, WHOLE)
        cube = cube_of(f"({charges})", dimensions=("region", "service"))
        target = text_of(f"{folder}/cube.parquet")
        connection.execute(f"COPY ({cube}) TO {target} (FORMAT parquet)").fetchall()
        ((rows,),) = connection.execute(f"SELECT count(*) FROM {target}").fetchall()
        print(rows)


if __name__ == "__main__":
    main()
