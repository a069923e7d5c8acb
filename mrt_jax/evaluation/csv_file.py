"""Tables of what figures draw, as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrt_jax.whole_file import whole_file


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table with a line of column names; numbers as they are, None as nothing.

    The file appears whole or not at all.
    """
    with whole_file(path, newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows(rows)
