"""How much progress should count beside the outcome: the authors' grid of alpha over three seeds.

python -m experiments.sweep --sweep=configs/sweeps/alpha.py:VARIANT --workdir=runs/alpha

| variant | credit |
| --- | --- |
| episode (default) | progress of each episode, on that episode's tokens |
| to_go | progress from each episode to the trace's end |
| scalar | progress summed over the trace |

The grid is that of the authors' runs with backtracking (MRT section 3.2); 0 trains with outcome
reward alone, and asks the meta-prover all the same.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = 'configs/countdown.py:mrt'


def get_sweep(variant: str = 'episode') -> Iterator[dict[str, Any]]:
    """The changed keys of each run."""
    if variant not in ('episode', 'to_go', 'scalar'):
        raise ValueError(
            f'configs/sweeps/alpha.py has no variant {variant!r}; it has episode, to_go, scalar'
        )
    for alpha in (0.0, 0.2, 0.4, 0.8, 1.6):
        for seed in range(3):
            yield {'credit': variant, 'alpha': alpha, 'seed': seed}
