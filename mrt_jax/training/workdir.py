"""The folder that a run writes to."""

import tempfile
from pathlib import Path

from mrt_jax.errors import InputError


def check_workdir(path: str | Path) -> Path:
    """Makes the folder if need be and finds out before any work whether it can be written to.

    Raises:
        InputError: it cannot.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.writable-'):
            pass
    except OSError as error:
        raise InputError(
            f'{folder}: cannot be written to ({error.strerror}); give a workdir that can'
        ) from error
    return folder
