"""Rollouts against plain forward passes without a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import PromptBatch, encode_prompts, fill_cache, sample_rollouts

BUDGET = Budget(max_thinking_tokens=10, max_answer_tokens=6)
SLOTS, STEPS = 8, 10 + 3 + 6
ROW_FIELDS = (
    'tokens_BT', 'sampled_BT', 'lengths_B', 'thought_closed_B', 'forced_B', 'ended_B'
)  # fmt: skip


def _roll(tiny, prompts, terminals, *, keys_B=None, sampling=None, budget=BUDGET):
    keys_B = split_by_row(jax.random.key(0), len(prompts)) if keys_B is None else keys_B
    batch = encode_prompts(prompts, SLOTS)
    return sample_rollouts(
        tiny.model, tiny.params, batch, keys_B, terminals,
        budget=budget, sampling=sampling or SamplingConfig(),
    )  # fmt: skip


@pytest.fixture(scope='module')
def rollout(tiny, prompts, terminals):
    return _roll(tiny, prompts, terminals)


def _assert_rows_equal(one, two, rows_of_two):
    for name in ROW_FIELDS:
        np.testing.assert_array_equal(
            np.asarray(getattr(one, name)), np.asarray(getattr(two, name))[rows_of_two], name
        )
    np.testing.assert_allclose(
        one.logprobs_BT, np.asarray(two.logprobs_BT)[rows_of_two], rtol=1e-5, atol=1e-5
    )


def _responses(rollout):
    return [t[:n] for t, n in zip(np.asarray(rollout.tokens_BT), rollout.lengths_B, strict=True)]


def test_logprobs_equal_scoring_the_whole_sequence(tiny, prompts, rollout):
    sequences = [p + r.tolist() for p, r in zip(prompts, _responses(rollout), strict=True)]
    logprobs_BTV = tiny.next_token_logprobs(sequences, SLOTS + STEPS)
    for row, (prompt, response) in enumerate(zip(prompts, _responses(rollout), strict=True)):
        places = len(prompt) - 1 + np.arange(len(response))
        expected = np.where(
            rollout.sampled_BT[row, : len(response)], logprobs_BTV[row, places, response], 0
        )
        actual = np.asarray(rollout.logprobs_BT[row])
        np.testing.assert_allclose(actual[: len(response)], expected, rtol=1e-4, atol=1e-4)
        assert not actual[len(response) :].any()


def test_samples_cover_every_way_to_end(rollout):
    closed = ~rollout.forced_B & (rollout.thought_closed_B < rollout.lengths_B)
    assert rollout.forced_B.any() and closed.any()
    assert rollout.ended_B.any() and not rollout.ended_B.all()


def test_budget_forcing_is_exact(rollout, terminals):
    forced = np.flatnonzero(rollout.forced_B)
    text = terminals.termination_tokens
    for row in forced:
        assert rollout.thought_closed_B[row] == BUDGET.max_thinking_tokens
        tail = np.asarray(rollout.tokens_BT[row, BUDGET.max_thinking_tokens :])
        np.testing.assert_array_equal(tail[: len(text)], text)
        sampled_T = np.asarray(rollout.sampled_BT[row])
        assert sampled_T[: BUDGET.max_thinking_tokens].all()
        assert not sampled_T[BUDGET.max_thinking_tokens :][: len(text)].any()
    answered_B = rollout.lengths_B - rollout.thought_closed_B - len(text) * rollout.forced_B
    assert (answered_B <= BUDGET.max_answer_tokens).all()
    cut_B = ~np.asarray(rollout.ended_B)
    assert (np.asarray(answered_B)[cut_B] == BUDGET.max_answer_tokens).all()


def test_cache_holds_what_a_plain_forward_computes(tiny, prompts, rollout):
    sequences = [p + r.tolist() for p, r in zip(prompts, _responses(rollout), strict=True)]
    batch = encode_prompts(sequences, SLOTS + STEPS)
    filled = fill_cache(tiny.model, tiny.params, batch)
    for row, sequence in enumerate(sequences):
        start = SLOTS - len(prompts[row])
        [cache] = rollout.caches
        own = np.asarray(cache.positions_BS[row])
        kept = slice(start, start + len(sequence))
        np.testing.assert_array_equal(own[kept], np.arange(len(sequence)))
        assert (np.delete(own, np.arange(kept.start, kept.stop)) == -1).all()
        last = slice(SLOTS + STEPS - len(sequence), None)
        for layer in range(tiny.model.config.num_layers):
            np.testing.assert_allclose(
                cache.k_BKCS[layer][row, :, :, kept],
                filled.k_BKCS[layer][row, :, :, last], rtol=1e-4, atol=1e-4,
            )
            np.testing.assert_allclose(
                cache.v_BKSC[layer][row, :, kept],
                filled.v_BKSC[layer][row, :, last], rtol=1e-4, atol=1e-4,
            )


def test_greedy_equals_argmax_of_plain_forwards(tiny, prompts):
    # Long enough for the cache to grow in stages.
    budget = Budget(max_thinking_tokens=0, max_answer_tokens=50)
    rollout = _roll(
        tiny, prompts, Terminals(), sampling=SamplingConfig(temperature=0), budget=budget
    )
    sequences = [list(prompt) for prompt in prompts]
    for _ in range(budget.max_answer_tokens):
        logprobs_BTV = tiny.next_token_logprobs(sequences, SLOTS + 50)
        for row, sequence in enumerate(sequences):
            sequence.append(int(np.argmax(logprobs_BTV[row, len(sequence) - 1])))
    for prompt, sequence, response in zip(prompts, sequences, _responses(rollout), strict=True):
        np.testing.assert_array_equal(response, sequence[len(prompt) :])
    assert not rollout.thought_closed_B.any() and not rollout.forced_B.any()


def test_a_row_does_not_depend_on_its_neighbours(tiny, prompts, terminals, rollout):
    keys_B = split_by_row(jax.random.key(0), len(prompts))
    order = np.random.default_rng(1).permutation(len(prompts))
    permuted = _roll(tiny, [prompts[i] for i in order], terminals, keys_B=keys_B[order])
    _assert_rows_equal(permuted, rollout, order)


def test_empty_rows_fill_up_a_batch(tiny, prompts, terminals, rollout):
    kept = np.asarray([3, 17, 4])
    filled = [prompts[i] for i in kept] + [[]] * (len(prompts) - 3)
    keys_B = split_by_row(jax.random.key(0), len(prompts))
    keys_B = keys_B[np.concatenate([kept, np.arange(len(prompts) - 3)])]
    padded = _roll(tiny, filled, terminals, keys_B=keys_B)
    assert (np.asarray(padded.lengths_B[3:]) == 0).all()
    assert np.isfinite(padded.logprobs_BT).all()
    _assert_rows_equal(jax.tree.map(lambda x: x[:3], padded.replace(caches=())), rollout, kept)


def test_a_row_does_not_depend_on_the_batch_size(tiny, prompts, terminals, rollout):
    few = np.asarray([3, 17, 4])
    keys_B = split_by_row(jax.random.key(0), len(prompts))[few]
    alone = _roll(tiny, [prompts[i] for i in few], terminals, keys_B=keys_B)
    _assert_rows_equal(alone, rollout, few)


def test_the_loop_stops_when_every_row_has_ended(tiny, prompts, terminals):
    # Every id ends a row, so one token is decoded; later slots must never have been written.
    ending = terminals.replace(eos_ids=tuple(range(13)))
    rollout = _roll(tiny, prompts, ending)
    assert (np.asarray(rollout.lengths_B) == 1).all() and rollout.ended_B.all()
    for k_BKCS in rollout.caches[0].k_BKCS:
        assert not np.asarray(k_BKCS[..., SLOTS + 1 :]).any()
        assert np.asarray(k_BKCS[..., SLOTS]).any()


def test_rows_may_be_sharded(tiny, prompts, terminals, rollout):
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ('data', 'fsdp'))
    by_row = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    everywhere = NamedSharding(mesh, PartitionSpec())
    batch = encode_prompts(prompts, SLOTS)
    sharded = sample_rollouts(
        tiny.model,
        jax.device_put(tiny.params, everywhere),
        jax.device_put(batch, by_row),
        jax.device_put(split_by_row(jax.random.key(0), len(prompts)), by_row),
        jax.device_put(terminals, everywhere),
        budget=BUDGET,
        sampling=SamplingConfig(),
    )
    _assert_rows_equal(sharded, rollout, np.arange(len(prompts)))
    for k_BKCS in sharded.caches[0].k_BKCS:
        assert k_BKCS.sharding.shard_shape(k_BKCS.shape)[0] == len(prompts) // 8


def test_one_compilation_serves_every_batch_of_a_shape(tiny, prompts, terminals):
    _roll(tiny, prompts, terminals)
    compiled = sample_rollouts._cache_size()
    _roll(tiny, prompts[::-1], terminals, keys_B=split_by_row(jax.random.key(9), len(prompts)))
    assert sample_rollouts._cache_size() == compiled


def test_long_prompts_are_refused_not_cut():
    with pytest.raises(ValueError, match='prompt 1 has 4 tokens'):
        encode_prompts([[1], [1, 2, 3, 4]], 3)


def test_prompts_are_padded_on_the_left():
    batch = encode_prompts([[5, 6], [], [7, 8, 9]], 3, pad_id=4)
    assert isinstance(batch, PromptBatch)
    np.testing.assert_array_equal(batch.tokens_BP, [[4, 5, 6], [4, 4, 4], [7, 8, 9]])
    np.testing.assert_array_equal(batch.lengths_B, jnp.asarray([2, 0, 3]))


def test_a_thinking_budget_needs_a_termination_text(tiny, prompts):
    with pytest.raises(ValueError, match='termination_tokens'):
        _roll(tiny, prompts, Terminals())
