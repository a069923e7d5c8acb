"""Sweep files are read, named and checked before anything runs."""

import importlib.util
import json
from pathlib import Path

import pytest

from experiments.sweep_parts.runs import (
    Outcome,
    check_runs,
    name_run,
    read_description,
    read_outcome,
    read_sweep,
    write_description,
)
from mrt_jax.errors import InputError
from tests.experiments.finished_runs import fail, finish

SHIPPED = {
    'alpha': ('mrt', 'mrt_to_go', 'mrt_scalar', 'mrt_rl'),
    'branches': ('updates', 'tokens'),
    'learning_rate': ('all', 'grpo', 'mrt'),
}


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file that yields what an expression is."""

    def write_file(runs: str, config='configs/countdown.py:mrt') -> str:
        file = tmp_path / 'some_sweep.py'
        file.write_text(
            f'CONFIG = {config!r}\n\n\ndef get_sweep(variant="all"):\n'
            f'    if variant != "all":\n        raise ValueError("no " + variant)\n'
            f'    yield from {runs}\n'
        )
        return str(file)

    return write_file


def test_shipped_sweeps():
    assert {file.stem for file in Path('configs/sweeps').glob('*.py')} == SHIPPED.keys()
    for name, variants in SHIPPED.items():
        file = f'configs/sweeps/{name}.py'
        for variant in variants:
            sweep = read_sweep(f'{file}:{variant}', Path('w'), None, ())
            check_runs(sweep)
            assert len({run.folder for run in sweep.runs}) == len(sweep.runs) >= 10
        assert read_sweep(file, Path('w'), None, ()).runs == read_sweep(
            f'{file}:{variants[0]}', Path('w'), None, ()
        ).runs
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert all(variant in module.__doc__ for variant in variants)
        with pytest.raises(InputError, match="no variant 'other'"):
            read_sweep(f'{file}:other', Path('w'), None, ())


def test_the_grid_of_alpha_is_the_authors():
    runs = read_sweep('configs/sweeps/alpha.py', Path('w'), None, ()).runs
    assert sorted({run.overrides['alpha'] for run in runs}) == [0, 0.2, 0.4, 0.8, 1.6]
    assert {run.overrides['seed'] for run in runs} == {0, 1, 2}


def test_names_are_stable_and_safe():
    assert name_run({'alpha': 0.2, 'seed': 1}) == 'alpha=0.2,seed=1'
    assert name_run({'optimizer.learning_rate': 1e-5}) == 'optimizer.learning_rate=1e-05'
    assert name_run({'equal': True}) == 'equal=true'
    odd = [
        {'task': 'reasoning_gym:chain_sum:max_terms=3'}, {'task': 'reasoning_gym/chain_sum'},
        {'policy': '../up'}, {'budgets': (30, 50)}, {'budgets': (30, 51)}, {'task': 'x' * 300},
        {'task': 'x' * 301},
    ]
    names = [name_run(overrides) for overrides in odd]
    assert len(set(names)) == len(odd) and all(len(name) <= 100 for name in names)
    assert all(set(name) <= set('abcdefghijklmnopqrstuvwxyz0123456789_.,=+-') for name in names)
    assert names[2] == name_run({'policy': '../up'}) == 'policy=..-up-d6e52283'


def test_flags_of_a_run(write):
    runs = "[{'evaluation.budgets': (30, 50), 'seed': 3}]"
    sweep = read_sweep(write(runs), Path('w'), None, ['--config.num_steps=5'])
    [run] = sweep.runs
    assert run.flags == (
        '--config=configs/countdown.py:mrt', f'--workdir={run.folder}', '--config.num_steps=5',
        '--config.evaluation.budgets=(30, 50)', '--config.seed=3',
    )
    assert run.folder.parent == Path('w/runs')
    check_runs(sweep)


@pytest.mark.parametrize(('runs', 'shared', 'message'), [
    ("[{'seed': 0}, {'alfa': 1.0}]", [], 'alfa=1.0: --config: unknown key .alfa'),
    ("[{'num_steps': 'many'}]", [], 'num_steps=many: flag --config.num_steps=many'),
    ("[{'credit': 'none', 'alpha': 1.0}]", [], 'alpha has no effect'),
    ("[{'seed': 0}]", ['--config.clip_low=0.1'], 'clip_low has no effect'),
    ("[{'seed': 0}]", ['--config.seed=1'], 'the sweep sets seed itself'),
    ("[{'seed': 0}, {'seed': 0}]", [], 'yields seed=0 twice'),
    ('[]', [], 'yields no runs'),
    ('[1 / 0]', [], 'ZeroDivisionError'),
])
def test_bad_sweeps_are_refused_before_anything_runs(write, runs, shared, message):
    with pytest.raises(InputError, match=message):
        check_runs(read_sweep(write(runs), Path('w'), None, shared))


def test_bad_files_are_refused(write, tmp_path):
    with pytest.raises(InputError, match='nowhere.py: is no Python file'):
        read_sweep('nowhere.py', Path('w'), None, ())
    with pytest.raises(InputError, match='math.py: has no CONFIG'):
        read_sweep('configs/math.py', Path('w'), None, ())
    (tmp_path / 'broken.py').write_text('import nothing_of_the_kind')
    with pytest.raises(InputError, match='ModuleNotFoundError'):
        read_sweep(str(tmp_path / 'broken.py'), Path('w'), None, ())
    with pytest.raises(InputError, match='has arms and seeds of its own'):
        check_runs(read_sweep(write("[{'task': 'countdown'}]", 'configs/countdown.py'), Path('w'),
                              None, ()))


def test_the_description_is_read_back_and_may_only_grow(write, tmp_path):
    workdir = tmp_path / 'w'
    workdir.mkdir()
    shared = ['--config.num_steps=5']
    sweep = read_sweep(write("[{'alpha': 0.5, 'seed': s} for s in (0, 1)]"), workdir, None, shared)
    write_description(sweep)
    assert read_description(workdir) == sweep
    grown = read_sweep(write("[{'alpha': 0.5, 'seed': s} for s in (0, 1, 2)]"), workdir, None,
                       shared)
    write_description(grown)
    before = (workdir / 'sweep.json').read_bytes()
    for other, message in (
        (sweep, 'holds the run alpha=0.5,seed=2'),
        (read_sweep(grown.source, workdir, None, ()), 'holds a sweep with flags'),
        (read_sweep(grown.source, workdir, 'configs/math.py', shared), 'holds a sweep with config'),
    ):
        with pytest.raises(InputError, match=message):
            write_description(other)
    assert (workdir / 'sweep.json').read_bytes() == before
    (workdir / 'sweep.json').write_text(json.dumps({'runs': []}))
    with pytest.raises(InputError, match='is not the description of a sweep'):
        read_description(workdir)


def test_outcomes(write, tmp_path):
    sweep = read_sweep(write("[{'seed': s} for s in range(4)]"), tmp_path, None, ())
    done, failed, stopped, missing = sweep.runs
    finish(done, solve=0.5, steps=7)
    fail(failed, 2, 'one\n\ntwo\n')
    fail(stopped, 143, 'told to stop')
    assert read_outcome(done.folder) == Outcome('finished', 7, None)
    assert read_outcome(failed.folder) == Outcome('failed', 0, 2, ('one', 'two'))
    assert read_outcome(stopped.folder) == Outcome('unfinished', 0, None)
    assert read_outcome(missing.folder) == Outcome('missing', 0, None)
