"""A step's programs compiled for devices here, and what the plan says of them."""

import dataclasses
import json
import math
import types

import jax
import pytest

from experiments import plan
from mrt_jax.errors import InputError
from mrt_jax.planning import topologies
from mrt_jax.planning.chips import CHIPS, chips_of, find_chip
from mrt_jax.planning.collectives import count_collectives
from mrt_jax.planning.costs import describe, render
from mrt_jax.planning.programs import compile_step, topology_mesh
from mrt_jax.planning.work import body_params, head_params
from mrt_jax.sharding.mesh import make_mesh
from tests.planning.small_step import make_config
from tests.tiny import tiny_config

MESH = dict(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope='module')
def programs():
    return {p.name: p for p in compile_step(make_config(), tiny_config(), make_mesh(**MESH))}


def test_a_step_of_mrt_has_three_programs(programs):
    assert list(programs) == ['rollouts', 'prover', 'update']
    assert programs['update'].resident_bytes == 0
    assert programs['rollouts'].resident_bytes == programs['prover'].resident_bytes > 0
    config = make_config(credit='none')
    names = [p.name for p in compile_step(config, tiny_config(), make_mesh(**MESH))]
    assert names == ['rollouts', 'update']
    names = [p.name for p in compile_step(
        make_config(prover='attempts'), tiny_config(), make_mesh(**MESH), ['prover', 'update']
    )]
    assert names == ['update']


def test_the_prover_is_asked_before_the_first_episode_too(programs):
    shapes = {leaf.shape for leaf in jax.tree.leaves(programs['prover'].compiled.args_info)}
    assert (8, 4) in shapes and (8, 3) not in shapes


def test_a_reference_stays_beside_every_program(programs):
    config = make_config(kl_coef=0.1)
    for program in compile_step(config, tiny_config(), make_mesh(**MESH)):
        one = programs[program.name]
        own = one.contents['parameters']
        assert program.contents['parameters'] == 2 * own
        assert program.resident_bytes == one.resident_bytes + own
    [adapted] = compile_step(
        make_config(kl_coef=0.1, lora_rank=4), tiny_config(), make_mesh(**MESH), ['update']
    )
    assert adapted.resident_bytes == 0
    assert adapted.work.flops < 0.8 * programs['update'].work.flops


def test_rollouts_in_dispatches_are_planned():
    mesh, long = make_mesh(**MESH), dict(max_thinking_tokens=400, row_tokens=512)

    def plan_rollouts(**changes):
        [found] = compile_step(make_config(**changes), tiny_config(), mesh, ['rollouts'])
        return found, describe(found, CHIPS['v5e'], mesh)['held_bytes']

    one, at_once = plan_rollouts(**long)
    cut, in_dispatches = plan_rollouts(judge_every=8, **long)
    assert cut.contents == one.contents and cut.work == one.work
    # It writes to the cache that it is given, but for the prompts', which it only reads.
    assert cut.compiled.memory_analysis().alias_size_in_bytes > 0.8 * one.contents['cache']
    # Parameters lie beside the decoder's copy of them.
    assert cut.resident_bytes == one.resident_bytes + one.contents['parameters']
    assert 0.7 * at_once < in_dispatches < 1.1 * at_once
    # Of short responses the prompts take more, which are read with the parameters themselves.
    short, _ = plan_rollouts(judge_every=8)
    assert short.resident_bytes == one.resident_bytes
    assert short.compiled.memory_analysis().alias_size_in_bytes == 0


def test_what_a_program_costs_is_told(programs):
    mesh = make_mesh(**MESH)
    costs = {name: describe(p, CHIPS['v5e'], mesh) for name, p in programs.items()}
    json.dumps(costs)
    for cost in costs.values():
        held = sum(cost[f'{part}_bytes'] for part in ('argument', 'temp', 'output', 'resident'))
        assert 0 < cost['held_bytes'] <= held and cost['fits']
        assert cost['estimated_seconds'] == max(cost['seconds_by_bound'].values()) > 0
        assert sum(cost['held_bytes_by_content'].values()) == cost['held_bytes']
    # Gradients are summed over the devices that share a parameter.
    reduced = {'all-reduce', 'reduce-scatter'} & costs['update']['collectives'].keys()
    assert reduced
    # Parameters, two moments and counters, in float32, on an eighth to a half of the devices.
    held = costs['update']['argument_bytes']
    params = sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(programs['update'].compiled.args_info)
    )
    assert params * 4 / 8 < held < params * 4
    lines = render(costs).splitlines()
    assert len(lines) == 5 and all(line.count('|') == 15 for line in lines)
    small = CHIPS['v5e'].__class__(1000, 1.0, 1.0, 1.0, (2,))
    assert not describe(programs['update'], small, mesh)['fits']


def test_parameters_are_gathered_once_and_not_at_every_step():
    """Not in decode loops, nor for every window of an update's tokens."""
    config = make_config(max_prompt_tokens=256, row_tokens=4096, microbatch_rows=8)
    size = 4 * (body_params(tiny_config()) + head_params(tiny_config()))
    for program in compile_step(config, tiny_config(), make_mesh(fsdp=8)):
        told = count_collectives(program.compiled.as_text(), other_trips=1000)
        # Twice: to read prompts layer by layer, and to decode; or forwards and backwards.
        assert 0 < told['all-gather']['bytes'] < 3 * size, program.name


def test_an_int8_cache_takes_a_quarter_and_its_steps(programs):
    config = make_config(cache_dtype='int8')
    network = tiny_config()
    width, heads = network.head_width, network.num_kv_heads // MESH['tensor']
    for program in compile_step(config, network, make_mesh(**MESH), ['rollouts', 'prover']):
        whole = programs[program.name]
        token = 2 * network.num_layers * heads * 4 * width  # And its position.
        kept = whole.contents['cache'] * token / (token + 4)
        assert whole.contents['cache'] - program.contents['cache'] == pytest.approx(
            kept * (1 - (width + 4) / (4 * width))
        )
        assert program.work.split_bytes == pytest.approx(
            whole.work.split_bytes * (width + 4) / (4 * width)
        )


@pytest.mark.parametrize(('row_tokens', 'spared_prompts'), [(256, 3), (128, 2), (64, 0)])
def test_shared_prompts_are_read_once(row_tokens, spared_prompts):
    whole, shared = (
        next(compile_step(
            make_config(group_size=4, row_tokens=row_tokens, share_prompts=share), tiny_config(),
            make_mesh(), ['update'],
        ))
        for share in (False, True)
    )
    # 4 groups of 4, prompts of 16 tokens, of which 15 lie once in a row, beside 49 of each trace.
    # Each token costs its matrices, and attention to those before it: forwards and twice as much
    # backwards.
    network, spared = tiny_config(), 4 * spared_prompts * 15
    attention = 4 * network.num_layers * network.num_heads * network.head_width * 16 / 2
    matrices = 2 * (body_params(network) + head_params(network))
    assert whole.work.flops - shared.work.flops == pytest.approx(
        3 * spared * (matrices + attention)
    )


def test_answers_that_train_are_updated_on_as_well(programs):
    whole = programs['update']
    config = make_config(train_prover=0.5, prover_sequences=8)
    [more] = compile_step(config, tiny_config(), make_mesh(**MESH), ['update'])
    # Beside 8 traces, and two sequences fit into a row.
    traces, answers = (
        jax.tree.leaves(program.compiled.args_info)[-1].shape for program in (whole, more)
    )
    assert (traces, answers) == ((4, 128), (8, 128))
    state = 2 * whole.work.split_bytes, 2 * more.work.split_bytes
    assert more.work.flops == pytest.approx(2 * whole.work.flops) and state[0] == state[1]


@pytest.mark.parametrize('attention', ['auto', 'measured'])
def test_shared_prompts_are_not_planned_with_splash(attention):
    config = make_config(attention=attention, share_prompts=True)
    with pytest.raises(InputError, match='share_prompts=True .* splash, shows no prompt'):
        compile_step(config, tiny_config(), make_mesh())


def test_a_plan_says_that_it_measures_nothing(monkeypatch, capsys):
    values = types.SimpleNamespace(
        config=make_config(attention='measured'), topology=['v9:2x2'], output=None, propose=False
    )
    monkeypatch.setattr(plan.flags, 'FLAGS', values)
    with pytest.raises(InputError, match='v9'):
        plan.main([])
    assert "attention='measured' is planned as 'auto'" in capsys.readouterr().err


def test_programs_that_cannot_be_read_say_so(programs, capsys):
    class Unreadable:
        memory_analysis = programs['update'].compiled.memory_analysis

        def as_text(self):
            raise jax.errors.JaxRuntimeError('INTERNAL: an instruction of tomorrow')

    program = dataclasses.replace(programs['update'], compiled=Unreadable())
    costs = describe(program, CHIPS['v5e'], make_mesh(**MESH))
    assert costs['collectives'] is None and costs['estimated_seconds'] > 0
    assert 'update: its collectives cannot be read' in capsys.readouterr().err
    assert '| ? | ' in render({'update': costs})


def test_mistakes_are_named():
    for topology in ('v5e', 'v9:2x2', 'v5e:4xx', 'v5e:0x4', 'v5p:4x4', 'h100:0', 'h100:2x16'):
        with pytest.raises(InputError, match=f'--topology={topology}'):
            find_chip(topology)
    with pytest.raises(InputError, match='row_tokens=32 is less'):
        compile_step(make_config(row_tokens=32), tiny_config(), make_mesh())
    with pytest.raises(InputError, match='rollout_slots=4 is not planned'):
        compile_step(make_config(rollout_slots=4), tiny_config(), make_mesh())
    with pytest.raises(InputError, match='not a multiple of tensor 8'):
        compile_step(make_config(), tiny_config(), make_mesh(tensor=8))


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv('TPU_LIBRARY_PATH', '/nowhere/libtpu.so')
    with pytest.raises(InputError, match='pip install libtpu'):
        topology_mesh('v5e:4x4', {'fsdp': -1})
    monkeypatch.setattr(topologies.topologies, 'get_topology_desc', jax.devices)  # Takes no names.
    with pytest.raises(InputError, match='jax-cuda13-plugin'):
        topology_mesh('h100:8', {'fsdp': -1})


def test_gpus_are_told_to_their_compiler(monkeypatch):
    def get_topology_desc(platform, topology, target_config):
        asked.append((platform, topology, target_config))
        return types.SimpleNamespace(devices=jax.devices()[:4])

    asked = []
    monkeypatch.setattr(topologies.topologies, 'get_topology_desc', get_topology_desc)
    assert topology_mesh('a100:4', {'fsdp': -1}).size == 4
    assert topology_mesh('h100:2x2', {'data': 2, 'fsdp': -1}).size == 4
    assert [one[:2] for one in asked] == [('cuda', '1x1x4'), ('cuda', '1x2x2')]
    assert 'capability { major: 8 minor: 0 }' in asked[0][2] and 'core_count: 108' in asked[0][2]
    assert 'shared_memory_per_block_optin: 232448' in asked[1][2]
    assert chips_of('a100:4') == chips_of('h100:2x2') == 4
    assert find_chip('h100:8') == find_chip('h100:1x8') == CHIPS['h100']
    assert find_chip('h100:2x8').link_bandwidth < find_chip('h100:8').link_bandwidth / 5
