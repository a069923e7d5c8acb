"""Runs of reinforcement learning: compilations, resuming, stopping, meshes, bad configs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from configs.countdown import RECIPES
from mrt_jax.errors import InputError, NonFiniteError
from mrt_jax.policies.load import load_policy
from mrt_jax.sampling.fork import prove_branches
from mrt_jax.sampling.sampler import sample_rollouts
from mrt_jax.training import collect, reinforcement, rollouts
from mrt_jax.training.health import MOST_DIFFERENCE
from mrt_jax.training.objective import UpdateBatch
from mrt_jax.training.reinforcement import train_policy
from mrt_jax.training.rl_batch import correct_mismatch
from mrt_jax.training.rl_setup import prepare
from tests.training.run_configs import (
    counting_compilations,
    read_steps,
    save_untrained_policy,
    small_run,
    terminate_at_call,
)


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained')


@pytest.fixture(scope='module')
def whole_run(policy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    assert train_policy(small_run(policy), workdir)
    return workdir


def test_every_promised_metric_is_there(whole_run):
    steps = read_steps(whole_run, clocks=True)
    assert [step['step'] for step in steps] == [1, 2, 3, 4]
    promised = {
        'loss', 'reward', 'regret', 'progress', 'response_tokens', 'kl', 'entropy', 'grad_norm',
        'tokens_per_second', 'compile_seconds', 'rollout_seconds', 'prover_seconds',
        'update_seconds',
    }
    assert all(promised <= step.keys() for step in steps)
    assert steps[0]['compile_seconds'] > 0
    assert all(step['compile_seconds'] < step['step_seconds'] for step in steps)
    assert (whole_run / 'policy' / 'model.safetensors').is_file()
    # The longest rows fill the cache: 20 prompt slots and 31 of the response.
    assert all(0.3 < step['cache_used_share'] < 1 for step in steps)


def test_an_untrained_policy_gets_the_warnings_it_deserves(whole_run):
    """It is never right, so all of the meta-prover's answers agree, and it seldom ends."""
    steps = read_steps(whole_run)
    for step in steps:
        assert (step['unanimous'], step['groups_with_signal']) == (1, 0)
        assert step['truncated'] > 0.5
    assert [step['warnings'] for step in steps] == [0, 0, 3, 3]


def test_distributions_and_traces_are_shown_when_due(policy, tmp_path):
    assert train_policy(small_run(policy, num_steps=2, show_every=2), tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={'tensors': 0}).Reload()
    names = ('advantages', 'response_tokens', 'success')
    for name in (*(f'histograms/{name}' for name in names), 'texts/traces'):
        assert [event.step for event in events.Tensors(name)] == [2], name
    text = events.Tensors('texts/traces')[0].tensor_proto.string_val[0].decode()
    assert text.count('before any thought') == 2  # Of each group one trace.
    counted = {
        name: make_ndarray(events.Tensors(f'histograms/{name}')[0].tensor_proto)[:, 2].sum()
        for name in names
    }
    steps = read_steps(tmp_path)
    assert counted['response_tokens'] == 8
    assert counted['success'] == 8 * (steps[1]['episodes'] + 1)
    assert counted['advantages'] == steps[1]['sampled_tokens']


@pytest.mark.parametrize('dtype', ['bfloat16', 'bfloat16_products'])
def test_steps_in_bfloat16_follow_those_in_float32(policy, whole_run, tmp_path, dtype):
    """Activations are rounded, or what is multiplied; parameters are not."""
    config = small_run(policy, num_steps=2, compute_dtype=dtype, entropy_coef=0.1)
    assert train_policy(config, tmp_path)
    steps = read_steps(tmp_path)
    for step in steps:
        assert step['skipped'] == 0 and np.isfinite(step['loss']) and step['grad_norm'] > 0
        assert step['sampler_trainer_difference'] < MOST_DIFFERENCE
    exact = read_steps(whole_run)[0]['entropy']
    assert 1e-5 < abs(steps[0]['entropy'] - exact) < 0.1 * exact
    before, after = load_policy(policy).params, load_policy(tmp_path / 'policy').params
    moved = after['embedding'] - before['embedding']
    # Adam's step of the learning rate, below what bfloat16 tells apart at this size.
    assert 0 < np.abs(moved).max() < 1e-3


def test_sampler_and_trainer_agree(whole_run):
    assert all(step['sampler_trainer_difference'] < 1e-4 for step in read_steps(whole_run))


def test_sampler_and_trainer_agree_at_any_temperature(policy, tmp_path):
    config = small_run(policy, num_steps=2, kl_coef=0.1, train_prover=0.5, prover_sequences=4)
    config.sampling.temperature = 0.6
    assert train_policy(config, tmp_path)
    steps = read_steps(tmp_path)
    assert max(step['sampler_trainer_difference'] for step in steps) < 1e-4
    # The first step's policy is the reference.
    assert steps[0]['kl_to_reference'] == pytest.approx(0, abs=1e-6)


def test_what_an_int8_cache_rounds_is_measured_and_corrected(policy, whole_run, tmp_path):
    config = small_run(policy, num_steps=2, cache_dtype='int8', entropy_coef=0.1)
    config.mismatch.level = 'token'
    assert train_policy(config, tmp_path)
    exact = read_steps(whole_run)[0]['sampler_trainer_difference']
    for step in read_steps(tmp_path):
        assert step['skipped'] == 0 and step['grad_norm'] > 0
        assert 10 * exact < step['sampler_trainer_difference'] < MOST_DIFFERENCE
        assert step['mismatch_weight'] == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match="cache_dtype='int4' is unknown; known: compute, int8"):
        train_policy(small_run(policy, cache_dtype='int4'), tmp_path)


def test_all_programs_compile_in_the_first_step(policy, tmp_path):
    """One rollout shape, one prover shape, one update shape: whatever compiles, compiles once."""
    sizes = sample_rollouts._cache_size(), prove_branches._cache_size()
    config = small_run(policy, max_prompt_tokens=21, checkpoint_every=100)
    with counting_compilations() as after_step:
        assert train_policy(config, tmp_path)
    assert after_step[0] > 0
    assert after_step == after_step[:1] * 4
    assert sample_rollouts._cache_size() == sizes[0] + 1
    assert prove_branches._cache_size() == sizes[1] + 1


def test_a_resumed_run_writes_the_same_metrics(policy, whole_run, tmp_path):
    assert train_policy(small_run(policy, num_steps=2), tmp_path)
    assert train_policy(small_run(policy), tmp_path)
    assert read_steps(tmp_path) == read_steps(whole_run)


def test_sigterm_saves_and_the_run_goes_on(policy, whole_run, tmp_path, monkeypatch):
    terminate_at_call(monkeypatch, collect, 'sample_traces', 2)
    config = small_run(policy, checkpoint_every=100)
    assert not train_policy(config, tmp_path)
    assert len(read_steps(tmp_path)) == 2
    assert train_policy(config, tmp_path)
    assert read_steps(tmp_path) == read_steps(whole_run)


def test_runs_go_on_to_a_number_of_sampled_tokens(policy, whole_run, tmp_path):
    wanted = read_steps(whole_run)[-1]['sampled_tokens_total']
    assert train_policy(small_run(policy, num_steps=1, num_sampled_tokens=wanted), tmp_path)
    assert read_steps(tmp_path) == read_steps(whole_run)


def test_rows_that_take_turns_give_the_same_metrics(policy, whole_run, tmp_path):
    assert train_policy(small_run(policy, rollout_slots=3), tmp_path)
    for ours, theirs in zip(read_steps(tmp_path), read_steps(whole_run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize('level', ['token', 'sequence'])
def test_where_sampler_and_trainer_agree_the_correction_changes_nothing(
    policy, whole_run, tmp_path, level
):
    config = small_run(policy, num_steps=2)
    config.mismatch.level = level
    assert train_policy(config, tmp_path)
    for ours, theirs in zip(read_steps(tmp_path), read_steps(whole_run), strict=False):
        assert ours['mismatch_bounded'] == 0
        assert ours['mismatch_weight'] == pytest.approx(1, abs=1e-3)
        for name in ('loss', 'grad_norm', 'reward', 'entropy'):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4)


def test_the_correction_takes_the_trainers_part():
    """Two sequences in a row: one sampled as trained, one at half the trainer's probability."""
    sampler = jnp.log(jnp.array([[0.5, 0.5, 0.25, 0.25]]))
    trainer = jnp.log(jnp.array([[0.5, 0.5, 0.5, 0.5]]))
    batch = UpdateBatch(
        tokens_BT=jnp.zeros((1, 4), jnp.int32), positions_BT=jnp.array([[0, 1, 0, 1]]),
        weights_BT=jnp.array([[0, 0.5, 0, 0.5]]), old_logprobs_BT=sampler,
        advantages_BT=jnp.ones((1, 4)), segments_BT=jnp.array([[0, 0, 1, 1]]),
    )
    corrected, metrics = correct_mismatch(
        batch, trainer, level='token', bound='truncate', most=1.5
    )
    np.testing.assert_allclose(corrected.weights_BT, [[0, 0.5, 0, 0.75]], rtol=1e-6)
    np.testing.assert_array_equal(corrected.old_logprobs_BT, trainer)
    assert metrics['mismatch_bounded'] == 0.5
    assert metrics['sampler_trainer_difference'] == pytest.approx(np.log(2) / 2)
    masked, _ = correct_mismatch(batch, trainer, level='sequence', bound='mask', most=1.5)
    np.testing.assert_allclose(masked.weights_BT, [[0, 0.5, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(mismatch={'level': 'word'}), "mismatch.level='word' must be one of none, token"),
        (dict(mismatch={'most': 0.5}), 'mismatch.most=0.5 must be at least 1'),
        (dict(prover_rounds=3), 'prover_rounds=3 must be 1 or 2'),
        (dict(prover_rounds=2, branches=3, common_draws=False),
         'an even number of branches, not 3'),
        (dict(rollout_slots=1000), 'rollout_slots=1000 must be at most'),
        (dict(rollout_slots=3, mesh={'data': 2}), 'a multiple of mesh.data x fsdp x sequence = 2'),
        (dict(attention='cudnn'), "attention='cudnn' with compute_dtype='float32': it takes bf"),
        (dict(attention='cudnn', compute_dtype='bfloat16', mesh={'sequence': 2}),
         "attention='cudnn' with mesh.sequence=2"),
        (dict(compute_dtype='bfloat16_products', mesh={'data': 2}),
         'bfloat16_products is for one CPU, not for 2 x cpu: give bfloat16'),
        (dict(attention='splash', row_tokens=320), 'row_tokens=320 .* a multiple of 128 x mesh'),
        (dict(attention='splash', row_tokens=128, share_prompts=True),
         "share_prompts=True with attention='splash': .* or attention='plain'"),
        (dict(keep_best='max validation_reward'), 'validation_reward is not measured with'),
        (dict(rollout_slots=2, prompts_per_step=3, mesh={'data': 2}), 'prompts_per_step=3 must'),
    ],
)
def test_settings_that_do_not_fit_are_refused(policy, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train_policy(small_run(policy, **changes), tmp_path)


@pytest.mark.parametrize(
    'axes', [dict(data=2, fsdp=2, tensor=2), dict(fsdp=2, tensor=2, sequence=2)], ids=str
)
def test_a_mesh_gives_the_same_metrics(policy, whole_run, tmp_path, axes):
    config = small_run(policy, num_steps=1)
    config.mesh.update(axes)
    assert train_policy(config, tmp_path)
    [sharded], single = read_steps(tmp_path), read_steps(whole_run)[0]
    assert sharded.keys() == single.keys()
    for name in single:
        np.testing.assert_allclose(sharded[name], single[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('variant', [name for name in RECIPES if name != 'mrt'])
def test_every_variant_takes_a_step(policy, tmp_path, variant):
    config = small_run(policy, variant, num_steps=1)
    if config.window_tokens:
        config.window_tokens = 8
    if variant == 'grpo':
        config.update(kl_coef=0.01, evaluate_every=1)
    config.aim_k = 2
    assert train_policy(config, tmp_path)
    [step] = read_steps(tmp_path)
    assert np.isfinite(step['loss'])
    assert ('progress' in step) == (config.credit != 'none')
    if config.evaluate_every:
        assert 0 <= step['validation_regret'] <= 1


def test_adapters_train_alone_and_end_in_the_policy(policy, tmp_path):
    config = small_run(policy, lora_rank=2, param_dtype='bfloat16', kl_coef=0.01, entropy_coef=0.1)
    config.optimizer.learning_rate = 0.02
    # Stopped and resumed: a checkpoint holds the adapters, the policy folder the rest.
    for steps in (1, 2):
        config.num_steps = steps
        assert train_policy(config, tmp_path)
    first, second = read_steps(tmp_path)
    # Adapters begin as nothing: no distance to the reference.
    assert abs(first['kl']) < 1e-6 < second['kl']
    before = load_policy(policy, dtype='bfloat16').params
    after = load_policy(tmp_path / 'policy').params
    np.testing.assert_array_equal(after['embedding'], before['embedding'].astype(np.float32))
    assert (np.asarray(after['layers']['up']['kernel'])
            != np.asarray(before['layers']['up']['kernel'], np.float32)).any()
    # What is frozen must not change under the adapters.
    config.policy = str(tmp_path / 'policy')
    with pytest.raises(InputError, match='was begun with policy='):
        train_policy(config, tmp_path)


def test_non_finite_updates_stop_the_run(policy, tmp_path, monkeypatch):
    assert train_policy(small_run(policy, num_steps=1), tmp_path)
    make_batch = reinforcement.make_batch

    def spoilt(*args):
        batch, metrics = make_batch(*args)
        return batch.replace(advantages_BT=batch.advantages_BT * float('nan')), metrics

    monkeypatch.setattr(reinforcement, 'make_batch', spoilt)
    with pytest.raises(NonFiniteError, match='4 updates in a row.*the checkpoint of step'):
        train_policy(
            small_run(policy, max_skipped_in_a_row=2, updates_per_step=2, checkpoint_every=100),
            tmp_path,
        )
    steps = read_steps(tmp_path)
    assert [step['skipped'] for step in steps] == [0, 2, 2]


@pytest.mark.parametrize('kl_coef', [0.0, 0.1])
def test_the_policy_that_a_run_begins_with_is_kept_only_as_a_reference(
    policy, tmp_path, monkeypatch, kl_coef
):
    begun = []

    def prepare_and_note(config):
        begun.append(prepare(config))
        return begun[-1]

    monkeypatch.setattr(reinforcement, 'prepare', prepare_and_note)
    for steps in (1, 2):
        assert train_policy(small_run(policy, 'grpo', num_steps=steps, kl_coef=kl_coef), tmp_path)
    for setup in begun:  # Of a run from its start, and of one that goes on.
        freed = {leaf.is_deleted() for leaf in jax.tree.leaves(setup.policy.params)}
        assert freed == {kl_coef == 0}


def test_validation_is_of_the_problems_that_there_are(policy):
    alone = prepare(small_run(policy, prompts_per_step=1))
    beside_empty_rows = prepare(small_run(policy))
    beside_empty_rows = dataclasses.replace(
        beside_empty_rows, validation=beside_empty_rows.validation[:1]
    )
    found = [
        reinforcement.validate(setup, setup.policy.params) for setup in (alone, beside_empty_rows)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0]['validation_response_tokens'] > 0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'max_thinking_tokens': 5000}, 'max_thinking_tokens=5000'),
        ({'group_size': 1}, 'group_size'),
        ({'credit': 'unknown'}, "credit='unknown'"),
        ({'length_penalty': 'long'}, 'length_penalty'),
        ({'branches': 0}, 'branches=0'),
        ({'show_every': -1}, 'show_every=-1 must be at least 0'),
        ({'policy': '/nowhere'}, '/nowhere'),
        ({'task': 'chess'}, 'countdown'),
        ({'aggregation': 'mean'}, 'aggregation'),
        ({'lora_rank': -1}, 'lora_rank=-1'),
        ({'termination': 'Stop.'}, "termination='Stop.' must hold '</think>'"),
        ({'param_dtype': 'float16'}, "param_dtype='float16'.*float32, bfloat16"),
        ({'param_dtype': 'bfloat16_products'}, "param_dtype='bfloat16_products' is unknown"),
        ({'remat': 'some'}, "remat='some'.*dots"),
        ({'row_tokens': 40}, 'row_tokens=40 is less than the 5. tokens of the longest trace'),
        ({'evaluate_every': -1}, 'evaluate_every=-1 must be at least 0'),
        ({'max_prompt_tokens': 2}, r"has a prompt of \d+ tokens.*max_prompt_tokens=2"),
        ({'prompts_per_step': 10**6}, 'prompts_per_step=1000000: .* problems to train on'),
        ({'ratio': 'sequence'}, "ratio='sequence' with credit='episode'"),
        (
            {'credit': 'prefix', 'prover_rounds': 2, 'common_draws': False},
            "prover_rounds=2 with credit='prefix'",
        ),
        ({'prover_rounds': 2}, 'prover_rounds=2 with common_draws=True'),
        ({'shrinkage': 'walk'}, "common_draws=True with shrinkage='walk'"),
        ({'weigh_by_stderr': True}, 'weigh_by_stderr=True: their errors'),
    ],
)
def test_bad_configs_are_named_before_anything_compiles(policy, changes, message):
    config = small_run(policy)
    config.update(changes)
    with pytest.raises(InputError, match=message):
        prepare(config)


@pytest.mark.parametrize(
    ('packing', 'columns'),
    [(dict(row_tokens=150, microbatch_rows=1), 3 * 150),
     (dict(row_tokens=400, microbatch_rows=3), 3 * 400)],
    ids=str,
)
def test_packing_changes_nothing_but_the_padding(policy, packing, columns, tmp_path):
    # An untrained policy is never right: entropy gives it a gradient.
    runs = []
    for name, changes in (('alone', {}), ('packed', packing)):
        config = small_run(policy, num_steps=2, kl_coef=0.1, entropy_coef=0.1, **changes)
        (tmp_path / name).mkdir()
        assert train_policy(config, tmp_path / name)
        runs.append(read_steps(tmp_path / name))
    alone, packed = (run[0] for run in runs)
    for key in (
        'loss', 'grad_norm', 'entropy', 'reward', 'progress', 'response_tokens', 'trained_tokens'
    ):
        np.testing.assert_allclose(packed[key], alone[key], rtol=1e-4, atol=1e-7, err_msg=key)
    np.testing.assert_allclose(runs[1][1]['kl'], runs[0][1]['kl'], rtol=1e-2)
    assert packed['trained_tokens'] == round(packed['packed_share'] * columns) > 0
    np.testing.assert_allclose(packed['packed_share'] * columns, alone['packed_share'] * 8 * 64)


@pytest.mark.parametrize(
    ('variant', 'changes'),
    [('mrt_scalar', dict(ratio='sequence', updates_per_step=2, mismatch={'level': 'sequence'})),
     # Half of a group's traces go on from one prefix, half from another.
     ('mrt_rl_mixed', dict(kl_coef=0.1))],
    ids=['mrt', 'mrt_rl'],
)
def test_sharing_prompts_changes_nothing_but_what_is_read(
    policy, variant, changes, tmp_path, monkeypatch
):
    judge_traces = collect.judge_traces

    def judge_luckily(*args, **kwargs):
        """An untrained policy is never right by itself."""
        found = judge_traces(*args, **kwargs)
        return dataclasses.replace(found, rewards_B=np.float32(np.arange(len(found.rewards_B)) % 2))

    for module in (collect, rollouts):
        monkeypatch.setattr(module, 'judge_traces', judge_luckily)
    packing = dict(row_tokens=150, microbatch_rows=1)
    runs = []
    for share in (False, True):
        config = small_run(
            policy, variant, num_steps=2, share_prompts=share, **packing, **changes
        )
        workdir = tmp_path / str(share)
        workdir.mkdir()
        assert train_policy(config, workdir)
        runs.append(read_steps(workdir))
    apart, shared = (run[0] for run in runs)
    assert apart['reward'] == 0.5 and apart['grad_norm'] > 0
    read = [run[0].pop('trained_tokens') / config.updates_per_step for run in runs]
    assert read[0] - 8 * (config.max_prompt_tokens + config.max_thinking_tokens) < read[1] < read[0]
    assert apart.keys() == shared.keys()
    for name in apart.keys() - {'packed_share'}:
        np.testing.assert_allclose(shared[name], apart[name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(runs[1][1]['loss'], runs[0][1]['loss'], rtol=1e-2, atol=1e-4)
