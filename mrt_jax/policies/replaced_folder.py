"""Folders that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mrt_jax.errors import InputError

_OF_RUNS = ('metrics.jsonl', 'provenance.json')


@contextlib.contextmanager
def replaced_folder(folder: Path, marker: str) -> Iterator[Path]:
    """Gives a new folder beside `folder` to fill, and puts it in its place when filled.

    Raises:
        InputError: it cannot be written, or holds something without the file `marker`, or beside
            it what no policy has: a folder, or what runs write.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f'{folder}: is a file, so no policy folder can be written there')
    inside = list(folder.iterdir()) if folder.is_dir() else []
    others = [entry for entry in inside if entry.is_dir() or entry.name in _OF_RUNS]
    if others or (inside and not (folder / marker).is_file()):
        raise InputError(
            f'{folder}: holds something other than a policy, which would be lost: give another '
            'folder or empty this one'
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    except OSError as error:
        raise InputError(f'{folder}: cannot be written: {error.strerror}') from error
    try:
        new, old = workplace / 'new', workplace / 'old'
        new.mkdir()
        yield new
        for file in new.iterdir():
            _flush(file)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        _flush(folder.parent)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _flush(path: Path) -> None:
    """Waits until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
