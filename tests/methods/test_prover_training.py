"""The meta-prover's answers as sequences to train on, beside loops over single answers."""

import statistics

import numpy as np
import pytest

from mrt_jax.kernels.episodes import Episodes
from mrt_jax.kernels.surrogate import AGGREGATIONS, token_weights
from mrt_jax.methods.experience import Traces
from mrt_jax.methods.prover import Drawn, Graded
from mrt_jax.methods.prover_training import (
    answer_advantages,
    answer_weights,
    answers_to_train,
    behind_traces,
    choose_boundaries,
)
from mrt_jax.sampling.sampler import Rollout

ROWS, BOUNDARIES, BRANCHES, SLOTS = 3, 4, 3, 7  # Slots: up to 3 of the text, 4 of the answer.
PROMPT, RESPONSE = 5, 12


def draw_answers(rng):
    """Rewards of all kinds, some boundaries not asked at, answers of 1 to 4 tokens, some cut."""
    shape = ROWS, BOUNDARIES, BRANCHES
    mask_BE = rng.random(shape[:2]) < 0.8
    texts_BE = rng.integers(1, 4, shape[:2])
    sampled_BEM = np.where(mask_BE[..., None], rng.integers(1, 5, shape), 0)
    drawn = Drawn(
        mask_BE=mask_BE, tokens_BEMA=rng.integers(1, 64, (*shape, SLOTS)).astype(np.int32),
        lengths_BEM=np.where(mask_BE[..., None], texts_BE[..., None] + sampled_BEM, 0),
        sampled_BEM=sampled_BEM, ended_BEM=mask_BE[..., None] & (rng.random(shape) < 0.7),
        logprobs_BEMA=rng.normal(-2, 1, (*shape, SLOTS)).astype(np.float32),
    )
    return Graded(drawn, mask_BE[..., None] & (rng.random(shape) < 0.5))


def draw_traces(rng):
    prompt_lengths_B = rng.integers(1, PROMPT + 1, ROWS).astype(np.int32)
    boundaries_BE = np.sort(rng.integers(0, 9, (ROWS, BOUNDARIES)), axis=1).astype(np.int32)
    rollout = Rollout(
        prompt_tokens_BP=rng.integers(1, 64, (ROWS, PROMPT)).astype(np.int32),
        prompt_lengths_B=prompt_lengths_B, lengths_B=np.full(ROWS, RESPONSE, np.int32),
        tokens_BT=rng.integers(1, 64, (ROWS, RESPONSE)).astype(np.int32),
        logprobs_BT=rng.normal(-2, 1, (ROWS, RESPONSE)).astype(np.float32),
        sampled_BT=None, thought_closed_B=None, forced_B=None, ended_B=None, caches=(),
    )
    return Traces(rollout, Episodes(boundaries_BE, np.full(ROWS, BOUNDARIES - 1)))


def reference_advantages(correct_BEM, mask_BE):
    found = np.zeros(correct_BEM.shape)
    for row, column in np.argwhere(mask_BE):
        rewards = correct_BEM[row, column].astype(float).tolist()
        for branch, reward in enumerate(rewards):
            others = rewards[:branch] + rewards[branch + 1 :]
            found[row, column, branch] = reward - statistics.fmean(others)
    return found


def convert(traces, graded, draws=None, **changes):
    settings = dict(weight=0.5, aggregation='sequence', skip_truncated=False,
                    sequences=ROWS * BOUNDARIES * BRANCHES, slots=18)
    return answers_to_train(
        traces, graded, draws=draws or np.random.default_rng(0), **settings | changes
    )


@pytest.mark.parametrize('seed', range(5))
def test_an_answer_is_measured_by_the_others_at_its_boundary(seed):
    graded = draw_answers(np.random.default_rng(seed))
    mask_BE = graded.drawn.mask_BE
    found_BEM = answer_advantages(graded.correct_BEM, mask_BE)
    expected_BEM = reference_advantages(graded.correct_BEM, mask_BE)
    np.testing.assert_allclose(found_BEM, expected_BEM, atol=1e-6)
    hits_BE = graded.correct_BEM.sum(axis=-1)
    alike_BE = (hits_BE == 0) | (hits_BE == BRANCHES)
    # Exactly none where all are alike, and some for each where they are not.
    np.testing.assert_array_equal(found_BEM == 0, np.broadcast_to(
        (alike_BE | ~mask_BE)[..., None], found_BEM.shape
    ))


@pytest.mark.parametrize('branches', [2, 3, 7])
def test_answers_that_are_alike_have_exactly_no_advantage(branches):
    ones_BEM = np.ones((1, 1, branches), bool)
    for correct_BEM in (ones_BEM, ~ones_BEM):
        assert not answer_advantages(correct_BEM, np.ones((1, 1), bool)).any()


@pytest.mark.parametrize('aggregation', AGGREGATIONS)
@pytest.mark.parametrize('seed', range(3))
def test_weights_are_those_of_the_answers_as_rows(aggregation, seed):
    rng = np.random.default_rng(seed)
    drawn = draw_answers(rng).drawn
    tokens_BEM = np.where(rng.random(drawn.sampled_BEM.shape) < 0.8, drawn.sampled_BEM, 0)
    rows_N = tokens_BEM[drawn.mask_BE].reshape(-1)
    expected_NA = np.asarray(token_weights(np.arange(SLOTS) < rows_N[:, None], aggregation))
    found_BEM = answer_weights(tokens_BEM, drawn.mask_BE, SLOTS, aggregation)
    found_N = found_BEM[drawn.mask_BE].reshape(-1)
    np.testing.assert_allclose(found_N * rows_N, expected_NA.sum(axis=1), rtol=1e-5)
    assert not found_BEM[~drawn.mask_BE].any()
    with pytest.raises(ValueError, match="'mean' is unknown"):
        answer_weights(tokens_BEM, drawn.mask_BE, SLOTS, 'mean')


def test_nothing_asked_weighs_nothing():
    nothing = np.zeros((2, 2, 2), int), np.zeros((2, 2), bool)
    for aggregation in AGGREGATIONS:
        assert not answer_weights(*nothing, SLOTS, aggregation).any()


def test_the_choice_stands_for_all():
    """In expectation each boundary with an advantage counts once; the others are never chosen."""
    rng = np.random.default_rng(0)
    advantages_BEM = rng.choice([-1.0, 0.0, 1.0], (4, 3, 2))
    wanted_BE = (advantages_BEM != 0).any(axis=-1)
    cells, factor = choose_boundaries(advantages_BEM, 12, rng)
    assert factor == 1 and (cells == np.argwhere(wanted_BE)).all()
    draws, total_BE, pairs = 4000, np.zeros((4, 3)), np.zeros((12, 12))
    for _ in range(draws):
        cells, factor = choose_boundaries(advantages_BEM, 4, rng)
        assert len(cells) == 4 == len({tuple(cell) for cell in cells})
        total_BE[tuple(cells.T)] += factor
        flat = cells @ [3, 1]
        pairs[np.ix_(flat, flat)] += 1
    count = wanted_BE.sum()
    assert factor == count / 4 > 2
    deviation = np.sqrt((factor - 1) / draws)
    np.testing.assert_allclose(total_BE / draws, wanted_BE, atol=5 * deviation)
    # Any two are found together equally often.
    together = pairs[np.ix_(wanted_BE.ravel(), wanted_BE.ravel())][np.triu_indices(count, 1)]
    chance = 4 * 3 / (count * (count - 1))
    np.testing.assert_allclose(
        together / draws, chance, atol=5 * np.sqrt(chance * (1 - chance) / draws)
    )


@pytest.mark.parametrize('skip_truncated', [False, True])
def test_sequences_are_prompt_prefix_text_and_answer(skip_truncated):
    rng = np.random.default_rng(1)
    traces, graded = draw_traces(rng), draw_answers(rng)
    drawn, rollout = graded.drawn, traces.rollout
    advantages_BEM = reference_advantages(graded.correct_BEM, drawn.mask_BE)
    found, counts = convert(traces, graded, skip_truncated=skip_truncated)
    trained_BEM = drawn.mask_BE[..., None] & (drawn.ended_BEM | (not skip_truncated))
    place = 0
    for cell in map(tuple, np.argwhere(trained_BEM & (advantages_BEM != 0))):
        row, column, _ = cell
        prefix = rollout.tokens_BT[row, : traces.episodes.boundaries_BE[row, column]].tolist()
        behind = drawn.tokens_BEMA[cell][: drawn.lengths_BEM[cell]].tolist()
        sampled, length = drawn.sampled_BEM[cell], len(prefix) + len(behind)
        own = slice(length - sampled, length)
        assert found.lengths_B[place] == length
        assert found.tokens_BT[place, :length].tolist() == prefix + behind
        np.testing.assert_array_equal(found.prompt_tokens_BP[place], rollout.prompt_tokens_BP[row])
        assert found.prompt_lengths_B[place] == rollout.prompt_lengths_B[row]
        weight = 0.5 / trained_BEM.sum() / sampled
        for values, expected in (
            (found.weights_BT, weight), (found.advantages_BT, advantages_BEM[cell]),
            (found.logprobs_BT, drawn.logprobs_BEMA[cell][len(behind) - sampled : len(behind)]),
        ):
            np.testing.assert_allclose(values[place, own], expected, rtol=1e-5)
            assert not np.delete(values[place], np.arange(own.start, own.stop)).any()
        place += 1
    assert place == counts['prover_trained'] > 5 and counts['prover_dropped'] == 0
    assert not found.lengths_B[place:].any() and not found.prompt_lengths_B[place:].any()
    assert not found.weights_BT[place:].any()


def test_what_does_not_fit_is_dropped_and_counted():
    rng = np.random.default_rng(1)
    traces, graded = draw_traces(rng), draw_answers(rng)
    whole, counts = convert(traces, graded)
    some, left = convert(traces, graded, sequences=2 * BRANCHES + 1)
    assert some.tokens_BT.shape == (2 * BRANCHES + 1, 18)
    assert left['prover_trained'] == 2 * BRANCHES
    assert left['prover_trained'] + left['prover_dropped'] == counts['prover_trained']
    factor = counts['prover_trained'] / (2 * BRANCHES)
    # Those chosen are among all, with as much more weight.
    by_tokens = {
        tuple(tokens): weights
        for tokens, weights in zip(whole.tokens_BT, whole.weights_BT, strict=True)
    }
    for place in range(2 * BRANCHES):
        np.testing.assert_allclose(
            some.weights_BT[place], factor * by_tokens[tuple(some.tokens_BT[place])], rtol=1e-5
        )
    again, _ = convert(traces, graded, sequences=2 * BRANCHES + 1)
    np.testing.assert_array_equal(again.tokens_BT, some.tokens_BT)
    other, _ = convert(
        traces, graded, sequences=2 * BRANCHES + 1, draws=np.random.default_rng(3)
    )
    assert (other.tokens_BT != some.tokens_BT).any()


def test_traces_come_first_as_they_were():
    rng = np.random.default_rng(2)
    traces, graded = draw_traces(rng), draw_answers(rng)
    answers, _ = convert(traces, graded)
    weights_BT, advantages_BT = rng.random((2, ROWS, RESPONSE)).astype(np.float32)
    both = behind_traces(traces.rollout, weights_BT, advantages_BT, answers)
    for name, own in (
        ('weights_BT', weights_BT), ('advantages_BT', advantages_BT),
        ('tokens_BT', traces.rollout.tokens_BT), ('logprobs_BT', traces.rollout.logprobs_BT),
    ):
        values = getattr(both, name)
        np.testing.assert_array_equal(values[:ROWS, :RESPONSE], own)
        assert not values[:ROWS, RESPONSE:].any()
        np.testing.assert_array_equal(values[ROWS:], getattr(answers, name))
    np.testing.assert_array_equal(both.lengths_B[:ROWS], traces.rollout.lengths_B)
    np.testing.assert_array_equal(both.prompt_tokens_BP[:ROWS], traces.rollout.prompt_tokens_BP)
