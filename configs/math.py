"""Competition mathematics with an R1-style model on a pod or a GPU, as in the paper's Table 1.

python -m experiments.train --config=configs/math.py:VARIANT --workdir=runs/math \\
    --config.policy=DIR --config.mesh.fsdp=-1

| variant | what it runs |
| --- | --- |
| mrt (default) | MRT online: credit for each episode's progress, four answers at each boundary |
| grpo | outcome reward alone |

The policy is a folder such as DeepSeek-R1-Distill-Qwen-1.5B; the problems are DeepScaleR's, see
`mrt_jax/data/math_dataset.py` for where their file lies. `--config.task=math:FILE` takes others.
"""

import ml_collections

from configs import countdown


def get_config(variant: str = 'mrt') -> ml_collections.ConfigDict:
    """The config of a variant; the module's docstring lists them."""
    if variant not in ('mrt', 'grpo'):
        raise ValueError(f'configs/math.py has no variant {variant!r}; it has mrt, grpo')
    config = countdown.reinforcement(**countdown.RECIPES[variant])
    config.update(
        policy='',  # of your own
        task='math:deepscaler', num_steps=250, checkpoint_every=10, evaluate_every=50,
        prompts_per_step=32, group_size=8, max_prompt_tokens=1024, max_thinking_tokens=8192,
        max_answer_tokens=512, max_boundaries=6, branches=4, row_tokens=16384, microbatch_rows=16,
        compute_dtype='bfloat16', param_dtype='bfloat16', save_dtype='bfloat16', remat='full',
    )
    evaluation = dict(
        num_problems=500, num_samples=4, branches=8, max_boundaries=12, batch_rows=64,
        budgets=(1024, 2048, 4096, 6144, 8192),
    )
    config.update({
        'optimizer': {'learning_rate': 1e-6}, 'sampling': {'temperature': 0.9},
        'evaluation': evaluation,
    })
    return config
