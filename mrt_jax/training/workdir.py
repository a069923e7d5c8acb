"""The folder that a run writes to."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def origin_of(config: Any) -> dict[str, Any]:
    """What a checkpoint keeps of its run for `check_origin`, a JSON object."""
    return {name: config[name] for name in ('objective', 'policy')}


def check_origin(meta: Mapping[str, Any], config: Any, workdir: Path) -> None:
    """Refuses to go on with another kind of training, or from another policy.

    A checkpoint does not hold what is frozen, nor the reference, and the report shows the policy
    that a run began from.

    Args:
        meta: of the checkpoint; those of earlier versions may lack parts of `origin_of`.
        config: of this run.
        workdir: of both, for the message.

    Raises:
        InputError: they are not the same.
    """
    for name, value in origin_of(config).items():
        if meta.get(name, value) != value:
            raise InputError(
                f'{name}={value!r}, but {workdir} was begun with {name}={meta[name]!r}: give that '
                f'{name}, or another workdir'
            )
