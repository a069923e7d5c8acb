import platform
import subprocess
import sys
import textwrap

import pytest

from experiments import cli
from mrt_jax.errors import InputError

PROGRAM = """
import sys
import ml_collections
from absl import flags
from ml_collections import config_flags
from experiments import cli
from mrt_jax.errors import DivergedError, InputError, NonFiniteError, ResourceError

ENDINGS = ['done', 'input', 'nan', 'far', 'memory', 'disk', 'bug']
flags.DEFINE_enum('ending', 'done', ENDINGS, 'How it ends.')
config_flags.DEFINE_config_file('config', None, 'Config.')

def main(argv):
    if 'jax' in sys.modules:
        raise RuntimeError('jax was imported')
    endings = {
        'input': InputError('file.jsonl: line 3\\nis bad'),
        'nan': NonFiniteError('gradients'),
        'far': DivergedError('kl'),
        'memory': ResourceError('update: out of\\nmemory'),
        'disk': OSError(28, 'No space left on device', 'report'),
        'bug': KeyError('bug'),
    }
    if flags.FLAGS.ending in endings:
        raise endings[flags.FLAGS.ending]
    print('alpha', flags.FLAGS.config and flags.FLAGS.config.alpha)

cli.run(main)
"""
CONFIG = """
import ml_collections

def get_config(variant=''):
    if variant not in ('', 'grpo'):
        raise ValueError(f'unknown variant {variant!r}')
    return ml_collections.ConfigDict({'seed': 0, 'alpha': 0.5, 'mesh': {'data': 1}})
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cli')
    (folder / 'program.py').write_text(textwrap.dedent(PROGRAM))
    (folder / 'config.py').write_text(textwrap.dedent(CONFIG))
    return folder


def run(folder, *arguments):
    command = [sys.executable, str(folder / 'program.py'), *arguments]
    arguments = [argument.replace('config.py', str(folder / 'config.py')) for argument in command]
    return subprocess.run(
        arguments, capture_output=True, text=True, env={'PYTHONPATH': '.', 'PATH': ''}, timeout=60
    )


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['--nothing=1'], "Unknown command line flag 'nothing'"),
        (['--ending=maybe'], '--ending=maybe: value should be one of'),
        (['--ending=input'], 'file.jsonl: line 3 is bad'),
        (['stray'], "unexpected argument 'stray'"),
        (['--config=config.py', '--config.sed=1'], 'unknown key \'sed\' Did you mean "seed"'),
        (['--config=config.py', '--config.mesh.dat=1'], "unknown key 'dat'"),
        (['--config=config.py', '--config.seed=often'], '--config.seed=often: invalid literal'),
        (['--config=config.py', '--config.seed=1.5'], '--config.seed=1.5'),
        (['--config=config.py:best'], "ValueError: unknown variant 'best'"),
        (['--config=missing.py'], 'missing.py'),
    ],
)
def test_mistakes_of_the_user_are_one_line_and_code_2(folder, arguments, said):
    result = run(folder, *arguments)
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.count('\n') == 1
    assert said in result.stderr


def test_other_endings_have_their_codes(folder):
    done = run(folder, '--config=config.py:grpo', '--config.alpha=1')
    assert (done.returncode, done.stdout, done.stderr) == (0, 'alpha 1.0\n', '')
    non_finite = run(folder, '--ending=nan')
    assert (non_finite.returncode, non_finite.stderr) == (3, 'gradients\n')
    far = run(folder, '--ending=far')
    assert (far.returncode, far.stderr) == (3, 'kl\n')
    memory = run(folder, '--ending=memory')
    assert (memory.returncode, memory.stderr) == (4, 'update: out of memory\n')
    disk = run(folder, '--ending=disk')
    assert disk.returncode == 4 and disk.stderr.count('\n') == 1
    assert disk.stderr.startswith('report: No space left on device: make room')
    assert run(folder, '--ending=bug').returncode == 1
    assert (help_text := run(folder, '--help')).returncode == 0
    assert '--config' in help_text.stdout


def test_mesh_flag():
    assert cli.mesh_axes('') == {}
    assert cli.mesh_axes('data=-1, tensor=4') == {'data': -1, 'tensor': 4}
    for text in ['rows=2', 'data', 'data=x', 'data=2,data=2', 'data=']:
        with pytest.raises(InputError, match='give AXIS=SIZE'):
            cli.mesh_axes(text)


def test_validating_names_the_flag():
    with pytest.raises(InputError, match='^--top_p: must'), cli.validating('--top_p'):
        raise ValueError('must lie in (0, 1]')
    with pytest.raises(InputError, match='^already'), cli.validating('--top_p'):
        raise InputError('already')


def test_outputs_are_checked_before_the_work(tmp_path):
    assert cli.check_output(tmp_path / 'out.jsonl') == tmp_path / 'out.jsonl'
    with pytest.raises(InputError, match='is a folder'):
        cli.check_output(tmp_path)
    with pytest.raises(InputError, match='does not exist'):
        cli.check_output(tmp_path / 'missing' / 'out.jsonl')


@pytest.mark.parametrize(('given', 'has_cuda', 'expected'), [
    ({}, False, {}),
    ({}, True, {'XLA_FLAGS': f'{cli.OVERLAP_FLAG}=true'}),
    ({'XLA_FLAGS': '--xla_a=1'}, True, {'XLA_FLAGS': f'--xla_a=1 {cli.OVERLAP_FLAG}=true'}),
    ({'XLA_FLAGS': '--xla_a=1'}, False, {'XLA_FLAGS': '--xla_a=1'}),
    ({'XLA_FLAGS': f'{cli.OVERLAP_FLAG}=false'}, True, {'XLA_FLAGS': f'{cli.OVERLAP_FLAG}=false'}),
])
def test_collectives_overlap_on_gpus_unless_the_user_has_said(given, has_cuda, expected):
    environment = dict(given)
    cli.overlap_collectives(environment, has_cuda)
    assert environment == expected


def test_xla_knows_the_flag():
    """One that it does not know would end the process."""
    environment = {'XLA_FLAGS': f'{cli.OVERLAP_FLAG}=true', 'JAX_PLATFORMS': 'cpu', 'PATH': ''}
    command = [sys.executable, '-c', 'import jax; jax.devices()']
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr


FRESH_PAGES = """
import ctypes
import resource
import sys
import threading
from experiments import cli

cli.keep_freed_memory(one_arena=sys.argv[1] == 'one')
libc = ctypes.CDLL('libc.so.6')
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
SIZE = 2**27

def use():
    for _ in range(2):
        room = libc.malloc(SIZE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        libc.memset(room, 1, SIZE)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        libc.free(room)

faults = []
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(faults[1] / faults[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc is asked')
@pytest.mark.parametrize('arenas, again', [('one', False), ('many', True)])
def test_large_memory_of_a_thread_has_fresh_pages_the_second_time(arenas, again):
    command = [sys.executable, '-c', FRESH_PAGES, arenas]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (float(run.stdout) > 0.5) == again
