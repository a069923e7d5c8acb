"""How much progress should count beside the outcome: the authors' grid of alpha over three seeds.

python -m experiments.sweep --sweep=configs/sweeps/alpha.py:VARIANT --workdir=runs/alpha

The variants are those of configs/countdown.py: mrt (default), mrt_to_go, mrt_scalar, mrt_rl. The
grid is that of the authors' runs with backtracking (MRT section 3.2); 0 trains with outcome reward
alone, and asks the meta-prover all the same.
"""

from collections.abc import Iterator
from typing import Any

from configs.countdown import RECIPES

CONFIG = 'configs/countdown.py:mrt'
VARIANTS = ('mrt', 'mrt_to_go', 'mrt_scalar', 'mrt_rl')


def get_sweep(variant: str = 'mrt') -> Iterator[dict[str, Any]]:
    """The changed keys of each run."""
    if variant not in VARIANTS:
        raise ValueError(
            f'configs/sweeps/alpha.py has no variant {variant!r}; it has {", ".join(VARIANTS)}'
        )
    for alpha in (0.0, 0.2, 0.4, 0.8, 1.6):
        for seed in range(3):
            yield RECIPES[variant] | {'alpha': alpha, 'seed': seed}
