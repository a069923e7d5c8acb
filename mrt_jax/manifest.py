"""A digest of every file of a folder, so that damage is found before anything is read.

Orbax does not checksum array data: a flipped bit restores without an error, and wrong. Datasets
fail late, at the first damaged record, with whatever exception their reader happens to raise.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MANIFEST = 'manifest.json'
_ALGORITHM = 'sha256'


def write_manifest(folder: Path) -> None:
    """Brings the folder's files to the disk and writes their digests beside them, atomically.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    for file in _files(folder):
        _flush_to_disk(file)
    manifest = {'algorithm': _ALGORITHM, 'files': _digests(folder)}
    draft = folder / f'{MANIFEST}.draft'
    draft.write_text(_text(manifest), encoding='utf-8')
    _flush_to_disk(draft)
    draft.rename(folder / MANIFEST)


def find_damage(folder: Path) -> str | None:
    """Compares a folder with its manifest.

    Returns:
        None if it is whole, else a phrase that names the first file at fault.
    """
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        manifest = json.loads(text)
        expected = dict(manifest['files'])
        # As it was written to the last bit, the spaces included.
        known = manifest['algorithm'] == _ALGORITHM and text == _text(manifest)
    except FileNotFoundError:
        return f'{MANIFEST} is missing, so it was never completed'
    except (OSError, ValueError, KeyError, TypeError):
        return f'{MANIFEST} cannot be read'
    if not known:
        return f'{MANIFEST} cannot be read'
    try:
        actual = _digests(folder)
    except OSError as error:
        return f'{error.filename} cannot be read ({error.strerror})'
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f'{name} is missing'
        if name not in expected:
            return f'{name} is not in {MANIFEST}'
        if actual[name] != expected[name]:
            return f'{name} differs from its digest'
    return None


def contents_digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of what sha256sum prints of the files right in it.

    These are in the order of their names, as in `cd FOLDER; LC_ALL=C sha256sum * | sha256sum`.
    """
    if path.is_file():
        return _digest(path)
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != '.')
    lines = (f'{digest}  {file.name}\n' for file, digest in _in_threads(files))
    return hashlib.sha256(''.join(lines).encode()).hexdigest()


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + '\n'


def _files(folder: Path) -> list[Path]:
    """Every file below the folder but its own manifest, in a fixed order."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return sorted(file for file in files if file != folder / MANIFEST)


def _digests(folder: Path) -> dict[str, str]:
    """Digest of each file by its path below the folder."""
    files = _in_threads(_files(folder))
    return {file.relative_to(folder).as_posix(): digest for file, digest in files}


def _in_threads(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """The files with their digests."""
    # Hashing releases the interpreter lock, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        return list(zip(files, pool.map(_digest, files), strict=True))


def _digest(file: Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, _ALGORITHM).hexdigest()


def _flush_to_disk(file: Path) -> None:
    with file.open('rb') as stream:
        os.fsync(stream.fileno())
