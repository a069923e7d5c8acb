"""The policy gradient of every credit against finite differences of the expectation it stands for.

On the process of tests/tabular.py, twice: over all pairs of traces with exact J, weighted with
their chances, to float32's precision; and as the mean over 10,000 groups of four with J from two
answers a boundary, within four standard errors. J is pi_old's throughout: the surrogate takes
advantages as constants, so none of these gradients moves the meta-prover that J is measured with.
"""

import collections
import math

import numpy as np
import pytest

from mrt_jax.kernels.advantages import (
    episode_credit,
    group_advantages,
    scalar_credit,
    spread,
    to_go_credit,
)
from mrt_jax.kernels.progress import last_success, success_rate
from tests.tabular import (
    LONGEST,
    MARKERS,
    OPEN,
    STOP,
    WINDOWS,
    assert_unbiased,
    make_process,
    policy_gradients,
)

GROUP, SLOTS = 4, LONGEST + 2


@pytest.fixture(scope='module')
def marked():
    """Episodes open with a marker, and thoughts may stop."""
    return make_process(MARKERS)


@pytest.fixture(scope='module')
def windowed():
    """Episodes are windows of two tokens, and thoughts run to their limit."""
    return make_process(WINDOWS, stops=False)


def check(process, advantage, expected, aggregation='constant'):
    """Compares both ways.

    Args:
        advantage: (rows, success_BE, group size) -> [B] or [B, T].
        expected: group size -> gradient [S, V], for weights that add up to the sampled tokens'
            share of all: `constant` divides by the slots of a row.
        aggregation: of the tokens.
    """
    pairs_B = np.stack(np.meshgrid(*2 * [np.flatnonzero(process.chances_Z > 1e-12)]), -1).ravel()
    chances_N = process.chances_Z[pairs_B].reshape(-1, 2).prod(axis=1)
    exact_NSV = gradients(process, pairs_B, process.success_ZE[pairs_B], 2, advantage, aggregation)
    found_SV = np.einsum('n,nsv->sv', chances_N, exact_NSV)
    np.testing.assert_allclose(found_SV, expected(2), atol=2e-6)
    assert np.abs(expected(2)).max() > 1e-3

    rng = np.random.default_rng(0)
    drawn_B = process.draw(rng, GROUP)
    correct_BEM = process.ask(rng, drawn_B, 2)
    mask_BEM = np.broadcast_to(process.mask_ZE[drawn_B][..., None], correct_BEM.shape)
    success_BE = np.asarray(success_rate(correct_BEM, mask_BEM).mean_BE)
    assert_unbiased(
        gradients(process, drawn_B, success_BE, GROUP, advantage, aggregation), expected(GROUP)
    )


def gradients(process, drawn_B, success_BE, group_size, advantage, aggregation):
    rows = Rows(process, drawn_B)
    advantages_BT = np.asarray(advantage(rows, np.float32(success_BE), group_size))
    if advantages_BT.ndim == 1:
        advantages_BT = advantages_BT[:, None]
    advantages_BT = np.broadcast_to(advantages_BT, (len(drawn_B), SLOTS))
    return policy_gradients(
        process, drawn_B.reshape(-1, group_size), advantages_BT.reshape(-1, group_size, SLOTS),
        aggregation,
    )


class Rows:
    """The drawn traces as arrays of a batch."""

    def __init__(self, process, drawn_B):
        self.rewards_B = np.float32(process.rewards_Z[drawn_B])
        self.mask_BE = process.mask_ZE[drawn_B]
        self.boundaries_BE = process.boundaries_ZE[drawn_B]
        self.sampled_BT = process.sampled_ZT[drawn_B]


def within(process, first, last):
    """Tokens of each episode from `first` past its start to `last` past its end: [Z, E - 1, T]."""
    places_T = np.arange(SLOTS)
    starts_ZX1, ends_ZX1 = process.boundaries_ZE[:, :-1, None], process.boundaries_ZE[:, 1:, None]
    starts_ZX1 = np.where(starts_ZX1 > 0, starts_ZX1 + first, 0)
    return (places_T >= starts_ZX1) & (places_T < ends_ZX1 + last)


def exact_progress(process):
    return np.where(process.mask_ZE[:, 1:], np.diff(process.success_ZE, axis=1), 0)


def end_success(process):
    return np.asarray(last_success(process.success_ZE, process.mask_ZE), np.float64)


def test_outcome_less_the_groups_mean(marked):
    """(G - 1) / G x the gradient of E_{z ~ pi}[r(z)]: the mean holds a row's own reward."""
    check(
        marked,
        lambda rows, _, size: group_advantages(rows.rewards_B, size, scale='none'),
        lambda size: (size - 1) / size * marked.slope(marked.rewards_Z[:, None]) / SLOTS,
    )


def test_outcome_divided_by_the_groups_deviation(marked):
    """The gradient of E_{z ~ pi}[r(z)] x a factor that depends on pi_old's success rate p.

    Biased by design, in length only: the factor is the difference that a row's own reward makes to
    its advantage, over the other rows' rewards, which are Binomial(G - 1, p).
    """
    p = float(marked.chances_Z @ marked.rewards_Z)

    def factor(size):
        total = 0.0
        for others in range(size):
            chance = math.comb(size - 1, others) * p**others * (1 - p) ** (size - 1 - others)
            high, low = (
                own_advantage([own] + [1] * others + [0] * (size - 1 - others)) for own in (1, 0)
            )
            total += chance * (high - low)
        return total

    def own_advantage(rewards):
        return (rewards[0] - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-4)

    assert factor(2) > 0 and factor(GROUP) > 0
    check(
        marked,
        lambda rows, _, size: group_advantages(rows.rewards_B, size, scale='std'),
        lambda size: factor(size) * marked.slope(marked.rewards_Z[:, None]) / SLOTS,
    )


def test_scalar_credit(marked):
    """(G - 1) / G x the gradient of E_{z ~ pi}[J(z)], J that of pi_old behind the whole thought.

    J at the empty prefix has no gradient. The tokens of the answer are credited too, which adds
    noise and, as J is measured with other answers, nothing to the expectation.
    """
    check(
        marked,
        lambda rows, success_BE, size: scalar_credit(success_BE, rows.mask_BE, size),
        lambda size: (size - 1) / size * marked.slope(end_success(marked)[:, None]) / SLOTS,
    )


def test_rows_averaged_by_their_length(marked):
    """`sequence`: (G - 1) / G x the gradient of E_{z ~ pi}[(r(z) - p) / L(z)], L its tokens.

    Not that of E[r]: where right traces are as long as wrong ones they agree in direction.
    """
    p = marked.chances_Z @ marked.rewards_Z
    values_Z = (marked.rewards_Z - p) / marked.lengths_Z
    check(
        marked,
        lambda rows, _, size: group_advantages(rows.rewards_B, size, scale='none'),
        lambda size: (size - 1) / size * marked.slope(values_Z[:, None]),
        aggregation='sequence',
    )


def test_tokens_averaged_over_the_group(marked):
    """`token`: G x the gradient of E[(r(z) - mean r) / sum L], z ~ pi, the others ~ pi_old.

    Mean and sum are over the group, the others' part of them enumerated.
    """
    rewards_Z, lengths_Z = marked.rewards_Z, marked.lengths_Z

    def expected(size):
        others = {(0, 0): 1.0}
        for _ in range(size - 1):
            more = collections.Counter()
            for (right, tokens), chance in others.items():
                for kind, share in one.items():
                    more[right + kind[0], tokens + kind[1]] += chance * share
            others = more
        values_Z = sum(
            chance * (rewards_Z - (rewards_Z + right) / size) / (lengths_Z + tokens)
            for (right, tokens), chance in others.items()
        )
        return size * marked.slope(values_Z[:, None])

    one = collections.Counter()
    for reward, length, chance in zip(rewards_Z, lengths_Z, marked.chances_Z, strict=True):
        one[reward, length] += chance
    check(
        marked,
        lambda rows, _, size: group_advantages(rows.rewards_B, size, scale='none'),
        expected,
        aggregation='token',
    )


def test_episode_credit(windowed):
    """The gradient of E[sum_j progress_j], contexts c_{j-1} ~ pi_old and episodes z_j ~ pi.

    The paper's objective (MRT section 6), exactly, where the place of a boundary does not depend on
    tokens.
    """
    expected_SV = windowed.slope(exact_progress(windowed), within(windowed, 0, 0)) / SLOTS
    check(windowed, credit_of_tokens(episode_credit), lambda _: expected_SV)


def test_to_go_credit(windowed):
    """The gradient of E_{z ~ pi}[J(z)], exactly, where a boundary's place depends on no token.

    J at an episode's start is a baseline: it comes before all of the episode's tokens. And it is
    what outcome reward gives to the tokens of the thought, J(z) being the chance of a reward.
    """
    expected_SV = windowed.slope(end_success(windowed)[:, None]) / SLOTS
    check(windowed, credit_of_tokens(to_go_credit), lambda _: expected_SV)
    thought_ZXT = (np.arange(SLOTS) < windowed.ends_Z[:, None])[:, None]
    outcome_SV = windowed.slope(windowed.rewards_Z[:, None], thought_ZXT) / SLOTS
    np.testing.assert_allclose(expected_SV, outcome_SV, atol=1e-9)


def credit_of_tokens(credit, late=0):
    """Credit spread over the episodes' tokens, boundaries but the first moved by `late` tokens."""

    def advantage(rows, success_BE, _):
        boundaries_BE = np.where(rows.boundaries_BE > 0, rows.boundaries_BE + late, 0)
        return spread(credit(success_BE, rows.mask_BE), boundaries_BE, SLOTS)

    return advantage


def test_a_token_belongs_to_the_episode_that_it_ends(marked):
    """With markers `episode_credit` is no gradient of the paper's objective; a token later it is.

    An episode is known to end only once the next marker, or `.`, is drawn. Spread from boundary to
    boundary, that draw is not credited with the episode that it ends: credit of 1 for every
    episode, of which no policy can earn more once the episode has begun, then has a gradient, away
    from ending it. With boundaries one token later an episode reaches from behind the token that
    opens it to the token that ends it, and the gradient is that of E[sum_j progress_j], contexts
    c_{j-1} ~ pi_old, episodes z_j ~ pi.
    """
    progress_ZX, as_it_is = exact_progress(marked), within(marked, 0, 0)
    paper_SV = marked.slope(progress_ZX, within(marked, 1, 1)) / SLOTS
    check(marked, credit_of_tokens(episode_credit, late=1), lambda _: paper_SV)
    found_SV = marked.slope(progress_ZX, as_it_is) / SLOTS
    check(marked, credit_of_tokens(episode_credit), lambda _: found_SV)
    assert np.linalg.norm(found_SV - paper_SV) > 0.3 * np.linalg.norm(paper_SV)

    begun_ZX = marked.mask_ZE[:, 1:] * (np.arange(LONGEST) > 0.0)  # The first follows no marker.
    assert np.abs(marked.slope(begun_ZX, within(marked, 1, 1))).max() < 1e-9
    constant_SV = marked.slope(begun_ZX, as_it_is)
    assert constant_SV[:, OPEN].sum() > 0.1 > 0 > constant_SV[:, STOP].sum()


def test_progress_to_go_has_a_baseline_that_knows_the_marker(marked):
    """With markers `to_go_credit` is not the gradient of E_{z ~ pi}[J(z)]; a token later it is.

    J at the boundary before a marker is a baseline that only the marker's own token has, not the
    tokens that might have come in its place.
    """
    expected_SV = marked.slope(end_success(marked)[:, None]) / SLOTS
    check(marked, credit_of_tokens(to_go_credit, late=1), lambda _: expected_SV)
    to_go_ZX = end_success(marked)[:, None] - marked.success_ZE[:, :-1]
    found_SV = marked.slope(
        np.where(marked.mask_ZE[:, 1:], to_go_ZX, 0), within(marked, 0, 0)
    ) / SLOTS
    check(marked, credit_of_tokens(to_go_credit), lambda _: found_SV)
    assert np.linalg.norm(found_SV - expected_SV) > 0.3 * np.linalg.norm(expected_SV)
