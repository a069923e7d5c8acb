"""What all commands share: exit codes, one-line errors, and the flag for the device mesh."""

import contextlib
import ctypes
import errno
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging

from mrt_jax.errors import DivergedError, InputError, NonFiniteError, ResourceError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from mrt_jax.models.transformer import Transformer
    from mrt_jax.policies.policy import Policy

flags.disclaim_key_flags()  # Flags defined here count as the command's own in its --help.

INPUT_AT_FAULT, NON_FINITE, GAVE_OUT, INTERRUPTED = 2, 3, 4, 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Lets XLA move collectives so that they overlap with computation: JAX's and NVIDIA's advice for
# several GPUs, off by default. Costs some memory; `=false` in XLA_FLAGS turns it off.
OVERLAP_FLAG = '--xla_gpu_enable_latency_hiding_scheduler'
CUDA_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')
MESH_HELP = (
    "Devices along the mesh axes, such as 'data=2,fsdp=1,tensor=4'; axes left out are 1, and one "
    'may be -1 to take the devices that are left.'
)


def run(
    main: Callable[[list[str]], None],
    pass_on: str | None = None,
    takes_command: bool = False,
    trains: bool = False,
) -> NoReturn:
    """Runs a command with the exit codes that all commands share.

    Args:
        main: the command, called with the program's name once the flags are parsed. It raises
            `InputError` for code 2, `NonFiniteError` or `DivergedError` for code 3,
            `ResourceError` for code 4, as does a disk that is full, and returns for code 0.
        pass_on: what arguments begin with that are another command's flags; `main` is given them
            behind the program's name.
        takes_command: what stands behind `--` is a command, which `main` is given in that way.
        trains: whether updates are most of what it does, see `keep_freed_memory`.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        passed = [text for text in argv[1:] if pass_on and text.startswith(pass_on)]
        own = [text for text in argv if text not in passed]
        if takes_command and '--' in argv:
            place = argv.index('--')
            own, passed = argv[:place], argv[place + 1 :]
        try:
            return [*parse_flags(flags.FLAGS, own), *passed]
        except SystemExit:
            sys.exit(0)  # --help, which has been printed.
        except InputError as error:
            _exit(error, INPUT_AT_FAULT)

    def guarded_main(argv: list[str]) -> None:
        if not flags.FLAGS['verbosity'].present:
            # What orbax and tensorflow-datasets do in detail would drown the progress line.
            logging.set_verbosity(logging.WARNING)
        has_cuda = any(map(importlib.util.find_spec, CUDA_PLUGINS))
        on_cpu = not has_cuda and importlib.util.find_spec('libtpu') is None
        keep_freed_memory(one_arena=trains and on_cpu)
        overlap_collectives(os.environ, has_cuda)
        try:
            main(argv)
        except InputError as error:
            _exit(error, INPUT_AT_FAULT)
        except (NonFiniteError, DivergedError) as error:
            _exit(error, NON_FINITE)
        except ResourceError as error:
            _exit(error, GAVE_OUT)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                _exit(
                    ResourceError(
                        f'{error.filename or "a file"}: {error.strerror}: make room, or make it '
                        'writable, and give the same command again'
                    ),
                    GAVE_OUT,
                )
            if isinstance(error, KeyboardInterrupt):
                print('interrupted', file=sys.stderr)
                _leave(INTERRUPTED)
            if not _one_of_several():
                raise
            traceback.print_exc()
            _leave(1)

    app.run(guarded_main, flags_parser=parse)


def keep_freed_memory(one_arena: bool) -> None:
    """Asks glibc, where there is one, to use freed memory again rather than give it back.

    XLA allocates the temporaries of a program anew at every call. Fresh pages cost a CPU more than
    a tenth of a rollout's time, and of an update's.

    Args:
        one_arena: whether all threads share the heap, for updates on a CPU: arenas of their own
            give large memory back whatever they are asked. An update takes an eighth less time so;
            long rollouts take a little more, and threads that compile wait for each other.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # Names of the parameters in malloc.h.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL('libc.so.6')
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)  # Never.
        if one_arena:
            libc.mallopt(arena_max, 1)


def overlap_collectives(environment: MutableMapping[str, str], has_cuda: bool) -> None:
    """Sets `OVERLAP_FLAG` in XLA_FLAGS, unless it is there already; before JAX's backend starts.

    Args:
        environment: of the process.
        has_cuda: whether JAX's plugin for CUDA is installed; without it nothing is set.
    """
    given = environment.get('XLA_FLAGS', '')
    if has_cuda and OVERLAP_FLAG not in given:
        environment['XLA_FLAGS'] = f'{given} {OVERLAP_FLAG}=true'.strip()


@contextlib.contextmanager
def validating(what: str) -> Iterator[None]:
    """Reports a ValueError of the library as the user's mistake.

    Args:
        what: the flag or file that the checked values come from; begins the message.
    """
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f'{what}: {error}') from error


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Says in front of the library's InputError what it is about.

    Args:
        what: flag with its value.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f'{what}: {error}') from error


def mesh_axes(text: str) -> dict[str, int]:
    """Reads the flag --mesh: sizes by axis name, for `make_mesh`.

    Raises:
        InputError: not a list of AXIS=SIZE with known axes, or an axis given twice.
    """
    from mrt_jax.sharding.mesh import AXES

    sizes: dict[str, int] = {}
    for part in filter(None, text.split(',')):
        axis, _, size = part.strip().partition('=')
        if axis not in AXES or axis in sizes or not size.lstrip('-').isdecimal():
            raise InputError(
                f'--mesh={text}: cannot read {part!r}: give AXIS=SIZE, each axis once, with the '
                f'axes {", ".join(AXES)}'
            )
        sizes[axis] = int(size)
    return sizes


def define_policy_flags() -> None:
    """Flags of the commands that read one policy."""
    flags.DEFINE_string('policy', None, 'Policy folder.', required=True)
    flags.DEFINE_string('mesh', '', MESH_HELP)
    flags.DEFINE_enum(
        'dtype', 'float32', ['float32', 'bfloat16', 'bfloat16_products'],
        'Type of parameters and activations; bfloat16_products is float32, with the operands of '
        'products rounded: the fast choice on a CPU that multiplies bfloat16.',
    )


def load(
    folder: str, axes: dict[str, int] | None, dtype: str, need_tokenizer: bool
) -> 'tuple[Mesh, Policy, Transformer]':
    """Makes the mesh, places the policy on it and gives its network.

    Raises:
        InputError: the devices do not make up the mesh, or the folder is not a policy.
    """
    # JAX takes a second to import; a mistake in the flags should not have to wait for it.
    from mrt_jax.models.precision import precision_on
    from mrt_jax.models.transformer import Transformer
    from mrt_jax.policies.load import load_policy
    from mrt_jax.sharding.mesh import make_mesh

    sizes: dict[str, Any] = dict(axes or {})
    mesh = make_mesh(**sizes)
    precision = precision_on(dtype, mesh)
    policy = load_policy(folder, mesh, precision.dtype, need_tokenizer)
    return mesh, policy, Transformer(policy.config, **precision._asdict())


def check_output(file: str | Path) -> Path:
    """Finds out before any work whether a file can be written.

    Raises:
        InputError: it is a folder, or the folder it would go to is missing.
    """
    file = Path(file)
    if file.is_dir():
        raise InputError(f'{file}: is a folder: give the name of a file to write')
    if not file.parent.is_dir():
        raise InputError(f'{file}: the folder {file.parent} does not exist: create it first')
    return file


def make_folder(folder: Path) -> None:
    """Makes the output folder before any work.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'--output={folder}: cannot make this folder: {error.strerror}') from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f'--output={folder}: cannot write to this folder: choose another')


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses a command line; `app.run` itself would exit with code 1 and several lines.

    Args:
        values: the flags that there are; a config is among them by the name `config` or not at all.
        argv: the program's name, and what follows it.

    Returns:
        The program's name, alone.

    Raises:
        InputError: a flag, a key of the config or a value that cannot be.
    """
    try:
        rest = values(argv)
        if 'config' in values:
            # A config file that failed to load says so when the config is first looked at.
            getattr(values['config'].value, 'is_locked', None)
    except AttributeError as error:
        # A key that the config has not: a KeyError wrapped in an AttributeError.
        reason = error.args[0] if error.args else error
        reason = reason.args[0] if isinstance(reason, KeyError) else reason
        raise InputError(f'--config: unknown key {reason}') from error
    except (flags.Error, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(_one_line(error)) from error
    if len(rest) > 1:
        raise InputError(f'unexpected argument {rest[1]!r}: flags are --NAME=VALUE')
    return rest


def _one_line(error: Exception) -> str:
    text = str(error)
    before, traceback, after = text.partition('Traceback (most recent call last):')
    if traceback:
        # Exceptions in a config file arrive as text with their traceback; its last line matters.
        text = f'{before} {after.strip().splitlines()[-1]}'
    return ' '.join(text.split())


def _exit(error: Exception, code: int) -> NoReturn:
    """Leaves with one line on stderr."""
    print(_one_line(error), file=sys.stderr)
    _leave(code)


def _one_of_several() -> bool:
    """Whether this process has joined others."""
    jax = sys.modules.get('jax')  # A command line at fault does not wait for its import.
    return jax is not None and jax.distributed.is_initialized()


def _leave(code: int) -> NoReturn:
    """Ends this process; one of several at once, for JAX would wait at exit for the others, and
    they wait for what this one was to do."""
    if _one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
