"""A config whose programs compile in a second."""

import ml_collections

from configs import countdown


def make_config(**changes) -> ml_collections.ConfigDict:
    """MRT on countdown with a step of a few short rows; `changes` override its keys."""
    config = countdown.get_config('mrt')
    config.update(
        attention='plain', prompts_per_step=4, group_size=2, max_prompt_tokens=16,
        max_thinking_tokens=24, max_answer_tokens=8, row_tokens=128, microbatch_rows=4,
        max_boundaries=3, branches=2,
    )
    config.update(changes)
    return config
