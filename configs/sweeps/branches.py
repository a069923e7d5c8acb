"""How many answers the meta-prover should give at each boundary, over three seeds.

python -m experiments.sweep --sweep=configs/sweeps/branches.py:VARIANT --workdir=runs/branches

| variant | what is equal |
| --- | --- |
| updates (default) | training steps |
| tokens | sampled tokens, the meta-prover's included |

J from M answers has a standard error of up to 0.5 / sqrt(M), and costs M answers a boundary.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = 'configs/countdown.py:mrt'
BRANCHES = (1, 2, 4, 8)
# A little more than 40 steps sample with the most branches: the others train on to as many.
SAMPLED_TOKENS = 2_100_000


def get_sweep(variant: str = 'updates') -> Iterator[dict[str, Any]]:
    """The changed keys of each run."""
    if variant not in ('updates', 'tokens'):
        raise ValueError(
            f'configs/sweeps/branches.py has no variant {variant!r}; it has updates, tokens'
        )
    equal = {'num_sampled_tokens': SAMPLED_TOKENS} if variant == 'tokens' else {}
    for branches in BRANCHES:
        for seed in range(3):
            yield {'branches': branches, 'seed': seed} | equal
