"""Credit: how outcome and progress become one advantage for each token.

This is the file to change to try another algorithm. An algorithm is a composition of

    an outcome      what a trace is paid for: its own answer, pass@k or maj@k
    a progress      what its episodes are paid for besides: a credit of `CREDITS`, weighed by alpha
    a baseline      what is taken off: the group's mean, the mean of the others, the termination's
    a normaliser    what both are divided by: see `normalising_deviations`

and, in the objective, of a ratio, a clip and an aggregation. Outcome-reward RL is `credit='none'`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.errors import InputError
from mrt_jax.kernels.advantages import (
    BASELINES,
    NORMALISERS,
    anytime_credit,
    episode_credit,
    length_penalty_arora,
    length_penalty_kimi,
    less_baseline,
    less_termination,
    normalising_deviations,
    prefix_progress,
    spread,
    to_go_credit,
)
from mrt_jax.kernels.progress import Success, progress, total_progress
from mrt_jax.kernels.shrinkage import (
    careful_stderr,
    credit_stderr,
    shrink_across_group,
    shrink_along_trace,
    smooth_along_trace,
    stderr_weights,
)
from mrt_jax.kernels.subsets import (
    check_subset_size,
    maj_at_k_advantages,
    pass_at_k_advantages,
)

# Progress credits: of traces with J at their boundaries, and of traces that go on from a prefix.
EPISODE_CREDITS = {
    'episode': lambda success_BE, mask_BE, group_size: episode_credit(success_BE, mask_BE),
    'to_go': lambda success_BE, mask_BE, group_size: to_go_credit(success_BE, mask_BE),
    'anytime': anytime_credit,
}
CREDITS = ('none', 'scalar', *EPISODE_CREDITS, 'prefix')
PENALTIES = {'none': None, 'kimi': length_penalty_kimi, 'arora': length_penalty_arora}
# What J is made of besides its own answers, off by default: (success, count, mask, group) -> J.
SHRINKAGES = {
    'none': None,
    'trace': lambda J_BE, count_BE, mask_BE, group: shrink_along_trace(J_BE, count_BE, mask_BE),
    'group': shrink_across_group,
    'walk': lambda J_BE, count_BE, mask_BE, group: smooth_along_trace(J_BE, count_BE, mask_BE),
}
AIMS = ('own', 'pass_at_k', 'maj_at_k')
BONUSES = ('continue', 'all')
MARKERS = ('opens', 'closes')


@dataclasses.dataclass(frozen=True)
class CreditConfig:
    """What the advantage is made of.

    Attributes:
        credit: progress of a trace: 'none'; 'scalar', summed over it, on all its tokens; 'episode',
            of each episode on its own tokens; 'to_go', from each episode to the trace's end, on
            the episode's tokens; 'anytime', see `anytime_credit`; 'prefix', from the prefix that
            the group goes on from, on all tokens: MRT (RL).
        alpha: weight of the progress advantage.
        outcome_weight: weight of the outcome advantage.
        aim: what the outcome is: 'own', the trace's reward; 'pass_at_k' or 'maj_at_k', what it adds
            to its group's.
        aim_k: k of the aim.
        baseline: of the outcome, and of progress that is one number a trace: 'group' or
            'leave_one_out', see `less_baseline`; 'termination', see `less_termination`, for
            prefixes only.
        normalise: 'outcome', 'together', 'separate' or 'none', see `normalising_deviations`.
        bonus: which traces of a prefix get progress: 'continue', those that think on; 'all'.
        prefixes_per_group: prefixes that a group goes on from, in equal shares.
        shrinkage: of J towards other boundaries: 'none'; 'trace', see `shrink_along_trace`;
            'group', see `shrink_across_group`; 'walk', see `smooth_along_trace`.
        marker: whose credit the token has that ends an episode and opens the next, or ends the
            thought: 'opens', of the episode that it opens, as a boundary cuts the text; 'closes',
            of the one that it closes. To end an episode is a choice that its progress rewards, so
            with markers of one token 'closes' makes 'episode' and 'to_go' exact gradients, and
            'opens' does not (tests/methods/test_exact_progress.py); windows leave no choice.
        weigh_by_stderr: whether progress counts the less the less surely J is known, see
            `stderr_weights`.
        length_penalty: 'none', 'kimi' or 'arora', added to the outcome before its baseline.
        length_penalty_weight: its weight.
        group_size: G, rollouts of one prompt.
    """

    group_size: int
    credit: str = 'none'
    alpha: float = 1.0
    outcome_weight: float = 1.0
    aim: str = 'own'
    aim_k: int = 4
    baseline: str = 'group'
    normalise: str = 'outcome'
    bonus: str = 'continue'
    prefixes_per_group: int = 1
    shrinkage: str = 'none'
    marker: str = 'closes'
    weigh_by_stderr: bool = False
    length_penalty: str = 'none'
    length_penalty_weight: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (
            ('credit', CREDITS), ('aim', AIMS), ('baseline', BASELINES),
            ('normalise', NORMALISERS), ('bonus', BONUSES), ('marker', MARKERS),
            ('shrinkage', SHRINKAGES),
            ('length_penalty', PENALTIES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f'{name}={value!r} is unknown; known: {", ".join(known)}')
        for name in ('alpha', 'outcome_weight', 'length_penalty_weight'):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f'{name} must be at least 0, got {getattr(self, name)}')
        if self.group_size < 2:
            raise InputError(
                f'group_size must be at least 2, got {self.group_size}: advantages are relative to '
                'the group'
            )
        if self.credit == 'prefix' and (
            self.prefixes_per_group < 1 or self.group_size % (2 * self.prefixes_per_group)
        ):
            raise InputError(
                f'group_size={self.group_size} must be a multiple of 2 x prefixes_per_group = '
                f'{2 * self.prefixes_per_group}: half of the rollouts of each prefix think on, the '
                'other half stop'
            )
        if self.baseline == 'termination' and self.credit != 'prefix':
            raise InputError(
                f"baseline='termination' needs credit='prefix', not {self.credit!r}: no other "
                'group has rollouts that stop at once'
            )
        if self.weigh_by_stderr and self.credit not in ('scalar', 'episode', 'to_go'):
            raise InputError(
                f'weigh_by_stderr=True needs credit=scalar, episode or to_go, not {self.credit!r}'
            )
        if self.aim != 'own':
            self._check_aim()

    def _check_aim(self) -> None:
        try:
            check_subset_size(self.group_size, self.aim_k)
        except ValueError as error:
            raise InputError(f'aim={self.aim!r}, aim_k={self.aim_k}: {error}') from error
        if self.baseline != 'leave_one_out' or self.length_penalty != 'none':
            raise InputError(
                f"aim={self.aim!r} needs baseline='leave_one_out', which it has built in, and "
                f"length_penalty='none', not {self.baseline!r} and {self.length_penalty!r}"
            )

    @property
    def prefix_rows(self) -> int:
        """Consecutive rollouts that go on from one prefix: first those that think on, then as many
        that stop."""
        return self.group_size // self.prefixes_per_group


@struct.dataclass
class Outcomes:
    """How the responses of a batch came out.

    Attributes:
        rewards_B: float32, 0/1, groups in consecutive rows.
        lengths_B: int32, response tokens.
        sampled_BT: bool, tokens that the policy sampled.
        votes_B: int32, the answer that each row votes for in its group, see `maj_at_k_advantages`.
    """

    rewards_B: jax.Array
    lengths_B: jax.Array
    sampled_BT: jax.Array
    votes_B: jax.Array


@struct.dataclass
class Curves:
    """J along the traces of a batch.

    Attributes:
        boundaries_BE, mask_BE: the episodes.
        success: J at each boundary.
    """

    boundaries_BE: jax.Array
    mask_BE: jax.Array
    success: Success


@struct.dataclass
class Starts:
    """Where the traces of a batch began.

    Attributes:
        success_B: float32, J of the prefix.
        stopped_B: bool, the trace was made to stop at once.
    """

    success_B: jax.Array
    stopped_B: jax.Array


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
    config: CreditConfig, outcomes: Outcomes, measured: Curves | Starts | None = None
) -> Credit:
    """Advantage of each token: outcome_weight x outcome + alpha x progress.

    Args:
        config: static.
        outcomes: of the responses.
        measured: the J that the credit is made of: `Curves`, or `Starts` if it is 'prefix'; None
            if it is 'none'.

    Returns:
        The credit. Tokens behind the thought get the outcome's part, and progress that is one
        number a trace. Metrics: `reward`; `groups_with_signal`, the share of groups whose rewards
        differ; with progress those of `_describe_curves` or `_describe_starts`.

    Raises:
        ValueError: the rows are no whole number of groups, or J is needed and missing.
    """
    needed = {'none': type(None), 'prefix': Starts}.get(config.credit, Curves)
    if not isinstance(measured, needed):
        raise ValueError(
            f'credit {config.credit!r} needs J in {needed.__name__}, got {type(measured).__name__}'
        )
    rewards_B, tokens = outcomes.rewards_B, outcomes.sampled_BT.shape[1]
    outcome_B, outcome_advantage_B = _outcome(config, outcomes, measured)
    progress_BX, episodes_BX = _progress(config, rewards_B, measured)
    outcome_scale_B, progress_scale_B = normalising_deviations(
        outcome_B, progress_BX, episodes_BX, alpha=config.alpha,
        outcome_weight=config.outcome_weight, normalise=config.normalise,
        group_size=config.group_size,
    )
    advantage_B = config.outcome_weight * outcome_advantage_B / outcome_scale_B
    advantages_BT = jnp.broadcast_to(advantage_B[:, None], outcomes.sampled_BT.shape)
    groups = rewards_B.reshape(-1, config.group_size)
    metrics = {
        'reward': rewards_B.mean(),
        'groups_with_signal': (groups.max(axis=1) > groups.min(axis=1)).mean(),
    }
    if progress_BX is not None:
        if episodes_BX is None:
            given_BT = _less_baseline(config, progress_BX[:, 0], measured)[:, None]
        else:
            assert isinstance(measured, Curves)
            boundaries_BE = measured.boundaries_BE
            if config.marker == 'closes':
                boundaries_BE = jnp.where(boundaries_BE > 0, boundaries_BE + 1, 0)
            given_BT = spread(progress_BX, boundaries_BE, tokens)
        advantages_BT += config.alpha * given_BT / progress_scale_B[:, None]
    if isinstance(measured, Curves):
        metrics |= _describe_curves(measured)
    elif isinstance(measured, Starts):
        metrics |= _describe_starts(rewards_B, measured)
    return Credit(jnp.where(outcomes.sampled_BT, advantages_BT, 0.0), metrics)


def _outcome(
    config: CreditConfig, outcomes: Outcomes, measured: Curves | Starts | None
) -> tuple[jax.Array, jax.Array]:
    """The outcome that each trace is paid for, and its advantage, [B] each."""
    rewards_B = outcomes.rewards_B
    if config.aim == 'pass_at_k':
        advantage_B = pass_at_k_advantages(rewards_B, config.group_size, config.aim_k)
        return advantage_B, advantage_B
    if config.aim == 'maj_at_k':
        advantage_B = maj_at_k_advantages(outcomes.votes_B, config.group_size, config.aim_k)
        return advantage_B, advantage_B
    penalty = PENALTIES[config.length_penalty]
    if penalty is not None:
        share_B = penalty(rewards_B, outcomes.lengths_B, config.group_size)
        rewards_B = rewards_B + config.length_penalty_weight * share_B
    return rewards_B, _less_baseline(config, rewards_B, measured)


def _progress(
    config: CreditConfig, rewards_B: jax.Array, measured: Curves | Starts | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """Progress credit and the episodes that it is of, as `normalising_deviations` takes them."""
    if measured is None:
        return None, None
    if isinstance(measured, Starts):
        bonus_B = ~measured.stopped_B | (config.bonus == 'all')
        return prefix_progress(rewards_B, measured.success_B, bonus_B)[:, None], None
    success_BE, count_BE, mask_BE = (
        measured.success.mean_BE, measured.success.count_BE, measured.mask_BE,
    )
    shrink = SHRINKAGES[config.shrinkage]
    if shrink is not None:
        success_BE = shrink(success_BE, count_BE, mask_BE, config.group_size)
    if config.credit == 'scalar':
        credit_BX, episodes_BX = total_progress(success_BE, mask_BE)[:, None], None
    else:
        episodes_BX = mask_BE[:, 1:]
        credit_BX = EPISODE_CREDITS[config.credit](success_BE, mask_BE, config.group_size)
    if config.weigh_by_stderr:
        stderr_BE = careful_stderr(measured.success.mean_BE, count_BE)
        stderr_BX = credit_stderr(stderr_BE, mask_BE, config.credit)
        known_BX = mask_BE[:, 1:2] if episodes_BX is None else episodes_BX
        credit_BX = credit_BX * stderr_weights(credit_BX, stderr_BX, known_BX)
    return credit_BX, episodes_BX


def _less_baseline(
    config: CreditConfig, values_B: jax.Array, measured: Curves | Starts | None
) -> jax.Array:
    if config.baseline == 'termination' and isinstance(measured, Starts):
        return less_termination(values_B, measured.stopped_B, config.prefix_rows)
    return less_baseline(values_B, config.group_size, baseline=config.baseline)


def _describe_curves(curves: Curves) -> dict[str, jax.Array]:
    """`progress`, its mean over episodes; `progress_total`, over traces of the sum; and
    `success_at_start`, J at the empty prefix."""
    success_BE, mask_BE = curves.success.mean_BE, curves.mask_BE
    episodes = jnp.maximum(mask_BE[:, 1:].sum(), 1)
    return {
        'progress': progress(success_BE, mask_BE).sum() / episodes,
        'progress_total': total_progress(success_BE, mask_BE).mean(),
        'success_at_start': success_BE[:, 0].mean(),
    }


def _describe_starts(rewards_B: jax.Array, starts: Starts) -> dict[str, jax.Array]:
    """`progress`, r - J of the traces that think on; `reward_continue`, `reward_stop` and
    `prefix_success`, J of the prefixes."""
    on_B = (~starts.stopped_B).astype(jnp.float32)
    thinking, stopping = on_B.sum(), (1 - on_B).sum()
    return {
        'progress': (on_B * (rewards_B - starts.success_B)).sum() / thinking,
        'reward_continue': (on_B * rewards_B).sum() / thinking,
        'reward_stop': ((1 - on_B) * rewards_B).sum() / stopping,
        'prefix_success': starts.success_B.mean(),
    }
