"""What a run says when the machine gives out: which program or file, and what to do about it."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from mrt_jax.errors import ResourceError

_OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'
# What a folder can do to a run, and what to do about it; other errors, such as a lost connection,
# are no folder's.
_ADVICE = {
    'make room there': (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    'make it writable': (errno.EROFS, errno.EACCES, errno.EPERM),
    'bring it back': (errno.ENOENT, errno.ENOTDIR, errno.ESTALE),
    'see what is wrong with the disk': (errno.EIO,),
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
        reason = text[:200] or type(error).__name__
        raise ResourceError(f'{program}: out of memory ({reason}): {advice}') from error


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
        raise ResourceError(f'{error}; {_kept(workdir, newest)}') from error
    except OSError as error:
        advice = [text for text, codes in _ADVICE.items() if error.errno in codes]
        if not advice:
            raise
        raise ResourceError(
            f'{error.filename or workdir}: {error.strerror}: {advice[0]}; '
            f'{_kept(workdir, newest)}'
        ) from error


def _kept(workdir: Path, newest: Callable[[], int]) -> str:
    try:
        step = newest()
    except OSError as error:
        return f'what is saved in {workdir} cannot be read either ({error.strerror})'
    if not step:
        return f'the same command then begins anew, for {workdir} has no checkpoint'
    return f'the same command then goes on from the checkpoint of step {step} in {workdir}'
