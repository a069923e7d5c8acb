"""Advantages for objectives over k samples at once: pass@k and maj@k.

With n traces of a problem, the mean of an objective f over all subsets of k of them estimates
E[f], and its policy gradient gives trace i the mean of f over the subsets that hold it. The mean
over those that do not hold it does not depend on trace i, so it is a baseline that leaves the
gradient unbiased (arXiv 2505.15201 for pass@k; the objectives are those that test-time search
optimises, arXiv 2604.24957). k times the mean over traces of advantage x grad log-probability is
then the gradient of E[f]; at k = 1 the advantage is that of `less_baseline(..., 'leave_one_out')`.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

MOST_SUBSETS = 20_000


def pass_at_k_advantages(correct_B: jax.Array, group_size: int, k: int) -> jax.Array:
    """Advantage of each trace for pass@k, [B]: some trace of k is right.

    Args:
        correct_B: 0/1 outcomes, groups in consecutive rows.
        group_size: n, traces of a problem.
        k: 1 to n - 1.

    Raises:
        ValueError: see `check_subset_size`.
    """
    check_subset_size(group_size, k)
    correct_XG = jnp.asarray(correct_B, jnp.float32).reshape(-1, group_size)
    others_XG = (correct_XG.sum(axis=1, keepdims=True) - correct_XG).astype(jnp.int32)

    def none_right(drawn: int) -> jax.Array:
        """Chance that `drawn` of the n - 1 others, c of them right, hold no right one, by c."""
        others = group_size - 1
        ways = [math.comb(others - c, drawn) / math.comb(others, drawn) for c in range(group_size)]
        return jnp.asarray(ways, jnp.float32)

    with_XG = jnp.where(correct_XG > 0, 1.0, 1 - none_right(k - 1)[others_XG])
    return (with_XG - (1 - none_right(k)[others_XG])).reshape(-1)


def maj_at_k_advantages(votes_B: jax.Array, group_size: int, k: int) -> jax.Array:
    """Advantage of each trace for maj@k, [B]: the most frequent answer of k traces is right.

    A tie for the first place counts 1 / 2, no vote at all 0, as in `estimates.maj_at_k`. All
    subsets are enumerated.

    Args:
        votes_B: int32, groups in consecutive rows: 0 for the right answer, equal numbers from 1 to
            n - 1 for equal wrong ones, -1 for none.
        group_size: n, traces of a problem.
        k: 1 to n - 1.

    Raises:
        ValueError: see `check_subset_size`, or there are more than 20,000 subsets.
    """
    check_subset_size(group_size, k)
    if math.comb(group_size, k) > MOST_SUBSETS:
        raise ValueError(
            f'{group_size} traces have {math.comb(group_size, k):,} subsets of {k}, more than the '
            f'{MOST_SUBSETS:,} that are enumerated'
        )
    subsets = np.array(list(itertools.combinations(range(group_size), k)))
    holds_SG = np.zeros((len(subsets), group_size), np.float32)
    np.put_along_axis(holds_SG, subsets, 1, axis=1)
    votes_XG = jnp.asarray(votes_B).reshape(-1, group_size)
    ballots_XGA = jax.nn.one_hot(votes_XG, group_size)
    counts_XSA = jnp.einsum('sg,xga->xsa', holds_SG, ballots_XGA)
    right_XS, rival_XS = counts_XSA[..., 0], counts_XSA[..., 1:].max(axis=-1)
    won_XS = jnp.where(right_XS > rival_XS, 1.0, jnp.where(right_XS == rival_XS, 0.5, 0.0))
    won_XS = jnp.where(right_XS > 0, won_XS, 0.0)
    with_XG = won_XS @ holds_SG / math.comb(group_size - 1, k - 1)
    without_XG = won_XS @ (1 - holds_SG) / math.comb(group_size - 1, k)
    return (with_XG - without_XG).reshape(-1)


def check_subset_size(group_size: int, k: int) -> None:
    """Raises ValueError unless a group has subsets of k both with and without each trace."""
    if not 1 <= k < group_size:
        raise ValueError(
            f'subsets of {k} from groups of {group_size}: k must be at least 1 and less than the '
            'group, so that some subset leaves each trace out'
        )
