"""Policy gradients of progress: which expectation each credit is the gradient of."""

import itertools

import numpy as np
import pytest

from mrt_jax.kernels.progress import extended_success, last_success
from tests.methods.exact import ANSWERED, SLOTS, check, credited
from tests.tabular import LONGEST, MARKERS, OPEN, STOP, WINDOWS, make_process

ALPHA = 0.7


@pytest.fixture(scope='module')
def marked():
    """Episodes open with a marker, and thoughts may stop."""
    return make_process(MARKERS)


@pytest.fixture(scope='module')
def windowed():
    """Episodes are windows of two tokens, and thoughts run to their limit."""
    return make_process(WINDOWS, stops=False)


def within(process, late):
    """Tokens of each episode, boundaries but the first moved by `late` tokens: [Z, E - 1, T]."""
    boundaries_ZE = process.boundaries_ZE
    boundaries_ZE1 = np.where(boundaries_ZE > 0, boundaries_ZE + late, 0)[..., None]
    places_T = np.arange(SLOTS)
    return (places_T >= boundaries_ZE1[:, :-1]) & (places_T < boundaries_ZE1[:, 1:])


def exact_progress(process):
    return np.where(process.mask_ZE[:, 1:], np.diff(process.success_ZE, axis=1), 0)


def end_success(process):
    return np.asarray(last_success(process.success_ZE, process.mask_ZE), np.float64)


@pytest.mark.parametrize('baseline', ['group', 'leave_one_out'])
def test_scalar_credit(marked, baseline):
    """The gradient of E_{z ~ pi}[J(z)], J that of pi_old behind the whole thought.

    Times (G - 1) / G with the group's mean. J at the empty prefix has no gradient. The tokens of
    the answer are credited too, which adds noise and, as J is measured with other answers, nothing
    to the expectation.
    """
    own_share = {'group': lambda size: (size - 1) / size, 'leave_one_out': lambda _: 1}[baseline]
    settings = dict(credit='scalar', outcome_weight=0.0, baseline=baseline)
    slope_SV = marked.slope(end_success(marked)[:, None])
    check(marked, credited(**settings), lambda size: own_share(size) * slope_SV / SLOTS)


@pytest.mark.parametrize('normalise', ['together', 'separate'])
def test_outcome_and_scalar_normalised(marked, normalise):
    """G x the gradient of E[a(z)], z ~ pi, the group's others ~ pi_old, a the row's advantage.

    Biased by design. A row's advantage depends on its reward r and its measured progress p, whose
    values are few: `together` gives (x - mean x) / (deviation of x), x = r + alpha p; `separate`
    the same of r plus alpha times the same of p.
    """

    def expected(size):
        chances_ZK, kinds_K2 = kinds_of_progress(marked, None if size == 2 else ANSWERED)
        chances_K = marked.chances_Z @ chances_ZK
        advantages_K = np.zeros(len(kinds_K2))
        for others in itertools.product(range(len(kinds_K2)), repeat=size - 1):
            chance = chances_K[list(others)].prod()
            group_KG2 = np.stack([
                np.vstack([own, kinds_K2[list(others)]]) for own in kinds_K2
            ])  # fmt: skip
            advantages_K += chance * own_advantages(group_KG2)
        return marked.slope((chances_ZK @ advantages_K)[:, None]) / SLOTS

    def own_advantages(group_KG2):
        rewards_KG, progress_KG = group_KG2[..., 0], group_KG2[..., 1]
        if normalise == 'together':
            return standardised(rewards_KG + ALPHA * progress_KG)
        return standardised(rewards_KG) + ALPHA * standardised(progress_KG)

    def standardised(x_KG):
        return (x_KG[:, 0] - x_KG.mean(axis=1)) / (x_KG.std(axis=1, ddof=1) + 1e-4)

    check(marked, credited(credit='scalar', alpha=ALPHA, normalise=normalise), expected)


def kinds_of_progress(process, answers):
    """Values (r, p) that traces can have, [K, 2], and each trace's chances of them, [Z, K].

    p is exact, or by so many answers at the first boundary and the last.
    """
    found, places = [], {}
    for reward, success_E, mask_E in zip(
        process.rewards_Z, process.success_ZE, process.mask_ZE, strict=True
    ):
        ends = success_E[0], success_E[mask_E][-1]
        outcomes = [(ends[1] - ends[0], 1.0)]
        if answers is not None:
            rates = [binomial(answers, success) for success in ends]
            outcomes = [
                ((b - a) / answers, rates[0][a] * rates[1][b])
                for a, b in itertools.product(range(answers + 1), repeat=2)
            ] if mask_E.sum() > 1 else [(0.0, 1.0)]
        chances = {}
        for value, chance in outcomes:
            place = places.setdefault((reward, round(value, 9)), len(places))
            chances[place] = chances.get(place, 0) + chance
        found.append(chances)
    chances_ZK = np.zeros((len(found), len(places)))
    for row, chances in enumerate(found):
        chances_ZK[row, list(chances)] = list(chances.values())
    return chances_ZK, np.array(list(places))


def binomial(answers, rate):
    """Chances of 0 to two right answers."""
    assert answers == 2
    return (1 - rate) ** 2, 2 * rate * (1 - rate), rate**2


def test_episode_credit(windowed):
    """The gradient of E[sum_j progress_j], contexts c_{j-1} ~ pi_old and episodes z_j ~ pi.

    The paper's objective (MRT section 6), exactly, where the place of a boundary does not depend on
    tokens.
    """
    expected_SV = windowed.slope(exact_progress(windowed), within(windowed, 0)) / SLOTS
    check(windowed, credited(credit='episode', outcome_weight=0.0), lambda _: expected_SV)


def test_outcome_and_progress_of_episodes(windowed):
    """The gradient of E_{z ~ pi}[r(z)] + alpha E[sum_j progress_j], contexts ~ pi_old: l_MRT."""
    outcome_SV = windowed.slope(windowed.rewards_Z[:, None])
    progress_SV = windowed.slope(exact_progress(windowed), within(windowed, 0))
    check(
        windowed,
        credited(credit='episode', alpha=ALPHA, normalise='none', baseline='leave_one_out'),
        lambda _: (outcome_SV + ALPHA * progress_SV) / SLOTS,
    )


def test_to_go_credit(windowed):
    """The gradient of E_{z ~ pi}[J(z)], exactly, where a boundary's place depends on no token.

    J at an episode's start is a baseline: it comes before all of the episode's tokens. And it is
    what outcome reward gives to the tokens of the thought, J(z) being the chance of a reward.
    """
    expected_SV = windowed.slope(end_success(windowed)[:, None]) / SLOTS
    check(windowed, credited(credit='to_go', outcome_weight=0.0), lambda _: expected_SV)
    thought_ZXT = (np.arange(SLOTS) < windowed.ends_Z[:, None])[:, None]
    outcome_SV = windowed.slope(windowed.rewards_Z[:, None], thought_ZXT) / SLOTS
    np.testing.assert_allclose(expected_SV, outcome_SV, atol=1e-9)


def test_anytime_credit(windowed):
    """The gradient of E_{z ~ pi}[mean_i J_i] over the budgets i, as groups grow.

    The trace's own past is a baseline. The group's mean holds the row's own return, which takes
    (S - s) / (S G) off the share of window s of S.
    """
    success_ZS = np.float64(extended_success(windowed.success_ZE, windowed.mask_ZE))[:, 1:]
    windows, place_S = LONGEST, np.arange(LONGEST)
    return_ZS = np.cumsum(success_ZS[:, ::-1], axis=1)[:, ::-1] / windows
    return_ZS = np.where(windowed.mask_ZE[:, 1:], return_ZS, 0)

    def expected(size):
        own_S = 1 - (windows - place_S) / (windows * size)
        return windowed.slope(return_ZS * own_S, within(windowed, 0)) / SLOTS

    check(windowed, credited(credit='anytime', outcome_weight=0.0), expected)
    whole_SV = windowed.slope(success_ZS.mean(axis=1)[:, None]) / SLOTS
    np.testing.assert_allclose(expected(10**9), whole_SV, atol=1e-8)


def test_a_token_belongs_to_the_episode_that_it_ends(marked):
    """Markers close: the paper's objective exactly, as `marker='opens'` is not.

    An episode is known to end only once the next marker, or `.`, is drawn. Spread from boundary to
    boundary, that draw is not credited with the episode that it ends: credit of 1 for every
    episode, of which no policy can earn more once the episode has begun, then has a gradient, away
    from ending it. With boundaries one token later an episode reaches from behind the token that
    opens it to the token that ends it, and the gradient is that of E[sum_j progress_j], contexts
    c_{j-1} ~ pi_old, episodes z_j ~ pi.
    """
    progress_ZX, as_it_is = exact_progress(marked), within(marked, 0)
    paper_SV = marked.slope(progress_ZX, within(marked, 1)) / SLOTS
    closes = credited(credit='episode', outcome_weight=0.0, marker='closes')
    check(marked, closes, lambda _: paper_SV)
    found_SV = marked.slope(progress_ZX, as_it_is) / SLOTS
    check(marked, credited(credit='episode', outcome_weight=0.0), lambda _: found_SV)
    assert np.linalg.norm(found_SV - paper_SV) > 0.3 * np.linalg.norm(paper_SV)

    begun_ZX = marked.mask_ZE[:, 1:] * (np.arange(LONGEST) > 0.0)  # The first follows no marker.
    assert np.abs(marked.slope(begun_ZX, within(marked, 1))).max() < 1e-9
    constant_SV = marked.slope(begun_ZX, as_it_is)
    assert constant_SV[:, OPEN].sum() > 0.1 > 0 > constant_SV[:, STOP].sum()


def test_progress_to_go_has_a_baseline_that_knows_the_marker(marked):
    """Markers close: the gradient of E_{z ~ pi}[J(z)], as `marker='opens'` is not.

    J at the boundary before a marker is a baseline that only the marker's own token has, not the
    tokens that might have come in its place.
    """
    expected_SV = marked.slope(end_success(marked)[:, None]) / SLOTS
    closes = credited(credit='to_go', outcome_weight=0.0, marker='closes')
    check(marked, closes, lambda _: expected_SV)
    to_go_ZX = np.where(
        marked.mask_ZE[:, 1:], end_success(marked)[:, None] - marked.success_ZE[:, :-1], 0
    )
    found_SV = marked.slope(to_go_ZX, within(marked, 0)) / SLOTS
    check(marked, credited(credit='to_go', outcome_weight=0.0), lambda _: found_SV)
    assert np.linalg.norm(found_SV - expected_SV) > 0.3 * np.linalg.norm(expected_SV)
