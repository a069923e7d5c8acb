"""Advantages: of the outcome within its group, and of progress along the trace.

An advantage is a reward less a baseline, divided by a normaliser; each is a function of its own
here, and `methods.credit` composes them.
"""

import jax
import jax.numpy as jnp

from mrt_jax.kernels.progress import extended_success, last_success, progress

BASELINES = ('group', 'leave_one_out', 'termination')
NORMALISERS = ('outcome', 'together', 'separate', 'none')
EPSILON = 1e-4  # Added to deviations: MRT's trainer, method section 3.2.


def less_baseline(values_B: jax.Array, group_size: int, *, baseline: str = 'group') -> jax.Array:
    """Values less what their group leads one to expect.

    Args:
        values_B: groups of `group_size` consecutive rows.
        group_size: G, at least 2.
        baseline: 'group', the mean of all G rows (GRPO, arXiv 2402.03300); 'leave_one_out', the
            mean of the other G - 1 (RLOO, arXiv 2402.14740), which is G / (G - 1) times as much and
            leaves the policy gradient unbiased.

    Raises:
        ValueError: the rows are no whole number of groups, or the baseline is unknown.
    """
    values_XG = _groups(values_B, group_size)
    centred_XG = values_XG - values_XG.mean(axis=1, keepdims=True)
    if baseline == 'leave_one_out':
        centred_XG = centred_XG * (group_size / (group_size - 1))
    elif baseline != 'group':
        raise ValueError(f"baseline {baseline!r} is unknown; known: 'group', 'leave_one_out'")
    return centred_XG.reshape(-1)


def less_termination(values_B: jax.Array, forced_B: jax.Array, prefix_rows: int) -> jax.Array:
    """Values less their mean over the rows that were made to stop at the same prefix.

    The termination reward as baseline, A = R - R_termination (MRT section 3.2, variant c). The mean
    estimates J of the prefix, so a row that goes on is measured by its own progress.

    Args:
        values_B: runs of `prefix_rows` consecutive rows share a prefix.
        forced_B: bool, the row was made to stop; at least one row of each run.
        prefix_rows: rows of a run.
    """
    values_XG = _groups(values_B, prefix_rows)
    forced_XG = _groups(forced_B, prefix_rows).astype(values_XG.dtype)
    stopped_X1 = (values_XG * forced_XG).sum(axis=1, keepdims=True)
    return (values_XG - stopped_X1 / forced_XG.sum(axis=1, keepdims=True)).reshape(-1)


def group_deviation(values_B: jax.Array, group_size: int) -> jax.Array:
    """Standard deviation of each row's group, with G - 1, on all its rows."""
    deviation_X1 = _groups(values_B, group_size).std(axis=1, ddof=1, keepdims=True)
    return jnp.repeat(deviation_X1, group_size, axis=1).reshape(-1)


def normalising_deviations(
    outcome_B: jax.Array,
    progress_BX: jax.Array | None = None,
    episodes_BX: jax.Array | None = None,
    *,
    alpha: float,
    outcome_weight: float = 1.0,
    normalise: str,
    group_size: int,
) -> tuple[jax.Array, jax.Array]:
    """What the advantages of outcome and progress are divided by, [B] each; 1 where they are not.

    Args:
        outcome_B: outcome rewards.
        progress_BX: progress credit; None without any.
        episodes_BX: bool, the episodes that have a credit of their own. It is not centred, so the
            root of its mean square over the group's episodes stands for its deviation. None if
            `progress_BX` is one number a trace, [B, 1], and centred as the outcome is.
        alpha, outcome_weight: weights of progress and of the outcome.
        normalise: 'outcome', the outcome by its group's deviation and progress by nothing, as J has
            a scale of its own (for the outcome alone GRPO, arXiv 2402.03300); 'together', both by
            the deviation of their weighted sum (the published r', MRT section 3.2);
            'separate', each by its own (GDPO, arXiv 2601.05242); 'none', neither (Dr. GRPO, arXiv
            2503.20783).
        group_size: G.

    Raises:
        ValueError: the normaliser is unknown.
    """
    if normalise not in NORMALISERS:
        raise ValueError(f'normaliser {normalise!r} is unknown; known: {", ".join(NORMALISERS)}')
    ones_B = jnp.ones_like(outcome_B)
    if normalise == 'none':
        return ones_B, ones_B
    outcome_deviation_B = group_deviation(outcome_B, group_size)
    if normalise == 'outcome' or progress_BX is None:
        return outcome_deviation_B + EPSILON, ones_B
    if episodes_BX is None:
        progress_B = progress_BX[:, 0]
        own_B = group_deviation(progress_B, group_size)
        joint_B = group_deviation(outcome_weight * outcome_B + alpha * progress_B, group_size)
    else:
        own_B = _root_mean_square(progress_BX, episodes_BX, group_size)
        joint_B = jnp.hypot(outcome_weight * outcome_deviation_B, alpha * own_B)
    if normalise == 'separate':
        return outcome_deviation_B + EPSILON, own_B + EPSILON
    return joint_B + EPSILON, joint_B + EPSILON


def length_penalty_kimi(
    correct_B: jax.Array, lengths_B: jax.Array, group_size: int
) -> jax.Array:
    """Length reward of Kimi k1.5 (arXiv 2501.12599, section 2.3.3), to be added to the outcome.

    lambda = 0.5 - (length - shortest) / (longest - shortest) within the group; lambda for correct
    rows, min(0, lambda) for wrong ones, 0 for groups of equal lengths.
    """
    lengths_XG = _groups(lengths_B, group_size).astype(jnp.float32)
    shortest = lengths_XG.min(axis=1, keepdims=True)
    span = lengths_XG.max(axis=1, keepdims=True) - shortest
    share_XG = jnp.where(span > 0, 0.5 - (lengths_XG - shortest) / jnp.maximum(span, 1), 0.0)
    correct_XG = _groups(correct_B, group_size) > 0
    return jnp.where(correct_XG, share_XG, jnp.minimum(share_XG, 0)).reshape(-1)


def length_penalty_arora(
    correct_B: jax.Array, lengths_B: jax.Array, group_size: int, *, epsilon: float = 1e-6
) -> jax.Array:
    """Length reward of Arora and Zanette (arXiv 2502.04463), to be added to the outcome.

    -sigmoid((length - mean) / deviation) for correct rows, mean and deviation over the group's
    correct rows; 0 for wrong rows.
    """
    lengths_XG = _groups(lengths_B, group_size).astype(jnp.float32)
    correct_XG = (_groups(correct_B, group_size) > 0).astype(jnp.float32)
    count = jnp.maximum(correct_XG.sum(axis=1, keepdims=True), 1)
    mean = (lengths_XG * correct_XG).sum(axis=1, keepdims=True) / count
    variance = ((lengths_XG - mean) ** 2 * correct_XG).sum(axis=1, keepdims=True) / count
    relative_XG = (lengths_XG - mean) / (jnp.sqrt(variance) + epsilon)
    return (-jax.nn.sigmoid(relative_XG) * correct_XG).reshape(-1)


def prefix_progress(
    rewards_B: jax.Array, prefix_success_B: jax.Array, bonus_B: jax.Array
) -> jax.Array:
    """Progress that a trace has made from its group's prefix, r - J(prefix), [B].

    The realised outcome is the one-sample estimate of the later J; the published reward of MRT (RL)
    is r' = r + alpha (r - J) (MRT section 3.2).

    Args:
        rewards_B: 0/1 outcomes.
        prefix_success_B: J of the prefix that each row began from.
        bonus_B: bool, rows that get it; the others have 0.
    """
    return jnp.where(bonus_B, rewards_B - prefix_success_B, 0)


def episode_credit(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """Progress of each episode, [B, E - 1].

    Not centred over episodes: that would turn an average step forward into no reward at all and
    teach the policy to stop thinking.
    """
    return progress(success_BE, mask_BE)


def to_go_credit(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """Progress from each episode to the trace's end, [B, E - 1].

    The sum telescopes to J at the end less J at the episode's start, which serves as its baseline:
    only two estimates of J enter, so noise does not pile up along the trace.
    """
    to_go_BX = last_success(success_BE, mask_BE)[:, None] - success_BE[:, :-1]
    return jnp.where(mask_BE[:, 1:], to_go_BX, 0)


def anytime_credit(success_BE: jax.Array, mask_BE: jax.Array, group_size: int) -> jax.Array:
    """Anytime reward from each window to the last budget, less a mixed baseline, [B, E - 1].

    AnytimeReasoner's BRPO (arXiv 2505.13438) with a uniform prior over the budgets, which are the
    boundaries behind the empty prefix; a trace that ended before a budget answers there as at its
    end. For window s of S the return is R_s = sum_{i >= s} J_i / S. The baseline mixes what the
    trace's own past leads one to expect, V1, the mean of its earlier J (weights double from one to
    the next) on the budgets left, with V2, the group's mean of R_s: (s V1 + (S - s) V2) / S,
    windows counted from 0.

    Args:
        success_BE: J at the boundaries, the empty prefix first.
        mask_BE: bool, boundaries that exist.
        group_size: G, rows with one prompt.

    Returns:
        0 for windows that a trace does not have.
    """
    success_BS = extended_success(success_BE, mask_BE)[:, 1:]
    windows = success_BS.shape[1]
    place_S = jnp.arange(windows)
    left_S = (windows - place_S) / windows  # Prior mass of the budgets from each window on.
    return_BS = jnp.cumsum(success_BS[:, ::-1], axis=1)[:, ::-1] / windows
    # Weight of budget i in the past of window s: 2^i for i < s, none in the first.
    earlier_SS = place_S[None, :] < place_S[:, None]
    weight_SS = jnp.where(earlier_SS, jnp.exp2(place_S[None, :] - place_S[:, None]), 0)
    weight_SS = weight_SS / jnp.maximum(weight_SS.sum(axis=1, keepdims=True), 1e-30)
    own_BS = (success_BS @ weight_SS.T) * left_S
    group_BS = jnp.repeat(
        return_BS.reshape(-1, group_size, windows).mean(axis=1), group_size, axis=0
    )
    baseline_BS = (place_S * own_BS + (windows - place_S) * group_BS) / windows
    return jnp.where(mask_BE[:, 1:], return_BS - baseline_BS, 0)


def spread(credit_BX: jax.Array, boundaries_BE: jax.Array, tokens: int) -> jax.Array:
    """Gives each token the credit of its episode.

    Args:
        credit_BX: [B, E - 1], one number an episode.
        boundaries_BE: int32, response tokens before each boundary, never decreasing.
        tokens: T, response slots.

    Returns:
        [B, T]; 0 from the thought's end on: what ends the thought and the answer have no episode.
    """
    places_T1 = jnp.arange(tokens)[:, None]
    starts_B1X, ends_B1X = boundaries_BE[:, None, :-1], boundaries_BE[:, None, 1:]
    inside_BTX = (places_T1 >= starts_B1X) & (places_T1 < ends_B1X)
    return (inside_BTX * credit_BX[:, None, :]).sum(axis=-1)


def _root_mean_square(
    credit_BX: jax.Array, episodes_BX: jax.Array, group_size: int
) -> jax.Array:
    """Over the episodes of each row's group, on all its rows."""
    by_group = lambda x_BX: x_BX.reshape(x_BX.shape[0] // group_size, -1)  # noqa: E731
    squares_X = by_group(jnp.where(episodes_BX, credit_BX**2, 0)).sum(axis=1)
    count_X = jnp.maximum(by_group(episodes_BX).sum(axis=1), 1)
    return jnp.repeat(jnp.sqrt(squares_X / count_X), group_size)


def _groups(values_B: jax.Array, group_size: int) -> jax.Array:
    """[groups, G]."""
    if group_size < 2 or values_B.shape[0] % group_size:
        raise ValueError(
            f'{values_B.shape[0]} rows cannot form groups of {group_size}; a group has at least '
            'two rows and the rows are a multiple of it'
        )
    return values_B.reshape(-1, group_size)
