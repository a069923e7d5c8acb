"""Files that appear whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def whole_file(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A UTF-8 text file to write; it takes its place, and another's, when all has been written.

    Args:
        path: of the file; what is written lies beside it until then, with `.partial` behind its
            name.
        newline: as for `open`.
    """
    partial = path.with_name(f'{path.name}.partial')
    with partial.open('w', encoding='utf-8', newline=newline) as stream:
        yield stream
    partial.replace(path)
