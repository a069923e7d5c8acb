"""Signs that a run goes wrong: what of a step's metrics gives a warning, and what that says.

Bounds are far from what the recipes in `configs/` show, so that a warning is worth reading: their
rollouts end by themselves but for some percent, and sampler and trainer differ by less than 1e-5.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# Share of rollouts, 0 to 1, above which so many are cut: before they end, or in their thought. Half
# of the thoughts of MRT (RL) are cut on purpose, so the second leaves room for as many again.
MOST_TRUNCATED = 0.1
MOST_FORCED = 0.75
# Mean over tokens of |log p of the trainer - log p of the sampler|, nats; with staleness=1 the
# sampler is the policy of an update before.
MOST_DIFFERENCE = 0.05
# k3 divergences, nats a token.
MOST_KL_TO_SAMPLER = 0.1
MOST_KL_TO_REFERENCE = 1.0
# Steps in a row that a sign must show where one step may be chance.
STEPS_IN_A_ROW = 3


@dataclasses.dataclass(frozen=True)
class Sign:
    """One way to go wrong.

    Attributes:
        metric: that shows it.
        shows: whether a value of it does.
        steps: in a row that must show it; those without the metric do not count.
        meaning: why it matters and what to change, behind the number.
    """

    metric: str
    shows: Callable[[float], bool]
    steps: int
    meaning: str


SIGNS = (
    Sign(
        'truncated', lambda share: share > MOST_TRUNCATED, STEPS_IN_A_ROW,
        f'more than {MOST_TRUNCATED:.0%} of the rollouts are cut before they end, and what they '
        'would have answered goes unpaid: raise max_answer_tokens, or leave them out of the loss '
        'by mask_truncated',
    ),
    Sign(
        'forced', lambda share: share > MOST_FORCED, STEPS_IN_A_ROW,
        f'more than {MOST_FORCED:.0%} of the thoughts are cut at their budget, so where to stop is '
        'never learnt: raise max_thinking_tokens, or set length_penalty',
    ),
    Sign(
        'groups_with_signal', lambda share: share == 0, STEPS_IN_A_ROW,
        'all rewards of every group are equal, so outcomes teach nothing: take easier or harder '
        'problems, raise group_size or sampling.temperature, or set dynamic_sampling',
    ),
    Sign(
        'unanimous', lambda share: share == 1, STEPS_IN_A_ROW,
        "all of the meta-prover's answers agree at every boundary, J is 0 or 1, and progress all "
        'or nothing: take problems of another difficulty, raise branches or sampling.temperature, '
        'or set branches=1, which says as much for fewer tokens',
    ),
    Sign(
        'sampler_trainer_difference', lambda nats: nats > MOST_DIFFERENCE, 1,
        f'sampler and trainer differ by more than {MOST_DIFFERENCE} nats a token, so gradients are '
        "of another policy than the one that sampled: set compute_dtype='float32' and "
        "cache_dtype='compute', weigh tokens by mismatch.level, or lower updates_per_step or "
        'staleness',
    ),
    Sign(
        'kl_to_sampler', lambda nats: nats > MOST_KL_TO_SAMPLER, 1,
        f'one step moves the policy by more than {MOST_KL_TO_SAMPLER} nats a token, further than '
        'its rollouts can tell where to: lower optimizer.learning_rate or updates_per_step',
    ),
    Sign(
        'kl_to_reference', lambda nats: nats > MOST_KL_TO_REFERENCE, 1,
        f'the policy is more than {MOST_KL_TO_REFERENCE} nats a token from where it began, which '
        'what it learns rarely needs: raise kl_coef, lower optimizer.learning_rate, or go on from '
        'an earlier checkpoint',
    ),
)


@dataclasses.dataclass(frozen=True)
class Health:
    """What is known after some steps.

    Attributes:
        streaks: by metric, steps in a row that have shown its sign; all that the next step needs,
            a JSON object.
        in_force: number of warnings that hold now.
        begun: those that this step has begun, a line each.
    """

    streaks: Mapping[str, int]
    in_force: int = 0
    begun: tuple[str, ...] = ()


def examine(streaks: Mapping[str, int], metrics: Mapping[str, Any]) -> Health:
    """Reads a step's metrics.

    Args:
        streaks: of the steps before, see `Health`; {} at the start of a run.
        metrics: scalars by name. What is not a number shows no sign: such updates are skipped and
            counted by themselves.
    """
    counts, begun, in_force = {}, [], 0
    for sign in SIGNS:
        count = streaks.get(sign.metric, 0)
        if sign.metric in metrics:
            value = float(metrics[sign.metric])
            count = count + 1 if sign.shows(value) else 0
            if count == sign.steps:
                times = f' for {count} steps in a row' if count > 1 else ''
                begun.append(f'{sign.metric} is {value:.3g}{times}: {sign.meaning}')
        counts[sign.metric] = count
        in_force += count >= sign.steps
    return Health({name: count for name, count in counts.items() if count}, in_force, tuple(begun))
