"""Which keys of a config have an effect: one that is set and does nothing is a mistake.

Most keys always have one. Those that have it only beside certain others are in `CONDITIONS`, by the
objective whose runs read them. A new key that is read always needs nothing here; one that is not
gets a line, and tests/training/test_key_effects.py tells which.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mrt_jax.errors import InputError
from mrt_jax.methods.credit import EPISODE_CREDITS
from mrt_jax.models.cache import COMPUTE
from mrt_jax.training.arms import OF_THE_COMPARISON, arm_config


@dataclasses.dataclass(frozen=True)
class Condition:
    """When a key has an effect.

    Attributes:
        holds: whether it has, in a run of this config; where a key has several, all must hold.
        otherwise: why it has none, and what to set.
    """

    holds: Callable[[Any], bool]
    otherwise: str


_SAMPLES = Condition(
    lambda config: config.sampling.temperature > 0,
    'at sampling.temperature=0 the most likely token is taken: set a temperature above 0',
)
_HAS_PROGRESS = Condition(
    lambda config: config.credit != 'none',
    "credit='none' gives no credit for progress: set credit",
)
_DOES_NOT_CANCEL = Condition(
    # MRT section 3.2: r' = r + alpha (r - J) is then (1 + alpha) r up to a number that all share.
    lambda config: config.normalise != 'together' or not (
        config.outcome_weight == 0 or _shares_prefix(config)
    ),
    "normalise='together' divides by what it multiplies: set normalise, or what keeps outcome and "
    'progress apart, such as bonus or prefixes_per_group',
)
_WEIGHS_OUTCOME = Condition(
    lambda config: config.normalise != 'together' or not _shares_prefix(config),
    "normalise='together' divides by what it multiplies: set normalise, or what keeps outcome and "
    'progress apart, such as bonus or prefixes_per_group',
)
_ASKS_PROVER = Condition(
    lambda config: config.credit != 'none' or config.evaluate_every > 0,
    "credit='none' and evaluate_every=0 never ask the meta-prover, but for the report, by "
    'evaluation.branches: set credit or evaluate_every',
)
_PENALISES_LENGTH = Condition(
    lambda config: config.length_penalty != 'none',
    "length_penalty='none' has no weight: set length_penalty to kimi or arora",
)
_MOVES_AWAY = Condition(
    # Rounding and staleness move ratios too, unless they are to the trainer's own numbers.
    lambda config: config.updates_per_step > 1
    or (((config.compute_dtype, config.cache_dtype) != ('float32', COMPUTE) or config.staleness > 0)
        and config.mismatch.level == 'none'),
    'the first update on a batch begins at the policy that sampled it, where no ratio leaves 1: '
    'set updates_per_step to 2 or more, or staleness to 1',
)
_USES_CURVES = Condition(
    lambda config: config.credit not in ('none', 'prefix'),
    'no J along the trace goes into the credit: set credit to scalar, episode, to_go or anytime',
)
_ASKS_ALONG_TRACE = Condition(
    lambda config: config.credit not in ('none', 'prefix') or config.evaluate_every > 0,
    'the meta-prover is not asked at several boundaries of a trace: set credit to scalar, episode, '
    'to_go or anytime, or set evaluate_every',
)
_SPREADS = Condition(
    lambda config: config.credit in EPISODE_CREDITS,
    'this credit is not of single episodes: set credit to episode or to_go',
)
_WEIGHS_PROGRESS = Condition(
    lambda config: config.credit in ('scalar', 'episode', 'to_go'),
    'this credit has no standard error: set credit to scalar, episode or to_go',
)
_HAS_AIM = Condition(
    lambda config: config.aim != 'own', "aim='own' has no k: set aim to pass_at_k or maj_at_k"
)
_HAS_PREFIXES = Condition(
    lambda config: config.credit == 'prefix',
    'without prefixes no group goes on from them: set credit to prefix',
)
_TRAINS_PROVER = Condition(
    lambda config: config.train_prover > 0,
    "train_prover=0 trains on none of the meta-prover's answers: set train_prover above 0",
)
_WEIGHS_MISMATCH = Condition(
    lambda config: config.mismatch.level != 'none',
    "mismatch.level='none' weighs nothing: set mismatch.level to token or sequence",
)

_MEASURES_KL = Condition(
    lambda config: config.kl_coef > 0 or config.updates_per_step > 1
    or (config.staleness > 0 and config.mismatch.level == 'none'),
    'without kl_coef kl is to the policy that sampled, where the only update of a step begins: set '
    'kl_coef, updates_per_step to 2 or more, or staleness to 1',
)
_HAS_NO_KL = Condition(
    lambda config: False, 'fine-tuning has no policy to measure kl to',
)

_NEVER = Condition(
    lambda config: False,
    'STaR fine-tunes on the traces that it keeps, without advantages, ratios and penalties',
)
_PROVES = Condition(
    lambda config: config.selection == 'progress' or config.evaluate_every > 0,
    "selection='correct' and evaluate_every=0 never ask the meta-prover: set selection to progress "
    'or evaluate_every',
)

_ALL = {
    'sampling.top_k': (_SAMPLES,),
    'sampling.top_p': (_SAMPLES,),
    'sampling.min_p': (_SAMPLES,),
}
CONDITIONS: Mapping[str, Mapping[str, tuple[Condition, ...]]] = {
    'rl': _ALL | {
        'alpha': (_HAS_PROGRESS, _DOES_NOT_CANCEL),
        'outcome_weight': (_WEIGHS_OUTCOME,),
        'common_draws': (_ASKS_ALONG_TRACE,),
        'shrinkage': (_USES_CURVES,),
        'marker': (_SPREADS,),
        'weigh_by_stderr': (_WEIGHS_PROGRESS,),
        'aim_k': (_HAS_AIM,),
        'max_kl': (_MEASURES_KL,),
        'refresh_prefixes_every': (_HAS_PREFIXES,),
        'prefixes_per_group': (_HAS_PREFIXES,),
        'bonus': (_HAS_PREFIXES,),
        'branches': (_ASKS_PROVER,),
        'prover_rounds': (_ASKS_PROVER,),
        'prover_rows': (_ASKS_PROVER,),
        'prover_sequences': (_TRAINS_PROVER,),
        'length_penalty_weight': (_PENALISES_LENGTH,),
        'ratio': (_MOVES_AWAY,),
        'clip_low': (_MOVES_AWAY,),
        'clip_high': (_MOVES_AWAY,),
        'mismatch.bound': (_WEIGHS_MISMATCH,),
        'mismatch.most': (_WEIGHS_MISMATCH,),
    },
    'sft': _ALL | {'max_kl': (_HAS_NO_KL,)} | {
        f'demonstrations.{rate}': (
            Condition(
                lambda config: not config.demonstrations_file,
                'demonstrations are read from demonstrations_file: leave that out',
            ),
        )
        for rate in ('solve', 'repeat', 'stop', 'go_on', 'cut', 'guess')
    },
    'star': _ALL | dict.fromkeys(
        (
            'alpha', 'outcome_weight', 'credit', 'aim', 'aim_k', 'baseline', 'normalise',
            'length_penalty', 'length_penalty_weight', 'marker', 'shrinkage', 'weigh_by_stderr',
            'refresh_prefixes_every', 'prefixes_per_group', 'bonus',
            'dynamic_sampling', 'mask_truncated', 'ratio', 'clip_low', 'clip_high', 'kl_coef',
            'entropy_coef', 'aggregation', 'mismatch.level', 'mismatch.bound', 'mismatch.most',
            'updates_per_step', 'max_kl', 'share_prompts', 'staleness', 'train_prover',
            'prover_sequences',
        ),
        (_NEVER,),
    ) | dict.fromkeys(('branches', 'prover_rounds', 'prover_rows', 'common_draws'), (_PROVES,)),
}


def check_effects(config: Any, keys: Iterable[str]) -> None:
    """Refuses keys that were set and have no effect.

    Args:
        config: as it is with them.
        keys: dotted names of those that were set, for example on the command line.

    Raises:
        InputError: names the first such key, why it has none, and what to set.
    """
    for key in keys:
        reason = why_mute(config, key)
        if reason is not None:
            raise InputError(f'{key} has no effect: {reason}; or leave {key} out')


def why_mute(config: Any, key: str) -> str | None:
    """Why a key has no effect, None if it has. In a comparison, an effect on one arm is one."""
    if config.objective != 'compare':
        conditions = CONDITIONS.get(config.objective, {}).get(key, ())
        return next((one.otherwise for one in conditions if not one.holds(config)), None)
    if key == 'seed':
        return 'a comparison trains with those in seeds: set seeds'
    top, _, rest = key.partition('.')
    if top == 'arms':
        arm, _, key = rest.partition('.')
        return why_mute(arm_config(config, arm, 0), key)
    if top in OF_THE_COMPARISON or not config.arms:
        return None
    reasons = [
        f'all arms set it, {arm} among them: set arms.{arm}.{key}'
        if _sets(config.arms[arm], key) else why_mute(arm_config(config, arm, 0), key)
        for arm in config.arms
    ]
    return None if None in reasons else reasons[-1]


def _shares_prefix(config: Any) -> bool:
    """Whether progress is, in every group, the outcome less a number that all of it share."""
    return (
        config.credit == 'prefix' and config.bonus == 'all' and config.prefixes_per_group == 1
        and config.length_penalty == 'none' and config.aim == 'own'
    )


def _sets(overrides: Any, key: str) -> bool:
    try:
        return overrides[key] is not None
    except KeyError:
        return False
