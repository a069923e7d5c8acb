"""Credit: how outcome and progress become one advantage for each token.

This is the file to change to try another algorithm. Outcome-reward RL is `credit='none'`; the three
forms of MRT add alpha times their progress advantage to it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.errors import InputError
from mrt_jax.kernels.advantages import (
    episode_credit,
    group_advantages,
    length_penalty_arora,
    length_penalty_kimi,
    scalar_credit,
    spread,
    to_go_credit,
)
from mrt_jax.kernels.progress import progress

CREDITS = ('none', 'scalar', 'episode', 'to_go')
PENALTIES = {'none': None, 'kimi': length_penalty_kimi, 'arora': length_penalty_arora}


@dataclasses.dataclass(frozen=True)
class CreditConfig:
    """What the advantage is made of.

    Outcome and progress are normalised separately: the outcome by its group, progress not at all,
    as J has a scale of its own. Normalised together, a progress bonus that all rows of a group
    share would cancel (MRT section 3.2).

    Attributes:
        credit: progress advantage: 'none'; 'scalar', summed over the trace, on all its tokens;
            'episode', of each episode on its own tokens; 'to_go', from each episode to the trace's
            end, on the episode's tokens.
        alpha: weight of the progress advantage; J is in [0, 1], outcome advantages are in units of
            the group's deviation.
        reward_scale: 'std' or 'none', see `group_advantages`.
        length_penalty: 'none', 'kimi' or 'arora', added to the outcome before normalisation.
        length_penalty_weight: its weight.
        group_size: G, rollouts of one prompt.
    """

    credit: str
    alpha: float
    reward_scale: str
    length_penalty: str
    length_penalty_weight: float
    group_size: int

    def __post_init__(self) -> None:
        for name, known in (
            ('credit', CREDITS), ('reward_scale', ('std', 'none')), ('length_penalty', PENALTIES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f'{name}={value!r} is unknown; known: {", ".join(known)}')
        for name in ('alpha', 'length_penalty_weight'):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f'{name} must be at least 0, got {getattr(self, name)}')
        if self.group_size < 2:
            raise InputError(
                f'group_size must be at least 2, got {self.group_size}: advantages are relative to '
                'the group'
            )


@struct.dataclass
class Credit:
    """Advantages and what they were made of.

    Attributes:
        advantages_BT: float32, for every token that the policy sampled; 0 elsewhere.
        metrics: scalars.
    """

    advantages_BT: jax.Array
    metrics: dict[str, jax.Array]


def assign_credit(
    config: CreditConfig,
    rewards_B: jax.Array,
    lengths_B: jax.Array,
    sampled_BT: jax.Array,
    boundaries_BE: jax.Array,
    mask_BE: jax.Array,
    success_BE: jax.Array | None,
) -> Credit:
    """Advantage of each token: group-normalised outcome + alpha x progress.

    Args:
        config: static.
        rewards_B: 0/1 outcomes, groups in consecutive rows.
        lengths_B: response tokens.
        sampled_BT: bool, tokens that the policy sampled.
        boundaries_BE, mask_BE: the episodes.
        success_BE: J at each boundary; None where `credit` is 'none'.

    Returns:
        The credit. Tokens behind the thought get the outcome's part, and the scalar's. Metrics:
        `reward`; `groups_with_signal`, the share of groups whose rewards differ; with progress
        also `progress`, its mean over episodes, `progress_total`, its mean over traces of the sum,
        and `success_at_start`, J at the empty prefix.

    Raises:
        ValueError: the rows are no whole number of groups, or J is needed and missing.
    """
    if config.credit != 'none' and success_BE is None:
        raise ValueError(f'credit {config.credit!r} needs J at the boundaries, got success_BE=None')
    total_B = rewards_B
    penalty = PENALTIES[config.length_penalty]
    if penalty is not None:
        share_B = penalty(rewards_B, lengths_B, config.group_size)
        total_B = rewards_B + config.length_penalty_weight * share_B
    outcome_B = group_advantages(total_B, config.group_size, scale=config.reward_scale)
    advantages_BT = jnp.broadcast_to(outcome_B[:, None], sampled_BT.shape)
    groups = rewards_B.reshape(-1, config.group_size)
    metrics = {
        'reward': rewards_B.mean(),
        'groups_with_signal': (groups.max(axis=1) > groups.min(axis=1)).mean(),
    }
    if success_BE is not None and config.credit != 'none':
        advantages_BT += config.alpha * _progress_advantage(
            config, success_BE, boundaries_BE, mask_BE, sampled_BT.shape[1]
        )
        change_BX = progress(success_BE, mask_BE)
        metrics['progress'] = change_BX.sum() / jnp.maximum(mask_BE[:, 1:].sum(), 1)
        metrics['progress_total'] = change_BX.sum(axis=1).mean()
        metrics['success_at_start'] = success_BE[:, 0].mean()
    return Credit(jnp.where(sampled_BT, advantages_BT, 0.0), metrics)


def _progress_advantage(
    config: CreditConfig,
    success_BE: jax.Array,
    boundaries_BE: jax.Array,
    mask_BE: jax.Array,
    tokens: int,
) -> jax.Array:
    """Progress advantage of each token, [B, T] or [B, 1]."""
    if config.credit == 'scalar':
        return scalar_credit(success_BE, mask_BE, config.group_size)[:, None]
    credit = episode_credit if config.credit == 'episode' else to_go_credit
    return spread(credit(success_BE, mask_BE), boundaries_BE, tokens)
