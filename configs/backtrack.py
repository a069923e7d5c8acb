"""Countdown in numbered steps that are gone back to: the backtracking form of MRT.

python -m experiments.train --config=configs/backtrack.py:VARIANT --workdir=runs/backtrack

| variant | what it runs |
| --- | --- |
| mrt (default) | outcome reward + alpha x progress of each episode, attempt or jump |
| mrt_to_go | progress from each episode to the trace's end |
| mrt_rl | groups that share a prefix; going on is paid for what it adds to stopping |
| grpo | outcome reward alone |
| mrt_star | fine-tuning on own traces cut where J is highest first, a right answer behind |
| star | fine-tuning on every own trace whose answer is right |
| self_correction | outcome + alpha x gain of each attempt over the one before (SCoRe) |
| methods | grpo, mrt, star and mrt_star: three seeds, equal updates and tokens |
| sft | the supervised warm start that made experiments/policies/countdown_backtrack |
| sft_direct | the same on right attempts alone |
| sft_rise | the same on random failures stitched to a success (RISE) |

Reinforcement learning from another warm start: `--config.policy=runs/sft_rise/policy`. Traces of
another kind: `--config.demonstrations.variant=resample_from_beginning`.
"""

import ml_collections

from configs import countdown

WARM_START = 'experiments/policies/countdown_backtrack'
TASK = 'countdown_backtrack'
RECIPES = {
    **{name: countdown.RECIPES[name] for name in ('mrt', 'mrt_to_go', 'mrt_rl', 'grpo')},
    'self_correction': {'credit': 'episode', 'prover': 'attempts'},
}
SELF_TAUGHT = ('star', 'mrt_star')
METHODS = ('grpo', 'mrt', *SELF_TAUGHT)
TRACES = {  # see mrt_jax/data/backtrack_traces.py
    'sft': 'backtrack_with_shared_prefix', 'sft_direct': 'direct', 'sft_rise': 'rise',
}


def get_config(variant: str = 'mrt') -> ml_collections.ConfigDict:
    """The config of a variant; the module's docstring lists them."""
    if variant in RECIPES:
        return reinforcement(**RECIPES[variant])
    if variant in SELF_TAUGHT:
        return reinforcement(**countdown.IMITATIONS[variant]())
    if variant == 'methods':
        config = countdown.comparison(arms=METHODS, seeds=(0, 1, 2), equal_tokens=True)
        config.policy = WARM_START
        return _adapt(config)
    if variant in TRACES:
        return warm_start(TRACES[variant])
    known = ', '.join([*RECIPES, *SELF_TAUGHT, 'methods', *TRACES])
    raise ValueError(f'configs/backtrack.py has no variant {variant!r}; it has {known}')


def reinforcement(**changes: object) -> ml_collections.ConfigDict:
    """Reinforcement learning from the shipped warm start."""
    return _adapt(countdown.reinforcement(policy=WARM_START, **changes))


def _adapt(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config of countdown, with the budgets of this task."""
    config.task = TASK
    config.max_thinking_tokens = 150  # five attempts and the jumps between them
    config.max_answer_tokens = 14  # an expression in four numbers, and the end of the turn
    config.update({'evaluation': {'budgets': (35, 60, 85, 110, 135, 160, 185)}})
    return config


def warm_start(variant: str) -> ml_collections.ConfigDict:
    """Supervised fine-tuning of a fresh policy on one kind of trace."""
    config = _adapt(countdown.warm_start())
    config.parent = countdown.WARM_START  # knows its sums and how to write an expression
    config.num_steps = 1500
    config.rows_per_step = 24
    config.row_tokens = 192
    config.update({'optimizer': {'learning_rate': 5e-3}})
    # What the traces are, see `BacktrackSettings` in mrt_jax/data/backtrack_traces.py.
    config.demonstrations = ml_collections.ConfigDict(
        dict(variant=variant, solve=0.6, max_wrong=4, stray=0.2, restate=True, cut=0.15,
             trained='trace', max_value=60)
    )
    return config
