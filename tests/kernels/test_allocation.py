"""The second round of the meta-prover: who is asked again, and that J stays unbiased."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.allocation import boundaries_in_doubt


def in_doubt_plainly(success_E, count):
    """The rule for one trace of `count` boundaries, by loops."""
    doubt = []
    for e in range(count):
        around = [success_E[k] for k in (e - 1, e + 1) if 0 <= k < count]
        q = np.float32(sum(around)) / len(around) if around else 0
        doubt.append(q * (1 - q))
    chosen = set()
    for parity in (0, 1):
        rivals = sorted(range(parity, count, 2), key=lambda e: (-doubt[e], e))
        odd_quota = (count // 2 + 1) // 2
        quota = odd_quota if parity else count // 2 - odd_quota
        chosen |= {e for e in rivals[:quota] if doubt[e] > 0}
    return [e in chosen for e in range(len(success_E))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=9, max_size=9),
                  st.integers(0, 9)),
        min_size=1, max_size=4,
    )
)
def test_the_rule_for_each_trace(traces):
    success_BE = np.array([success for success, _ in traces], np.float32)
    counts_B = np.array([count for _, count in traces])
    mask_BE = np.arange(9) < counts_B[:, None]
    chosen_BE = np.asarray(boundaries_in_doubt(success_BE, mask_BE))
    expected_BE = [in_doubt_plainly(*trace) for trace in traces]
    np.testing.assert_array_equal(chosen_BE, expected_BE)
    assert (chosen_BE.sum(axis=1) <= counts_B / 2).all() and not chosen_BE[~mask_BE].any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=8, max_size=8), st.integers(0, 7))
def test_a_boundary_has_no_say_in_its_own_second_round(success_E, column):
    mask_BE = np.ones((3, 8), bool)
    success_BE = np.tile(np.float32(success_E), (3, 1))
    success_BE[:, column] = [0, 0.5, 1]
    chosen_BE = np.asarray(boundaries_in_doubt(success_BE, mask_BE))
    assert len({*chosen_BE[:, column].tolist()}) == 1


def test_pooled_answers_are_unbiased_and_vary_less_at_no_more_cost():
    """Both rounds against one round of as many answers, J known: a trace that gets there late."""
    truth_E = np.array([0, 0, 0, 0.1, 0.5, 0.8, 1, 1])
    draws, half = 40_000, 2
    rng = np.random.default_rng(0)
    mask_BE = np.ones((draws, len(truth_E)), bool)
    first_BE = rng.binomial(half, truth_E, mask_BE.shape)
    again_BE = np.asarray(boundaries_in_doubt((first_BE / half).astype(np.float32), mask_BE))
    second_BE = np.where(again_BE, rng.binomial(2 * half, truth_E, mask_BE.shape), 0)
    counts_BE = half + again_BE * 2 * half
    pooled_BE = (first_BE + second_BE) / counts_BE
    error_E = pooled_BE.std(axis=0) / draws**0.5
    assert (np.abs(pooled_BE.mean(axis=0) - truth_E) <= 4 * error_E + 1e-12).all()
    assert counts_BE.sum(axis=1).mean() <= 2 * half * len(truth_E)
    one_round = (truth_E * (1 - truth_E) / (2 * half)).sum()
    assert pooled_BE.var(axis=0).sum() < one_round
