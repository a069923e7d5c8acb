"""The measured kernel of a run: chosen once, kept, the same in all processes."""

import functools
import json
import sys
import textwrap

import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from configs import countdown
from experiments.launch_parts.processes import run_processes
from mrt_jax.errors import InputError
from mrt_jax.models.transformer import Transformer
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.training import attention_choice, fitting, reinforcement
from mrt_jax.training.attention_choice import FILE, with_measured_kernel
from mrt_jax.training.attention_race import Race, kernels_in_race
from mrt_jax.training.network import check_network
from mrt_jax.training.objectives import train
from tests.tiny import tiny_config
from tests.training.run_configs import (
    SMALL_STAR,
    read_steps,
    save_untrained_policy,
    small_run,
)


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained')


@pytest.fixture
def races(monkeypatch):
    """Races that were run, as if here were a TPU; splash, which is interpreted, wins the first."""
    run = []

    def run_race(kernels, attention, mesh):
        run.append((kernels, attention, dict(mesh.shape)))
        seconds = dict.fromkeys(kernels, 0.002) | {kernels[(len(run) - 1) % 2]: 0.001}
        return Race(seconds, {}, 1.5)

    interpreted = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, 'make_splash_mha', interpreted)
    monkeypatch.setattr(
        attention_choice, 'kernels_in_race', lambda _, *about: kernels_in_race('tpu', *about)
    )
    monkeypatch.setattr(attention_choice, 'run_race', run_race)
    return run


def fine_tuning(policy, **changes):
    config = countdown.warm_start()
    config.update(num_steps=2, checkpoint_every=1, rows_per_step=2, microbatch_rows=2,
                  row_tokens=256, policy=policy)
    with config.unlocked():
        del config.model, config.parent
    config.update(changes)
    return config


def choose(config, workdir, axes=None):
    mesh = make_mesh(**(axes or {}))
    model = Transformer(tiny_config(), dtype=config.compute_dtype)
    return with_measured_kernel(model, config, mesh, workdir).kernel


def test_a_choice_is_made_once_and_said(races, tmp_path, capsys):
    config = fine_tuning('', attention='measured')
    assert choose(config, tmp_path) == 'splash'
    assert capsys.readouterr().err == (
        'attention: splash, the fastest of splash 1 ms, plain 2 ms in all layers of a microbatch, '
        'forwards and back; compiled in 1.5 s\n'
    )
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept['kernel'] == 'splash' and kept['seconds'] == {'splash': 0.001, 'plain': 0.002}
    assert choose(config, tmp_path) == 'splash' and len(races) == 1
    assert capsys.readouterr().err == (
        'attention: splash, as measured when the run began (splash 1 ms, plain 2 ms)\n'
    )
    (kernels, attention, _), = races
    assert kernels == ('splash', 'plain') and (attention.rows, attention.tokens) == (2, 256)


@pytest.mark.parametrize(('changes', 'axes'), [
    ({'row_tokens': 384}, {}), ({'compute_dtype': 'bfloat16'}, {}), ({}, {'data': 2}),
])
def test_another_size_or_mesh_is_measured_again(changes, axes, races, tmp_path, capsys):
    config = fine_tuning('', attention='measured')
    assert choose(config, tmp_path) == 'splash'
    config.update(changes)
    assert choose(config, tmp_path, axes) == 'plain'
    assert f'{tmp_path / FILE} is of another device, mesh' in capsys.readouterr().err
    assert choose(config, tmp_path, axes) == 'plain' and len(races) == 2


def test_where_plain_alone_fits_nothing_is_measured(races, tmp_path, monkeypatch, capsys):
    config = fine_tuning('', attention='measured')
    assert choose(config, tmp_path) == 'splash'
    kept = (tmp_path / FILE).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(attention_choice, 'kernels_in_race', kernels_in_race)
        assert choose(config, tmp_path) == 'plain'
    assert 'plain; no other kernel fits cpu' in capsys.readouterr().err
    assert (tmp_path / FILE).read_text() == kept
    assert choose(config, tmp_path) == 'splash' and len(races) == 1
    config.attention = 'plain'
    assert choose(config, tmp_path) == 'plain' and len(races) == 1


def test_kernels_that_are_out_are_named(races, tmp_path, monkeypatch, capsys):
    race = Race({'plain': 0.5}, {'splash': 'MosaicError: too wide'}, 0.0)
    monkeypatch.setattr(attention_choice, 'run_race', lambda *arguments: race)
    assert choose(fine_tuning('', attention='measured'), tmp_path) == 'plain'
    assert 'attention: splash is out of the race: MosaicError: too wide\n' in (
        capsys.readouterr().err
    )
    assert json.loads((tmp_path / FILE).read_text())['failed'] == race.failed


@pytest.mark.parametrize('content', [
    '{', '[]', '{"kernel": "splash"}',
    '{"kernel": "splash", "seconds": {"plain": 1}, "measured_for": {}}',
    '{"kernel": "flash", "seconds": {"flash": 1}, "measured_for": {}}',
    '{"kernel": "plain", "seconds": {"plain": 1}}',
])
def test_a_choice_that_cannot_be_read_is_refused(content, races, tmp_path):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=f'{FILE}: is not the choice of a kernel'):
        choose(fine_tuning('', attention='measured'), tmp_path)


def test_the_choice_is_what_updates_are_made_of(policy, races, tmp_path, monkeypatch):
    class Stop(Exception):
        """Before anything compiles."""

    def make_update(model, *_, **__):
        raise Stop(model.kernel)

    for module in (reinforcement, fitting):
        monkeypatch.setattr(module, 'make_update', make_update)
    changes = dict(row_tokens=128, attention='measured')
    for config in (
        small_run(policy, **changes),
        small_run(policy, 'mrt_star', num_steps=2, **SMALL_STAR | changes),
        fine_tuning(policy, attention='measured'),
    ):
        workdir = tmp_path / config.objective
        workdir.mkdir()
        with pytest.raises(Stop, match='splash'):
            train(config, workdir)
        races.clear()


def bits(workdir):
    return (workdir / 'policy/model.safetensors').read_bytes(), read_steps(workdir)


def test_a_resumed_run_keeps_its_kernel_bit_for_bit(policy, races, tmp_path):
    for name, runs in {
        'measured': [('measured', 1), ('measured', 2)],
        'splash': [('splash', 2)],
        'plain': [('plain', 2)],
    }.items():
        (tmp_path / name).mkdir()
        for attention, steps in runs:
            config = fine_tuning(policy, attention=attention, num_steps=steps)
            assert train(config, tmp_path / name)
    assert len(races) == 1
    assert bits(tmp_path / 'measured') == bits(tmp_path / 'splash') != bits(tmp_path / 'plain')


def test_on_cpu_measured_is_plain_bit_for_bit(policy, tmp_path, capsys):
    for attention in ('measured', 'plain'):
        (tmp_path / attention).mkdir()
        assert train(
            fine_tuning(policy, attention=attention, num_steps=1), tmp_path / attention
        )
        said = 'attention: plain; no other kernel fits cpu' in capsys.readouterr().err
        assert said == (attention == 'measured')
    assert bits(tmp_path / 'measured') == bits(tmp_path / 'plain')
    assert not (tmp_path / 'measured' / FILE).exists()


def test_an_unknown_kernel_is_refused():
    with pytest.raises(InputError, match="'flash' is unknown; known: auto, measured, plain, "):
        check_network(fine_tuning('', attention='flash'))
    check_network(fine_tuning('', attention='measured', mesh={'sequence': 2}))


TWO = '''
    import sys
    from pathlib import Path
    from mrt_jax.sharding.distributed import join_processes

    flags = dict(flag.removeprefix('--').split('=') for flag in sys.argv[2:])
    me = int(flags['process_id'])
    join_processes(flags['coordinator'], int(flags['num_processes']), me)
    from mrt_jax.models.transformer import Transformer
    from mrt_jax.sharding.mesh import make_mesh
    from mrt_jax.training import attention_choice, attention_race
    from tests.tiny import tiny_config
    from tests.training.test_attention_choice import fine_tuning

    workdir, now = Path(sys.argv[1]), 0.0
    # To process 0 each kernel seems faster than the one before, to process 1 slower.
    costs = {'splash': (3, 1), 'cudnn': (2, 2), 'plain': (1, 4)}

    def make(kernel, attention, window, mesh):
        class Program:
            def lower(self):
                if kernel == 'splash' and me == 1:
                    raise ValueError('here alone')
                return self

            def compile(self):
                return self

            def __call__(self):
                global now
                now += costs[kernel][me]

        return attention_race.Programs(tuple, Program())

    def race(kernels, attention, mesh):
        return attention_race.run_race(
            kernels, attention, mesh, clock=lambda: now, programs=make
        )

    attention_choice.kernels_in_race = lambda *_: tuple(costs)
    attention_choice.run_race = race
    config, model = fine_tuning('', attention='measured'), Transformer(tiny_config())
    chosen = [
        attention_choice.with_measured_kernel(model, config, make_mesh(data=-1), workdir).kernel
        for _ in range(2)
    ]
    (workdir / f'chosen-{me}').write_text(' '.join(chosen))
'''


def test_two_processes_choose_the_same(tmp_path, capfd):
    command = [sys.executable, '-c', textwrap.dedent(TWO), str(tmp_path)]
    assert run_processes(command, 2, devices=1) == 0
    # Of the slowest process each, in the two layers: cudnn 4 s, plain 8 s.
    assert [(tmp_path / f'chosen-{me}').read_text() for me in (0, 1)] == ['cudnn cudnn'] * 2
    said = capfd.readouterr().err
    assert said.count('attention: cudnn, the fastest of cudnn 4e+03 ms, plain 8e+03 ms') == 1
    assert said.count('attention: splash is out of the race: ValueError: here alone') == 1
    assert said.count('attention: cudnn, as measured when the run began') == 1
