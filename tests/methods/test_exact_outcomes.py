"""Policy gradients of outcomes: which expectation each composition is the gradient of."""

import collections
import itertools
import math

import numpy as np
import pytest

from tests.methods.exact import GROUP, SLOTS, check, credited, draws, gradients, pairs
from tests.tabular import GOLD, assert_unbiased, differences, make_process


@pytest.fixture(scope='module')
def process():
    return make_process()


@pytest.fixture(scope='module')
def slope_SV(process):
    """Gradient of E_{z ~ pi}[r(z)]."""
    return process.slope(process.rewards_Z[:, None])


def test_less_the_groups_mean(process, slope_SV):
    """(G - 1) / G x the gradient of E_{z ~ pi}[r(z)]: the mean holds a row's own reward."""
    check(
        process, credited(normalise='none'), lambda size: (size - 1) / size * slope_SV / SLOTS
    )


def test_less_the_mean_of_the_others(process, slope_SV):
    """The gradient of E_{z ~ pi}[r(z)], exactly."""
    check(
        process, credited(normalise='none', baseline='leave_one_out'), lambda _: slope_SV / SLOTS
    )


def test_divided_by_the_groups_deviation(process, slope_SV):
    """The gradient of E_{z ~ pi}[r(z)] x a factor that depends on pi_old's success rate p.

    Biased by design, in length only: the factor is the difference that a row's own reward makes to
    its advantage, over the other rows' rewards, which are Binomial(G - 1, p). Between problems it
    is largest where p is near 0 or 1.
    """

    def factor(size, p):
        total = 0.0
        for others in range(size):
            chance = math.comb(size - 1, others) * p**others * (1 - p) ** (size - 1 - others)
            rest = [1] * others + [0] * (size - 1 - others)
            total += chance * (own_advantage(1, rest) - own_advantage(0, rest))
        return total

    def own_advantage(own, rest):
        rewards = [own, *rest]
        return (own - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-4)

    p = float(process.chances_Z @ process.rewards_Z)
    check(process, credited(), lambda size: factor(size, p) * slope_SV / SLOTS)
    assert factor(GROUP, 0.5) < factor(GROUP, 0.8) < factor(GROUP, 0.95)


@pytest.mark.parametrize('ratio', ['token', 'sequence'])
def test_rows_averaged_by_their_length(process, ratio):
    """`sequence`: (G - 1) / G x the gradient of E_{z ~ pi}[(r(z) - p) / L(z)], L its tokens.

    Not that of E[r]: where right traces are as long as wrong ones they agree in direction. GSPO's
    ratio, the geometric mean over the sequence, has the same gradient before the first update.
    """
    values_Z = (process.rewards_Z - process.chances_Z @ process.rewards_Z) / process.lengths_Z
    expected_SV = process.slope(values_Z[:, None])
    check(
        process, credited(normalise='none'), lambda size: (size - 1) / size * expected_SV,
        aggregation='sequence', ratio=ratio,
    )


def test_tokens_averaged_over_the_group(process):
    """`token`: G x the gradient of E[(r(z) - mean r) / sum L], z ~ pi, the others ~ pi_old.

    Mean and sum are over the group, the others' part of them enumerated.
    """
    one = collections.Counter()
    for kind in zip(process.rewards_Z, process.lengths_Z, process.chances_Z, strict=True):
        one[kind[:2]] += kind[2]

    def expected(size):
        others = {(0, 0): 1.0}
        for _ in range(size - 1):
            more = collections.Counter()
            for (r, n), (s, m) in itertools.product(others, one):
                more[r + s, n + m] += others[r, n] * one[s, m]
            others = more
        values_Z = sum(
            chance * (process.rewards_Z - (process.rewards_Z + right) / size)
            / (process.lengths_Z + tokens)
            for (right, tokens), chance in others.items()
        )
        return size * process.slope(values_Z[:, None])

    check(process, credited(normalise='none'), expected, aggregation='token')


def test_pass_at_k(process):
    """1 / k x the gradient of 1 - (1 - E_{z ~ pi}[r(z)])^k: pass@k of k fresh traces."""

    def pass_at_k(theta_SV, k):
        return 1 - (1 - process.expectation(theta_SV, process.rewards_Z[:, None])) ** k

    def expected(size):
        k = size - 1
        return differences(lambda theta_SV: pass_at_k(theta_SV, k), process.theta_SV) / k / SLOTS

    settings = dict(aim='pass_at_k', aim_k=lambda size: size - 1, normalise='none')
    check(process, credited(**settings, baseline='leave_one_out'), expected)


def test_maj_at_k(process):
    """1 / k x the gradient of maj@k: the chance that k fresh traces vote for the right answer."""
    answers_Z = process.tokens_ZT[np.arange(len(process.ends_Z)), process.ends_Z + 1] - GOLD

    def maj_at_k(theta_SV, k):
        chances = [
            process.expectation(theta_SV, np.float64(answers_Z == answer)[:, None])
            for answer in range(3)
        ]
        total = 0.0
        for sample in itertools.product(range(3), repeat=k):
            right, *wrong = (sample.count(answer) for answer in range(3))
            won = 1.0 if right > max(wrong) else 0.5 if right == max(wrong) else 0.0
            total += math.prod(chances[answer] for answer in sample) * won * (right > 0)
        return total

    def expected(size):
        k = size - 1
        return differences(lambda theta_SV: maj_at_k(theta_SV, k), process.theta_SV) / k / SLOTS

    settings = dict(aim='maj_at_k', aim_k=lambda size: size - 1, normalise='none')
    check(process, credited(**settings, baseline='leave_one_out'), expected)


def test_a_ratio_of_the_sequence_makes_every_credit_a_scalar(process):
    """With GSPO's ratio a token's advantage moves all tokens of its row alike: the row's mean."""
    rows, _ = pairs(process)
    by_episode = credited(credit='episode', outcome_weight=0.0)

    def averaged(rows):
        sampled_BT = rows.outcomes.sampled_BT
        mean_B1 = by_episode(rows).sum(axis=1, keepdims=True) / sampled_BT.sum(1, keepdims=True)
        return np.where(sampled_BT, mean_B1, 0)

    found_NSV = gradients(rows, by_episode, 'sequence', 'sequence')
    np.testing.assert_allclose(found_NSV, gradients(rows, averaged, 'sequence'), atol=1e-5)
    assert_unbiased(
        gradients(draws(process), by_episode, 'sequence', 'sequence')
        - gradients(draws(process), averaged, 'sequence'), 0.0,
    )  # fmt: skip
