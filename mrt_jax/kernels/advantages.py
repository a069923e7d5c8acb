"""Advantages: of the outcome within its group, and of progress along the trace."""

import jax
import jax.numpy as jnp

from mrt_jax.kernels.progress import last_success, progress


def group_advantages(
    rewards_B: jax.Array, group_size: int, *, scale: str = 'std', epsilon: float = 1e-4
) -> jax.Array:
    """Reward less the group's mean, by choice divided by the group's deviation.

    Args:
        rewards_B: groups of `group_size` consecutive rows.
        group_size: G, at least 2.
        scale: 'std' divides by (deviation + epsilon), deviation with G - 1 (GRPO, arXiv 2402.03300,
            with the constants of MRT's trainer); 'none' does not (Dr. GRPO, arXiv 2503.20783).
        epsilon: keeps groups of equal rewards at 0.

    Raises:
        ValueError: the rows are no whole number of groups, or the scale is unknown.
    """
    rewards_XG = _groups(rewards_B, group_size)
    centred_XG = rewards_XG - rewards_XG.mean(axis=1, keepdims=True)
    if scale == 'std':
        centred_XG = centred_XG / (rewards_XG.std(axis=1, ddof=1, keepdims=True) + epsilon)
    elif scale != 'none':
        raise ValueError(f"reward scale {scale!r} is unknown; known: 'std', 'none'")
    return centred_XG.reshape(-1)


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


def scalar_credit(success_BE: jax.Array, mask_BE: jax.Array, group_size: int) -> jax.Array:
    """Progress summed over the trace, less the group's mean: one number a trace, [B].

    The progress-adjusted scalar of MRT section 6. J at the empty prefix is the same question for
    all rows of a group, so the group's mean is its baseline.
    """
    total_B = progress(success_BE, mask_BE).sum(axis=-1)
    return group_advantages(total_B, group_size, scale='none')


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


def attempt_success(outcomes_BX: jax.Array, judged_BX: jax.Array) -> jax.Array:
    """The outcome of the last attempt before each boundary, 0 before the first; [B, E].

    In J's place it makes the progress of an episode the reward of an attempt less that of the
    attempt before it, which is how SCoRe (arXiv 2409.12917, stage II) shapes self-correction.

    Args:
        outcomes_BX: [B, E - 1], what each episode came to by itself.
        judged_BX: bool, the episode is an attempt; others, such as jumps, change nothing.
    """
    episodes_X = jnp.arange(outcomes_BX.shape[1])
    last_BX = jax.lax.cummax(jnp.where(judged_BX, episodes_X, -1), axis=1)
    found_BX = jnp.take_along_axis(outcomes_BX, jnp.maximum(last_BX, 0), axis=1)
    return jnp.pad(jnp.where(last_BX >= 0, found_BX, 0), ((0, 0), (1, 0)))


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


def _groups(values_B: jax.Array, group_size: int) -> jax.Array:
    """[groups, G]."""
    if group_size < 2 or values_B.shape[0] % group_size:
        raise ValueError(
            f'{values_B.shape[0]} rows cannot form groups of {group_size}; a group has at least '
            'two rows and the rows are a multiple of it'
        )
    return values_B.reshape(-1, group_size)
