"""Prompts that lie once in a row: the same scores, gradients and metrics as where each is alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.packing import RowPlan, plan_rows, shared_prompts
from mrt_jax.sampling.sampler import Rollout
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import batch_sharding, use_mesh
from mrt_jax.training.objective import ObjectiveConfig, policy_loss
from mrt_jax.training.rl_batch import pack_rollout
from mrt_jax.training.state import new_state, state_shardings
from mrt_jax.training.update import make_scorer, make_update, next_token_logprobs
from tests.tiny import GEMMA, tiny_model

SLOTS, STEPS, GROUP = 6, 9, 4
PROMPTS_B = np.repeat([6, 1, 4], GROUP)
ROWS, ROW_TOKENS = 8, 32
CHANGES = {
    'plain': {}, 'window': dict(sliding_window=4), 'gemma': GEMMA, 'adapters': dict(lora_rank=2),
}
LOSSES = {
    ratio: policy_loss(ObjectiveConfig(0.2, 0.3, 0.1, 0.01, 'sequence', ratio))
    for ratio in ('token', 'sequence')
}


def draw_rollout(rng):
    """Three groups with prompts of unequal lengths, and responses from none to all of STEPS."""
    prompts_BP = rng.integers(0, 64, (3, SLOTS)).repeat(GROUP, axis=0)
    prompts_BP[np.arange(SLOTS) < SLOTS - PROMPTS_B[:, None]] = 0
    shape = len(PROMPTS_B), STEPS
    lengths_B = rng.permutation(np.linspace(0, STEPS, len(PROMPTS_B)).round().astype(np.int32))
    sampled_BT = (np.arange(STEPS) < lengths_B[:, None]) & (rng.random(shape) < 0.9)
    return Rollout(
        prompt_tokens_BP=prompts_BP.astype(np.int32), prompt_lengths_B=PROMPTS_B.astype(np.int32),
        tokens_BT=rng.integers(0, 64, shape).astype(np.int32), lengths_B=lengths_B,
        logprobs_BT=rng.normal(-4, 0.5, shape).astype(np.float32), sampled_BT=sampled_BT,
        thought_closed_B=None, forced_B=None, ended_B=None, caches=(),
    )


def lay_out(row_tokens=ROW_TOKENS, rows=ROWS):
    """The same traces each in a row of its own, and with shared prompts: pairs (batch, sources)."""
    rng = np.random.default_rng(0)
    rollout = draw_rollout(rng)
    starts_B, ends_B = SLOTS - PROMPTS_B, SLOTS + rollout.lengths_B
    columns = np.arange(SLOTS + STEPS)
    used_BS = (columns >= starts_B[:, None]) & (columns < ends_B[:, None])
    sources_BS = np.where(used_BS, np.arange(used_BS.size).reshape(used_BS.shape), -1)
    alone = RowPlan(sources_BS, np.zeros_like(sources_BS), None)
    shared = plan_rows(
        starts_B, ends_B, SLOTS + STEPS, rows=rows, row_tokens=row_tokens,
        shared=shared_prompts(rollout.prompt_tokens_BP, PROMPTS_B),
    )
    weights_BT = token_weights(rollout.sampled_BT, 'sequence')
    advantages_BT = rng.normal(size=weights_BT.shape).astype(np.float32)
    batches = [
        pack_rollout(rollout, weights_BT, advantages_BT, plan) for plan in (alone, shared)
    ]
    batches[0] = batches[0].replace(segments_BT=None)
    return list(zip(jax.device_get(batches), (alone.sources_RL, shared.sources_RL), strict=True))


def of_responses(values_RL, sources_RL):
    """Values of response tokens by where they lie in the traces; nan where there is none."""
    found = np.full(len(PROMPTS_B) * (SLOTS + STEPS), np.nan)
    found[sources_RL[sources_RL >= 0]] = values_RL[sources_RL >= 0]
    return found.reshape(len(PROMPTS_B), -1)[:, SLOTS:]


def arguments(batch):
    return batch.tokens_BT, batch.positions_BT, batch.segments_BT, batch.parents_BT


@functools.cache
def scorer(model):
    return jax.jit(functools.partial(next_token_logprobs, model))


def assert_close(actual, expected, relative=2e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= relative * np.linalg.norm(b) + 1e-7


def test_the_layout_shares_and_leaves_rows_empty():
    (_, alone_RL), (batch, sources_RL) = lay_out()
    assert (sources_RL >= 0).sum() < (alone_RL >= 0).sum()
    assert not (sources_RL[-2:] >= 0).any()
    # A prompt of one token has nothing to share.
    alone_BT = (batch.positions_BT >= 0) & (batch.parents_BT == batch.segments_BT)
    assert (batch.parents_BT != batch.segments_BT).any()
    assert (batch.weights_BT[alone_BT] > 0).any()


@pytest.mark.parametrize('name', CHANGES)
def test_scores_are_those_of_each_trace_alone(name):
    model, params = tiny_model(**CHANGES[name])
    found = []
    for batch, sources_RL in lay_out():
        values = jax.device_get(scorer(model)(params, *arguments(batch)))
        found.append([of_responses(x, sources_RL) for x in values])
    for alone_BT, shared_BT in zip(*found, strict=True):
        np.testing.assert_allclose(shared_BT, alone_BT, atol=1e-5)
        assert np.isfinite(alone_BT).sum() > 40
    begins_BT = batch.segments_BT != np.roll(batch.segments_BT, 1, axis=1)
    begins_BT |= batch.positions_BT <= 0
    assert (batch.positions_BT[begins_BT] > 0).any()
    for x in values:
        assert (x[begins_BT] == 0).all() and (x[~begins_BT] != 0).all()
    # Without parents the first tokens of responses see their last prompt token only.
    blind = batch.replace(parents_BT=batch.segments_BT)
    assert np.abs(scorer(model)(params, *arguments(blind))[0] - values[0]).max() > 0.05


@pytest.mark.parametrize(
    ('name', 'ratio'), [('plain', 'sequence'), *((name, 'token') for name in CHANGES)]
)
def test_gradients_are_those_of_each_trace_alone(name, ratio):
    model, params = tiny_model(**CHANGES[name])

    @jax.jit
    def differentiate(params, batch):
        def loss(params):
            return LOSSES[ratio](*next_token_logprobs(model, params, *arguments(batch)), batch)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (alone, _), (shared, _) = lay_out()
    assert_close(differentiate(params, shared), differentiate(params, alone))


@pytest.mark.parametrize(
    'axes', [{}, dict(data=2, fsdp=2, tensor=2), dict(fsdp=2, tensor=2, sequence=2)], ids=str
)
def test_every_mesh_updates_and_scores_alike(axes):
    model, params = tiny_model()
    optimizer, mesh = optax.sgd(1.0), make_mesh(**axes)
    (alone, alone_RL), (shared, shared_RL) = lay_out()
    found, scores = [], []
    for batch, sources_RL, on in ((alone, alone_RL, make_mesh()), (shared, shared_RL, mesh)):
        rows = dict(rows=len(sources_RL), microbatch_rows=4)
        score = make_scorer(model, on, **rows)
        update = make_update(model, optimizer, LOSSES['token'], on, **rows)
        shardings = state_shardings(model, optimizer, on)
        state = jax.device_put(new_state(jax.tree.map(jnp.copy, params), optimizer), shardings)
        batch = jax.device_put(batch, batch_sharding(on))
        with use_mesh(on):
            reference_BT = score(state.params, *arguments(batch))
            state, metrics = update(
                state, {}, batch.replace(reference_logprobs_BT=reference_BT - 0.1)
            )
        scores.append(of_responses(np.asarray(reference_BT), sources_RL))
        after, metrics = jax.device_get((state.params, metrics))
        found.append((jax.tree.map(np.subtract, jax.device_get(params), after), metrics))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
    assert_close(found[1], found[0])


@pytest.mark.parametrize(
    'changes',
    [{}, dict(sliding_window=4), dict(sliding_window=4, local_layers=(True, False))], ids=str,
)
def test_the_kernel_on_gpu_sees_as_much(changes, monkeypatch):
    """By XLA's own implementation of it; rows are as long as the kernel wants them."""
    dot_product, calls = jax.nn.dot_product_attention, []

    def on_cpu(*arrays, implementation, **options):
        assert implementation == 'cudnn'
        calls.append(options)
        return dot_product(*arrays, implementation='xla', **options)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', on_cpu)
    model, params = tiny_model(**changes)
    _, (batch, _) = lay_out(row_tokens=128, rows=2)
    assert not (batch.positions_BT[1] >= 0).any()
    scores = [
        scorer(model.clone(kernel=kernel))(params, *arguments(batch))[0]
        for kernel in ('plain', 'cudnn')
    ]
    assert calls
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
