"""Folders of prepared datasets: built once, whole or not at all, and checked when opened."""

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds

from mrt_jax.errors import InputError
from mrt_jax.manifest import find_damage, write_manifest

DATA_VARIABLE = 'MRT_JAX_DATA'


def data_directory() -> Path:
    """Where datasets are kept: $MRT_JAX_DATA, else the user's cache folder."""
    if DATA_VARIABLE in os.environ:
        return Path(os.environ[DATA_VARIABLE])
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'mrt_jax' / 'datasets'


def open_dataset_folder(
    name: str, make_builder: Callable[[Path], tfds.core.DatasetBuilder]
) -> Path:
    """A dataset's folder, built when it is not there.

    Args:
        name: of the folder in `data_directory()`; another dataset or version has another.
        make_builder: the builder that writes into a folder.

    Raises:
        InputError: the folder cannot be written, or its files are damaged.
    """
    folder = data_directory() / name
    if not folder.exists():
        _build(folder, make_builder)
    damage = find_damage(folder)
    if damage:
        raise InputError(
            f'{folder}: the dataset is damaged: {damage}; delete the folder to have it built again'
        )
    return folder


def _build(folder: Path, make_builder: Callable[[Path], tfds.core.DatasetBuilder]) -> None:
    """Builds beside the folder and renames: it appears whole, whoever else builds it meanwhile."""
    partial = folder.with_name(f'.{folder.name}.{uuid.uuid4().hex}.partial')
    tfds.disable_progress_bar()
    try:
        partial.mkdir(parents=True)
        builder = make_builder(partial)
        with contextlib.redirect_stdout(io.StringIO()):  # It announces a download.
            builder.download_and_prepare()
        write_manifest(partial)
        with contextlib.suppress(FileExistsError):
            _rename_to_new(partial, folder)
    except OSError as error:
        raise InputError(
            f'{folder}: the dataset cannot be written ({error.strerror or error}); set '
            f'${DATA_VARIABLE} to a folder that can be written'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_to_new(source: Path, target: Path) -> None:
    """Renames a folder; raises FileExistsError where another process was first."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise
