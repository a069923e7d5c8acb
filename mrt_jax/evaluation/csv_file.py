"""Tables of what figures draw, as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table with a line of column names; numbers as they are, None as nothing.

    The file appears whole or not at all.
    """
    partial = path.with_name(f'{path.name}.partial')
    with partial.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows(rows)
    partial.replace(path)
