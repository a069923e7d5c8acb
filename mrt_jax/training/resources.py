"""What a run says when the machine gives out: which program or file, and what to do about it."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from mrt_jax.errors import ResourceError

_OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'
# Full, read-only, forbidden, gone or broken; others, such as a lost connection, are no folder's.
_OF_FOLDERS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT,
    errno.ENOTDIR, errno.EIO, errno.ESTALE,
}

SMALLER_UPDATE = "lower microbatch_rows or row_tokens, or set remat='full'"


@contextlib.contextmanager
def fitting_in_memory(program: str, advice: str) -> Iterator[None]:
    """Within it a program is compiled and run, and its results are read.

    Args:
        program: what is computed.
        advice: what to change in the config for it to need less memory.

    Raises:
        ResourceError: memory of the device or of the host ran out.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = ' '.join(str(error).split())
        if isinstance(error, jax.errors.JaxRuntimeError) and _OUT_OF_MEMORY not in text:
            raise
        reason = f'out of memory ({text[:200] or type(error).__name__})'
        raise ResourceError(f'{program}: {reason}: {advice}') from error


@contextlib.contextmanager
def keeping(workdir: Path, newest: Callable[[], int]) -> Iterator[None]:
    """Within it a run works in its folder; when that or memory gives out, says what is saved.

    Args:
        workdir: of the run.
        newest: step of the newest whole checkpoint, 0 without one.

    Raises:
        ResourceError: the folder cannot be used, or one was raised within.
    """
    try:
        yield
    except ResourceError as error:
        raise ResourceError(f'{error}; {_kept(workdir, newest())}') from error
    except OSError as error:
        if error.errno not in _OF_FOLDERS:
            raise
        raise ResourceError(
            f'{error.filename or workdir}: {error.strerror}: make room there, or the folder whole '
            f'and writable, and give the same command again; {_kept(workdir, newest())}'
        ) from error


def _kept(workdir: Path, step: int) -> str:
    if not step:
        return f'{workdir} has no checkpoint yet'
    return f'the checkpoint of step {step} in {workdir} is kept, and gone on from'
