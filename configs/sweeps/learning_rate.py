"""Which learning rate suits outcome reward and MRT on countdown, over two seeds.

python -m experiments.sweep --sweep=configs/sweeps/learning_rate.py:VARIANT --workdir=runs/rate

| variant | credit |
| --- | --- |
| all (default) | of both, so that neither is compared at the other's rate |
| grpo | outcome reward |
| mrt | outcome reward and the progress of each episode |
"""

from collections.abc import Iterator
from typing import Any

CONFIG = 'configs/countdown.py:mrt'
CREDITS = {'all': ('none', 'episode'), 'grpo': ('none',), 'mrt': ('episode',)}


def get_sweep(variant: str = 'all') -> Iterator[dict[str, Any]]:
    """The changed keys of each run."""
    if variant not in CREDITS:
        raise ValueError(
            f'configs/sweeps/learning_rate.py has no variant {variant!r}; it has '
            f'{", ".join(CREDITS)}'
        )
    for credit in CREDITS[variant]:
        for rate in (3e-5, 7.5e-5, 1.5e-4, 3e-4, 6e-4):
            for seed in range(2):
                yield {'credit': credit, 'optimizer.learning_rate': rate, 'seed': seed}
