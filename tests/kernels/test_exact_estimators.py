"""Estimators over 10,000 draws against their expectations on the process of tests/tabular.py."""

import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from mrt_jax.kernels.advantages import to_go_credit
from mrt_jax.kernels.allocation import boundaries_in_doubt
from mrt_jax.kernels.estimates import maj_at_k, pass_at_k
from mrt_jax.kernels.mismatch import importance_weights
from mrt_jax.kernels.progress import progress, success_rate
from mrt_jax.kernels.regret import cumulative_regret, normalized_regret
from mrt_jax.kernels.shrinkage import (
    shrink_across_group,
    shrink_along_trace,
    smooth_along_trace,
)
from tests.tabular import (
    ANSWERS,
    DRAWS,
    STATES,
    assert_unbiased,
    log_table,
    make_process,
)

BUDGETS_C = np.array([2.0, 4.5, 9.0])
SAMPLES = 6


@pytest.fixture(scope='module')
def process():
    return make_process()


@pytest.fixture(scope='module')
def asked(process):
    """Drawn traces and J there from one round of two answers: (drawn_N, success_NE)."""
    rng = np.random.default_rng(1)
    drawn_N = process.draw(rng).ravel()
    correct_NEM = process.ask(rng, drawn_N, 2)
    mask_NEM = np.broadcast_to(process.mask_ZE[drawn_N][..., None], correct_NEM.shape)
    return drawn_N, np.asarray(success_rate(correct_NEM, mask_NEM).mean_BE)


@pytest.fixture(scope='module')
def asked_twice(process):
    """The same from two rounds: one answer everywhere, two more where neighbours are in doubt."""
    rng = np.random.default_rng(2)
    drawn_N = process.draw(rng).ravel()
    mask_NE = process.mask_ZE[drawn_N]
    first_NEM, more_NEM = (process.ask(rng, drawn_N, branches) for branches in (1, 2))
    first = success_rate(first_NEM, np.broadcast_to(mask_NE[..., None], first_NEM.shape))
    again_NE = np.asarray(boundaries_in_doubt(first.mean_BE, mask_NE))
    assert 0 < again_NE.sum() < mask_NE.sum()
    rounds = (first_NEM, mask_NE), (more_NEM, again_NE)
    correct_NEM = np.concatenate([correct_NEM for correct_NEM, _ in rounds], axis=-1)
    mask_NEM = np.concatenate(
        [np.broadcast_to(mask_NE[..., None], correct_NEM.shape) for correct_NEM, mask_NE in rounds],
        axis=-1,
    )
    return drawn_N, np.asarray(success_rate(correct_NEM, mask_NEM).mean_BE)


@pytest.mark.parametrize('rounds', ['asked', 'asked_twice'])
def test_success_rate_is_j(process, rounds, request):
    """Less J of the trace that was drawn, over all traces and over those of each length."""
    drawn_N, success_NE = request.getfixturevalue(rounds)
    assert_unbiased(success_NE - process.success_ZE[drawn_N], 0.0)
    for count in range(2, process.mask_ZE.shape[1] + 1):
        of_N = process.mask_ZE[drawn_N].sum(axis=1) == count
        off_NE = np.where(of_N[:, None], success_NE - process.success_ZE[drawn_N], 0)
        assert_unbiased(off_NE, 0.0)


@pytest.mark.parametrize('rounds', ['asked', 'asked_twice'])
@pytest.mark.parametrize(
    'estimate',
    [
        progress,
        to_go_credit,
        cumulative_regret,
        functools.partial(cumulative_regret, best=0.8, from_empty=True),
    ],
)
def test_what_is_linear_in_j(process, rounds, estimate, request):
    """Expectations over traces and answers, by the list of traces with their chances."""
    drawn_N, success_NE = request.getfixturevalue(rounds)
    exact_Z = np.asarray(estimate(np.float32(process.success_ZE), process.mask_ZE), np.float64)
    expected = np.tensordot(process.chances_Z, exact_Z, axes=1)
    assert_unbiased(estimate(success_NE, process.mask_ZE[drawn_N]), expected)


@pytest.mark.parametrize('rounds', ['asked', 'asked_twice'])
def test_normalized_regret(process, rounds, request):
    """An answer costs a token of termination text and one of its own; the prompt has one."""
    drawn_N, success_NE = request.getfixturevalue(rounds)
    tokens_ZE = process.boundaries_ZE + 3.0
    exact_ZC = normalized_regret(tokens_ZE, process.success_ZE, process.mask_ZE, BUDGETS_C)
    found_NC = normalized_regret(
        tokens_ZE[drawn_N], np.float64(success_NE), process.mask_ZE[drawn_N], BUDGETS_C
    )
    assert_unbiased(found_NC, process.chances_Z @ exact_ZC)


@pytest.mark.parametrize('state', range(STATES))
def test_pass_and_majority_of_k(process, state):
    """From six samples, the chances that k fresh ones hold a right answer, or vote for it.

    An answer `x` counts as none, so that some do not vote.
    """
    chances_A = np.exp(log_table(process.theta_SV))[state, ANSWERS]
    answers_A = ('g', None, 'y')
    drawn_NM = np.random.default_rng(state).choice(3, (DRAWS, SAMPLES), p=chances_A)
    counts_NA = np.stack([(drawn_NM == answer).sum(axis=1) for answer in range(3)], axis=1)
    kinds_XA, kind_N = np.unique(counts_NA, axis=0, return_inverse=True)
    for k in range(1, SAMPLES + 1):
        voted = right = 0.0
        for sample in itertools.product(range(3), repeat=k):
            chance = math.prod(chances_A[list(sample)])
            counts = Counter(answers_A[answer] for answer in sample)
            mine, rival = counts['g'], counts['y']
            right += chance * (mine > 0)
            voted += chance * (mine > 0) * (1.0 if mine > rival else 0.5 if mine == rival else 0.0)
        pass_X = [pass_at_k(SAMPLES, counts[0], k) for counts in kinds_XA.tolist()]
        assert_unbiased(np.array(pass_X)[kind_N], right)
        maj_X = [
            maj_at_k([a for a, count in zip(answers_A, counts, strict=True) for _ in range(count)],
                     'g', k)
            for counts in kinds_XA.tolist()
        ]
        assert_unbiased(np.array(maj_X)[kind_N], voted)


class Mismatch:
    """Traces drawn by a sampler that differs from the trainer, and values of each."""

    def __init__(self, process):
        noise_SV = np.random.default_rng(3).normal(0, 0.3, process.theta_SV.shape)
        self.sampled_ZT = process.sampled_ZT
        self.trainer_ZT = process.logprobs(process.theta_SV)
        self.sampler_ZT = process.logprobs(process.theta_SV + noise_SV)
        self.chances_Z = np.exp(self.sampler_ZT.sum(axis=1))
        rng = np.random.default_rng(4)
        self.values_ZT = rng.random(self.sampled_ZT.shape) * self.sampled_ZT
        self.drawn_N = rng.choice(len(self.chances_Z), DRAWS, p=self.chances_Z)

    def weights(self, rows, level, bound='truncate', most=1e3):
        """Weights of traces by their numbers in the list, and whether any bound was met."""
        segments_BT = np.zeros(self.sampled_ZT[rows].shape, int)
        weights_BT, bounded_BT = importance_weights(
            np.float32(self.trainer_ZT[rows]), np.float32(self.sampler_ZT[rows]),
            self.sampled_ZT[rows], segments_BT, level=level, bound=bound, most=most,
        )
        return np.float64(weights_BT), np.asarray(bounded_BT)


@pytest.fixture(scope='module')
def mismatch(process):
    return Mismatch(process)


def test_weights_of_sequences_give_the_trainers_expectation(process, mismatch):
    """E_sampler[w f(z)] = E_trainer[f(z)] of any function of the trace, here a sum over tokens."""
    weights_NT, bounded_NT = mismatch.weights(mismatch.drawn_N, 'sequence')
    assert not bounded_NT.any()
    values_NT = mismatch.values_ZT[mismatch.drawn_N]
    expected = process.chances_Z @ mismatch.values_ZT.sum(axis=1)
    assert abs(expected - mismatch.chances_Z @ mismatch.values_ZT.sum(axis=1)) > 0.05
    assert_unbiased((weights_NT * values_NT).sum(axis=1), expected)


def test_weights_of_tokens_correct_the_token_and_not_its_context(mismatch):
    """E_sampler[w_t f_t] = E[f_t], token t by the trainer, all others by the sampler."""
    weights_NT, _ = mismatch.weights(mismatch.drawn_N, 'token')
    values_NT = mismatch.values_ZT[mismatch.drawn_N]
    token_ZTT = np.eye(mismatch.sampled_ZT.shape[1], dtype=bool)
    chances_ZT = np.exp(
        np.where(token_ZTT, mismatch.trainer_ZT[:, None], mismatch.sampler_ZT[:, None]).sum(-1)
    )
    assert_unbiased(weights_NT * values_NT, (chances_ZT * mismatch.values_ZT).sum(axis=0))


@pytest.mark.parametrize('level', ['token', 'sequence'])
def test_bounded_weights_fall_short_of_it(mismatch, level):
    """Biased by design: of what is never negative they give too little, masks less than truncation.

    What is missing is exactly what lies above the bound: E_sampler[(ratio - w) f].
    """
    rows = np.arange(len(mismatch.chances_Z))
    free_ZT, _ = mismatch.weights(rows, level)
    missing = {}
    for bound in ('truncate', 'mask'):
        exact_ZT, bounded_ZT = mismatch.weights(rows, level, bound, most=1.2)
        assert bounded_ZT.any() and not bounded_ZT.all()
        weights_NT, _ = mismatch.weights(mismatch.drawn_N, level, bound, most=1.2)
        short_ZT = (free_ZT - exact_ZT) * mismatch.values_ZT
        missing[bound] = mismatch.chances_Z @ short_ZT.sum(axis=1)
        unbounded = mismatch.chances_Z @ (free_ZT * mismatch.values_ZT).sum(axis=1)
        found_N = (weights_NT * mismatch.values_ZT[mismatch.drawn_N]).sum(axis=1)
        assert_unbiased(found_N, unbounded - missing[bound])
        assert found_N.mean() < unbounded - 4 * found_N.std() / DRAWS**0.5
    assert 0 < missing['truncate'] < missing['mask']


def test_the_pooled_empty_prefix_is_j_with_less_noise(process):
    """J of the empty prefix, shrunk across groups of four, has a quarter of the variance."""
    rng = np.random.default_rng(5)
    drawn_B = process.draw(rng, 4).ravel()
    mask_BE = process.mask_ZE[drawn_B]
    success_BE = process.ask(rng, drawn_B, 2).mean(axis=-1)
    count_BE = np.full(mask_BE.shape, 2)
    pooled_B = np.asarray(shrink_across_group(np.float32(success_BE), count_BE, mask_BE, 4))[:, 0]
    assert_unbiased(pooled_B[::4], process.success_ZE[0, 0])
    np.testing.assert_allclose(pooled_B.var(), success_BE[:, 0].var() / 4, rtol=0.1)


@pytest.mark.parametrize('shrink', [shrink_along_trace, smooth_along_trace])
def test_shrunk_j_lies_between_j_and_its_surroundings(shrink):
    """Biased by design: low J too high, high J too low, the less the more answers there are."""
    truth_E = np.array([0.2, 0.3, 0.7, 0.8])
    rng, off_AE = np.random.default_rng(6), []
    mask_NE = np.ones((DRAWS, 4), bool)
    for answers in (2, 8, 32):
        success_NE = rng.binomial(answers, truth_E, mask_NE.shape) / answers
        found_NE = shrink(np.float32(success_NE), np.full(mask_NE.shape, answers), mask_NE)
        off_AE.append((np.asarray(found_NE) - truth_E).mean(axis=0))
    off_AE = np.array(off_AE) * [1, 1, -1, -1]
    assert (off_AE[0] > 0.02).all() and (np.diff(np.abs(off_AE), axis=0) < 0).all()
    assert (np.abs(off_AE[-1]) < 0.03).all()
