"""MRT online on slices of TPUs and nodes of GPUs, sized so that each step fits their memory.

python -m experiments.train --config=configs/pods.py:VARIANT --workdir=runs/pods \\
    --config.policy=DIR

| variant | policy | slice | chips |
| --- | --- | --- | --- |
| qwen_1_5b_v5e_16 (default) | DeepSeek-R1-Distill-Qwen-1.5B | v5e:4x4 | 16 |
| qwen_1_5b_v5p_8 | DeepSeek-R1-Distill-Qwen-1.5B | v5p:2x2x1 | 4 |
| qwen_7b_v5p_32 | DeepSeek-R1-Distill-Qwen-7B | v5p:2x2x4 | 16 |
| llama_8b_v6e_16 | Llama-3.1-8B, taught to backtrack | v6e:4x4 | 16 |
| qwen_1_5b_h100_8 | DeepSeek-R1-Distill-Qwen-1.5B | h100:8 | 8 |
| qwen_7b_h100_16 | DeepSeek-R1-Distill-Qwen-7B | h100:2x8 | 16 |

The R1 policies think for 16,384 tokens, the length of the paper's evaluation; the Llama for 4,096,
that of the paper's backtracking. What a step costs on each slice is planned without it:
experiments/results/plans has the figures. Everything else is as in configs/math.py.
"""

import ml_collections

from configs import math

# One row of an update holds the longest trace: prompt, thought, the text that ends it, and answer.
LONG = dict(max_thinking_tokens=16384, row_tokens=18432)
SHORT = dict(max_thinking_tokens=4096, row_tokens=6144)

# Devices along the mesh, and what sets how much a device holds.
SLICES = {
    'qwen_1_5b_v5e_16': dict(
        mesh=dict(fsdp=8, tensor=2), prompts_per_step=16, microbatch_rows=8, **LONG,
    ),
    'qwen_1_5b_v5p_8': dict(
        mesh=dict(fsdp=4), prompts_per_step=16, microbatch_rows=4, **LONG,
    ),
    'qwen_7b_v5p_32': dict(
        mesh=dict(fsdp=16), prompts_per_step=32, microbatch_rows=16, **LONG,
    ),
    'llama_8b_v6e_16': dict(
        mesh=dict(fsdp=4, tensor=4), prompts_per_step=16, microbatch_rows=4, **SHORT,
    ),
    'qwen_1_5b_h100_8': dict(
        mesh=dict(fsdp=8), prompts_per_step=16, microbatch_rows=8, **LONG,
    ),
    'qwen_7b_h100_16': dict(
        mesh=dict(data=2, fsdp=8), prompts_per_step=16, microbatch_rows=16, **LONG,
    ),
}


def get_config(variant: str = 'qwen_1_5b_v5e_16') -> ml_collections.ConfigDict:
    """The config of a slice; the module's docstring lists them."""
    if variant not in SLICES:
        raise ValueError(f'configs/pods.py has no variant {variant!r}; it has {", ".join(SLICES)}')
    config = math.get_config('mrt')
    config.update(SLICES[variant])
    longest = config.max_thinking_tokens
    config.update({
        'evaluation': {'budgets': tuple(longest * eighths // 8 for eighths in (1, 2, 4, 6, 8))}
    })
    return config
