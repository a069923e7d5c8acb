"""Branches on the parent's cache against scoring every prefix from scratch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.sampling.fork import Termination, prove_branches, same_termination
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, fill_cache, sample_rollouts
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, use_mesh

ROWS, BOUNDARIES, BRANCHES, ANSWER, TEXT = 32, 8, 3, 5, 4
SLOTS = 8
PLACES = 40  # prompt, response and branch of any row


class Case:
    """Rollouts, random boundaries (about 200 of 256 in use) and texts of random lengths."""

    def __init__(self, tiny, prompts, terminals) -> None:
        rng = np.random.default_rng(0)
        self.tiny, self.prompts, self.terminals = tiny, prompts, terminals
        self.rollout = sample_rollouts(
            tiny.model, tiny.params, encode_prompts(prompts, SLOTS),
            split_by_row(jax.random.key(0), ROWS), terminals,
            budget=Budget(max_thinking_tokens=12, max_answer_tokens=6), sampling=SamplingConfig(),
        )  # fmt: skip
        lengths_B = np.asarray(self.rollout.lengths_B)
        self.boundaries_BE = rng.integers(0, lengths_B[:, None] + 1, (ROWS, BOUNDARIES))
        self.boundaries_BE[:, -1] = lengths_B  # the whole response, its last token included
        self.mask_BE = rng.uniform(size=(ROWS, BOUNDARIES)) < 0.85
        self.text_BEA = rng.integers(2, 13, (ROWS, BOUNDARIES, TEXT))
        self.text_lengths_BE = rng.integers(1, TEXT + 1, (ROWS, BOUNDARIES))
        self.keys_B = split_by_row(jax.random.key(1), ROWS)

    def prove(
        self, rows=slice(None), caches=None, branches=BRANCHES, tile_rows=256, common_draws=False,
        **changes,
    ):
        caches = caches or self.rollout.caches
        take = lambda x: jax.tree.map(lambda a: jnp.asarray(a)[rows], x)  # noqa: E731
        caches = jax.tree.map(lambda x: x[rows], caches)
        arguments = {
            'mask_BE': self.mask_BE, 'boundaries_BE': self.boundaries_BE,
            'text_BEA': self.text_BEA, 'text_lengths_BE': self.text_lengths_BE,
            'terminals': self.terminals, 'sampling': SamplingConfig(),
        } | changes  # fmt: skip
        return prove_branches(
            self.tiny.model, self.tiny.params, caches, take(self.rollout.prompt_lengths_B),
            take(jnp.asarray(arguments['boundaries_BE'], jnp.int32)), take(arguments['mask_BE']),
            Termination(take(jnp.asarray(arguments['text_BEA'], jnp.int32)),
                        take(jnp.asarray(arguments['text_lengths_BE'], jnp.int32))),
            self.keys_B[rows], arguments['terminals'],
            branches=branches, max_answer_tokens=ANSWER, tile_rows=tile_rows,
            sampling=arguments['sampling'], common_draws=common_draws,
        )  # fmt: skip

    def prefix(self, row, boundary):
        length = self.boundaries_BE[row, boundary]
        text = self.text_BEA[row, boundary, : self.text_lengths_BE[row, boundary]]
        return [*self.prompts[row], *self.rollout.tokens_BT[row, :length].tolist(), *text.tolist()]


@pytest.fixture(scope='module')
def case(tiny, prompts, terminals):
    return Case(tiny, prompts, terminals)


@pytest.fixture(scope='module')
def branches(case):
    return jax.tree.map(np.asarray, case.prove())


def _assert_equal(one, two):
    for name in ('tokens_BEMA', 'sampled_BEMA', 'lengths_BEM', 'ended_BEM'):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    np.testing.assert_allclose(one.logprobs_BEMA, two.logprobs_BEMA, rtol=1e-5, atol=1e-5)


def test_logprobs_equal_scoring_from_scratch(case, branches):
    assert case.mask_BE.sum() >= 200
    pairs = np.argwhere(case.mask_BE)
    sequences, answers = [], []
    for row, boundary in pairs:
        prefix = case.prefix(row, boundary)
        text = case.text_lengths_BE[row, boundary]
        for branch in range(BRANCHES):
            length = branches.lengths_BEM[row, boundary, branch]
            tokens = branches.tokens_BEMA[row, boundary, branch]
            np.testing.assert_array_equal(tokens[:text], prefix[len(prefix) - text :])
            assert (tokens[length:] == 0).all()
            answers.append((len(prefix), tokens[text:length]))
            sequences.append([*prefix, *tokens[text:length].tolist()])
    logprobs_XTV = case.tiny.next_token_logprobs(sequences, PLACES)
    worst = 0.0
    for index, (start, answer) in enumerate(answers):
        row, boundary = pairs[index // BRANCHES]
        text = case.text_lengths_BE[row, boundary]
        actual = branches.logprobs_BEMA[row, boundary, index % BRANCHES]
        expected = logprobs_XTV[index, start - 1 + np.arange(len(answer)), answer]
        worst = max(worst, np.abs(actual[text : text + len(answer)] - expected).max())
        sampled = branches.sampled_BEMA[row, boundary, index % BRANCHES]
        assert sampled.sum() == len(answer) and sampled[text : text + len(answer)].all()
        assert not actual[~sampled].any()
    assert worst < 1e-4


def test_greedy_answers_equal_plain_decoding(case):
    greedy = case.prove(sampling=SamplingConfig(temperature=0))
    pairs = np.argwhere(case.mask_BE)
    sequences = [case.prefix(row, boundary) for row, boundary in pairs]
    starts = [len(sequence) for sequence in sequences]
    for _ in range(ANSWER):
        logprobs_XTV = case.tiny.next_token_logprobs(sequences, PLACES)
        for index, sequence in enumerate(sequences):
            sequence.append(int(np.argmax(logprobs_XTV[index, len(sequence) - 1])))
    lengths_BEM, tokens_BEMA = np.asarray(greedy.lengths_BEM), np.asarray(greedy.tokens_BEMA)
    for (row, boundary), sequence, start in zip(pairs, sequences, starts, strict=True):
        text = case.text_lengths_BE[row, boundary]
        for branch in range(BRANCHES):
            length = lengths_BEM[row, boundary, branch]
            answer = tokens_BEMA[row, boundary, branch, text:length]
            np.testing.assert_array_equal(answer, sequence[start : start + len(answer)])


def test_masked_boundaries_have_no_branches(case, branches):
    masked = ~case.mask_BE
    assert masked.any()
    assert not branches.lengths_BEM[masked].any() and not branches.ended_BEM[masked].any()
    assert not branches.sampled_BEMA[masked].any() and not branches.tokens_BEMA[masked].any()


def test_answers_end_by_themselves_or_by_their_budget(case, branches):
    answers_BEM = branches.lengths_BEM - case.text_lengths_BE[:, :, None]
    used = np.broadcast_to(case.mask_BE[:, :, None], answers_BEM.shape)
    ended = used & branches.ended_BEM
    cut = used & ~branches.ended_BEM
    assert ended.any() and cut.any()
    assert (answers_BEM[cut] == ANSWER).all()
    row, boundary, branch = np.argwhere(ended)[0]
    last = branches.tokens_BEMA[
        row, boundary, branch, branches.lengths_BEM[row, boundary, branch] - 1
    ]
    assert last in (1, 10)


def test_a_trace_does_not_depend_on_its_neighbours(case, branches):
    rows = np.random.default_rng(4).choice([5, 30, 2, 11], ROWS)
    _assert_equal(case.prove(rows), jax.tree.map(lambda x: x[rows], branches))


def test_a_boundary_does_not_depend_on_the_others(case, branches):
    mask_BE = case.mask_BE.copy()
    mask_BE[:, ::2] = False
    fewer = case.prove(mask_BE=mask_BE)
    np.testing.assert_array_equal(
        np.asarray(fewer.tokens_BEMA)[mask_BE], branches.tokens_BEMA[mask_BE]
    )


def test_tiles_and_more_branches_keep_the_first_ones(case, branches):
    assert ROWS * BOUNDARIES * BRANCHES > 256  # `branches` were decoded in several tiles.
    more = case.prove(branches=BRANCHES + 2, tile_rows=10_000)
    first = jax.tree.map(lambda x: x[:, :, :BRANCHES], more)
    _assert_equal(first, branches)


def test_branches_of_a_boundary_differ(case, branches):
    first, second = branches.tokens_BEMA[:, :, 0], branches.tokens_BEMA[:, :, 1]
    assert (first != second).any(axis=-1)[case.mask_BE].mean() > 0.5


def test_common_draws_make_equal_boundaries_answer_alike(case, branches):
    """Every second boundary repeats the one before it; the others only share their numbers."""
    twice_E = np.arange(BOUNDARIES) // 2 * 2
    asked = {
        'mask_BE': np.ones((ROWS, BOUNDARIES), bool),
        **{name: getattr(case, name)[:, twice_E]
           for name in ('boundaries_BE', 'text_BEA', 'text_lengths_BE')},
    }  # fmt: skip
    common = jax.tree.map(np.asarray, case.prove(common_draws=True, **asked))
    halves = [jax.tree.map(lambda x, start=start: x[:, start::2], common) for start in (0, 1)]
    _assert_equal(*halves)
    own = case.prove(**asked)
    differ = np.asarray(own.tokens_BEMA)[:, ::2] != np.asarray(own.tokens_BEMA)[:, 1::2]
    assert differ.any(axis=-1).mean() > 0.5
    # The first boundary's numbers are those that it has without, and no branch shares another's.
    used_B = case.mask_BE[:, 0]
    np.testing.assert_array_equal(common.tokens_BEMA[used_B, 0], branches.tokens_BEMA[used_B, 0])
    others = common.tokens_BEMA[:, :, 0] != common.tokens_BEMA[:, :, 1]
    assert others.any(axis=-1).mean() > 0.5


def test_common_draws_tell_boundaries_apart_with_less_noise(case):
    """Boundaries a token apart are alike, not equal: their answers differ in fewer first tokens."""
    asked = {
        'mask_BE': np.ones((ROWS, BOUNDARIES), bool),
        'boundaries_BE': np.minimum(np.arange(BOUNDARIES), case.boundaries_BE[:, -1:]),
        'text_BEA': np.broadcast_to(case.text_BEA[:1, :1], case.text_BEA.shape),
        'text_lengths_BE': np.full((ROWS, BOUNDARIES), TEXT),
    }
    changes, means = {}, {}
    for common in (False, True):
        right_BEM = np.asarray(case.prove(common_draws=common, **asked).tokens_BEMA)[..., TEXT] < 7
        means[common] = right_BEM.mean()
        changes[common] = (right_BEM[:, 1:] != right_BEM[:, :-1]).mean()
    assert changes[True] < 0.7 * changes[False]
    assert abs(means[True] - means[False]) < 0.1


def test_recorded_traces_give_the_same_branches(case, branches):
    sequences = [
        [*prompt, *tokens[:length].tolist()]
        for prompt, tokens, length in zip(
            case.prompts, np.asarray(case.rollout.tokens_BT), case.rollout.lengths_B, strict=True
        )
    ]
    cache = fill_cache(case.tiny.model, case.tiny.params, encode_prompts(sequences, SLOTS + 21))
    _assert_equal(case.prove(caches=(cache,)), branches)


def test_traces_may_be_sharded(case, branches):
    mesh = make_mesh(data=2, fsdp=2, sequence=2)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    caches = jax.device_put(case.rollout.caches, by_row)
    inputs = (
        case.rollout.prompt_lengths_B,
        jnp.asarray(case.boundaries_BE, jnp.int32),
        jnp.asarray(case.mask_BE),
        Termination(
            jnp.asarray(case.text_BEA, jnp.int32), jnp.asarray(case.text_lengths_BE, jnp.int32)
        ),
        case.keys_B,
    )
    # Tiles of two traces and three boundaries on each device.
    with use_mesh(mesh, SAMPLING_RULES):
        sharded = prove_branches(
            case.tiny.model, case.tiny.params, caches, *jax.device_put(inputs, by_row),
            case.terminals, branches=BRANCHES, max_answer_tokens=ANSWER,
            sampling=SamplingConfig(), tile_rows=2 * 3 * BRANCHES,
        )  # fmt: skip
    _assert_equal(sharded, branches)
    assert sharded.tokens_BEMA.sharding.shard_shape(sharded.tokens_BEMA.shape)[0] == ROWS // 8


def test_one_termination_text_for_all():
    termination = same_termination((4, 5), jnp.ones((2, 3), bool))
    assert termination.tokens_BEA.shape == (2, 3, 2)
    np.testing.assert_array_equal(termination.lengths_BE, np.full((2, 3), 2))
    with pytest.raises(ValueError, match='at least one token'):
        same_termination((), jnp.ones((2, 3), bool))


def test_windows_by_layer_and_caps_hold_in_rollouts_and_branches(tiny_gemma, terminals):
    """Greedy, against one plain forward pass over each whole sequence."""
    rows, greedy = 4, SamplingConfig(temperature=0)
    prompts = np.random.default_rng(6).integers(2, 13, (rows, 7)).tolist()
    rollout = sample_rollouts(
        tiny_gemma.model, tiny_gemma.params, encode_prompts(prompts, SLOTS),
        split_by_row(jax.random.key(0), rows), terminals,
        budget=Budget(max_thinking_tokens=0, max_answer_tokens=12), sampling=greedy,
    )  # fmt: skip
    lengths_B = np.asarray(rollout.lengths_B)
    boundaries_BE = np.stack([lengths_B // 2, lengths_B], axis=1)
    mask_BE = jnp.ones((rows, 2), bool)
    branches = prove_branches(
        tiny_gemma.model, tiny_gemma.params, rollout.caches, rollout.prompt_lengths_B,
        jnp.asarray(boundaries_BE), mask_BE, same_termination((5, 6), mask_BE),
        split_by_row(jax.random.key(1), rows), terminals,
        branches=1, max_answer_tokens=ANSWER, sampling=greedy, tile_rows=2,
    )  # fmt: skip
    tokens_BT, said = np.asarray(rollout.tokens_BT), []
    for row in range(rows):
        response = tokens_BT[row, : lengths_B[row]].tolist()
        said.append((prompts[row], response, rollout.logprobs_BT[row, : lengths_B[row]]))
        for e in range(2):
            slots = slice(2, int(branches.lengths_BEM[row, e, 0]))
            prefix = [*prompts[row], *response[: boundaries_BE[row, e]], 5, 6]
            answer = np.asarray(branches.tokens_BEMA[row, e, 0, slots]).tolist()
            said.append((prefix, answer, branches.logprobs_BEMA[row, e, 0, slots]))
    logprobs_XTV = tiny_gemma.next_token_logprobs([[*p, *a] for p, a, _ in said], PLACES)
    for index, (prefix, answer, logprobs) in enumerate(said):
        expected_AV = logprobs_XTV[index, len(prefix) - 1 :][: len(answer)]
        np.testing.assert_array_equal(answer, expected_AV.argmax(-1))
        np.testing.assert_allclose(logprobs, expected_AV.max(-1), atol=1e-4)
    assert sum(len(answer) for _, answer, _ in said) > 20
