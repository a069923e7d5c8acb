"""Keys and values kept as int8: what is read back, and what is sampled with them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.attention import Source, attend
from mrt_jax.models.cache import append, as_cache, empty_cache, round_to_int8
from mrt_jax.sampling.fork import prove_branches, same_termination
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sampling.slots import sample_in_slots
from tests.sampling.conftest import TinyPolicy

ROWS, HEADS, TOKENS, WIDTH = 3, 2, 7, 8
BUDGET, SLOTS = Budget(max_thinking_tokens=10, max_answer_tokens=6), 8


def draw(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.lognormal(0, 2, (*shape[:-1], 1))).astype(np.float32)


@pytest.fixture(scope='module')
def small(tiny):
    """The tiny policy, its caches in int8."""
    return TinyPolicy(dataclasses.replace(tiny.model, cache_dtype='int8'), tiny.params)


def roll(policy, prompts, terminals, sample=sample_rollouts, **options):
    return sample(
        policy.model, policy.params, encode_prompts(prompts, SLOTS),
        split_by_row(jax.random.key(0), len(prompts)), terminals,
        budget=BUDGET, sampling=SamplingConfig(), **options,
    )


@pytest.mark.parametrize('axis', [2, 3])
def test_each_head_of_each_token_is_off_by_half_a_step_at_most(axis):
    x = draw(ROWS, HEADS, TOKENS, WIDTH)
    x[0, 0] = 0
    stored = jax.tree.map(np.asarray, round_to_int8(jnp.asarray(x), axis))
    largest = np.abs(x).max(axis=axis, keepdims=True)
    np.testing.assert_allclose(stored.steps, np.where(largest > 0, largest / 127, 1), rtol=1e-6)
    np.testing.assert_array_equal(stored.codes, np.rint(x / stored.steps))
    assert stored.codes.dtype == np.int8 and np.abs(stored.codes).max() == 127
    off = np.abs(stored.codes * stored.steps - x)
    assert (off <= 0.5001 * stored.steps).all() and off.max() > 0


def test_attention_to_codes_is_that_to_what_they_stand_for():
    q_XHTC = draw(2 * ROWS, 2 * HEADS, 2, WIDTH, seed=1)
    keys = round_to_int8(draw(ROWS, HEADS, WIDTH, TOKENS, seed=2), 2)
    values = round_to_int8(draw(ROWS, HEADS, TOKENS, WIDTH, seed=3), 3)
    seen_XTS = np.random.default_rng(4).uniform(size=(2 * ROWS, 2, TOKENS)) < 0.7
    seen_XTS[..., 0] = True
    meant = [stored.codes * stored.steps for stored in (keys, values)]
    np.testing.assert_allclose(
        attend(q_XHTC, [Source(keys, values, seen_XTS)]),
        attend(q_XHTC, [Source(*meant, seen_XTS)]), rtol=1e-4, atol=1e-4,
    )


def test_what_is_appended_is_what_is_stored_at_once(small):
    k_BKTC, v_BKTC = (draw(ROWS, HEADS, TOKENS, WIDTH, seed=seed) for seed in (5, 6))
    whole = as_cache(((k_BKTC, v_BKTC),), np.zeros((ROWS, TOKENS), np.int32), 'int8')
    layer = empty_cache(small.model.config, ROWS, TOKENS, 'int8').layer(0)
    for first, last in ((0, 4), (4, 5), (5, TOKENS)):
        layer = append(layer, k_BKTC[:, :, first:last], v_BKTC[:, :, first:last], first)
    jax.tree.map(np.testing.assert_array_equal, layer, whole.layer(0))


def test_log_probabilities_are_near_those_of_a_full_cache(small, prompts, terminals):
    rollout = roll(small, prompts, terminals)
    assert rollout.caches[0].k_BKCS[0].codes.dtype == jnp.int8
    lengths_B = np.asarray(rollout.lengths_B)
    sequences = [
        [*prompt, *tokens_T[:length]] for prompt, tokens_T, length in zip(
            prompts, np.asarray(rollout.tokens_BT).tolist(), lengths_B, strict=True
        )
    ]
    expected_BTV = small.next_token_logprobs(sequences, 40)
    differences = []
    for row, prompt in enumerate(prompts):
        for place in np.flatnonzero(rollout.sampled_BT[row]):
            token = rollout.tokens_BT[row, place]
            expected = expected_BTV[row, len(prompt) + place - 1, token]
            differences.append(abs(rollout.logprobs_BT[row, place] - expected))
    assert len(differences) > 100 and 1e-5 < np.mean(differences) < 0.02
    assert max(differences) < 0.3


def test_rows_that_take_turns_are_those_of_the_whole_batch(small, prompts, terminals):
    expected = roll(small, prompts, terminals)
    rollout = roll(small, prompts, terminals, sample_in_slots, slots=5)
    np.testing.assert_array_equal(rollout.tokens_BT, expected.tokens_BT)
    np.testing.assert_allclose(rollout.logprobs_BT, expected.logprobs_BT, rtol=1e-3, atol=1e-3)


def test_answers_are_near_those_of_a_full_cache(tiny, small, prompts, terminals):
    """The greedy ones of nearly all boundaries are the same, and so are their probabilities."""
    answers = []
    for policy in (tiny, small):
        rollout = roll(tiny, prompts, terminals)
        if policy is small:
            layers = range(tiny.model.config.num_layers)
            [cache] = rollout.caches
            rollout = rollout.replace(caches=(cache.replace(
                k_BKCS=tuple(round_to_int8(cache.k_BKCS[layer], 2) for layer in layers),
                v_BKSC=tuple(round_to_int8(cache.v_BKSC[layer], 3) for layer in layers),
            ),))
        boundaries_BE = np.asarray(rollout.lengths_B)[:, None] * np.array([1, 2]) // 2
        mask_BE = np.ones_like(boundaries_BE, bool)
        branches = prove_branches(
            policy.model, policy.params, rollout.caches, rollout.prompt_lengths_B,
            jnp.asarray(boundaries_BE, jnp.int32), mask_BE, same_termination((5, 6), mask_BE),
            split_by_row(jax.random.key(1), len(prompts)), terminals,
            branches=1, max_answer_tokens=5, sampling=SamplingConfig(temperature=0.0),
        )
        answers.append(jax.tree.map(np.asarray, branches))
    full, rounded = answers
    same_BE = (full.tokens_BEMA == rounded.tokens_BEMA).all(axis=(2, 3))
    assert same_BE.mean() > 0.9
    off = np.abs(full.logprobs_BEMA - rounded.logprobs_BEMA)[same_BE]
    assert 0 < off.max() < 0.3
