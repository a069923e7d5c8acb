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


def check_origin(begun_from: str | None, policy: str, workdir: Path) -> None:
    """Refuses to go on from another policy, parts of which a checkpoint does not hold.

    Args:
        begun_from: `config.policy` of the run that saved the checkpoint.
        policy: that of this run.
        workdir: of both, for the message.

    Raises:
        InputError: they are not the same.
    """
    if begun_from != policy:
        raise InputError(
            f'policy={policy!r}, but {workdir} was begun from {begun_from!r}: give that policy, or '
            'another workdir'
        )
