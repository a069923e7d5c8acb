"""Compares policy gradients with the expectations that they stand for, on tests/tabular.py.

Twice: over all pairs of traces with exact J, weighted with their chances, to float32's precision;
and as the mean over 10,000 groups of four with J from two answers a boundary, within four standard
errors. J is pi_old's throughout: the loss takes advantages as constants, so none of these gradients
moves the meta-prover that J is measured with.

An expectation is a function of the group's size, for weights of `constant` aggregation, 1 / (G T).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from mrt_jax.kernels.progress import Success, success_rate
from mrt_jax.methods.credit import CreditConfig, Curves, Outcomes, Starts, assign_credit
from mrt_jax.training.objective import ObjectiveConfig
from tests.tabular import GOLD, LONGEST, Process, assert_unbiased, policy_gradients

GROUP, ANSWERED, SLOTS = 4, 2, LONGEST + 2
give = jax.jit(assign_credit, static_argnames='config')


@dataclasses.dataclass(frozen=True)
class Rows:
    """Traces of some groups, as arrays of a batch.

    Attributes:
        process: whose traces they are.
        drawn_B: their numbers in its list.
        group_size: G.
        success: J at their boundaries, exact or by answers.
    """

    process: Process
    drawn_B: np.ndarray
    group_size: int
    success: Success

    @property
    def mask_BE(self) -> np.ndarray:
        return self.process.mask_ZE[self.drawn_B]

    @property
    def boundaries_BE(self) -> np.ndarray:
        return self.process.boundaries_ZE[self.drawn_B]

    @property
    def outcomes(self) -> Outcomes:
        process, drawn_B = self.process, self.drawn_B
        answers_Z = process.tokens_ZT[np.arange(len(process.ends_Z)), process.ends_Z + 1]
        return Outcomes(
            rewards_B=np.float32(process.rewards_Z[drawn_B]),
            lengths_B=process.lengths_Z[drawn_B],
            sampled_BT=process.sampled_ZT[drawn_B],
            votes_B=np.int32(answers_Z - GOLD)[drawn_B],
        )


Advantage = Callable[[Rows], np.ndarray]


def credited(**settings) -> Advantage:
    """Advantages [B, T] by `assign_credit`; settings may be functions of the group's size.

    Episodes are credited as they are cut unless `marker` is given: most have no marker here.
    """

    def advantage(rows: Rows) -> np.ndarray:
        size = rows.group_size
        config = CreditConfig(
            **{'group_size': size, 'marker': 'opens'} | {
                name: value(size) if callable(value) else value for name, value in settings.items()
            },
        )
        measured = None
        if config.credit == 'prefix':
            # One J for the group: that of its first row's empty prefix.
            success_B = np.repeat(rows.success.mean_BE[::size, 0], size)
            measured = Starts(success_B, rows.process.stopped_Z[rows.drawn_B])
        elif config.credit != 'none':
            measured = Curves(rows.boundaries_BE, rows.mask_BE, rows.success)
        return np.asarray(give(config, rows.outcomes, measured).advantages_BT)

    return advantage


def gradients(rows: Rows, advantage: Advantage, aggregation='constant', ratio='token'):
    """Gradient of each group, [N, S, V]."""
    objective = ObjectiveConfig(0.2, 0.2, 0.0, 0.0, aggregation, ratio)
    advantages_BT = advantage(rows)
    return policy_gradients(
        rows.process, rows.drawn_B.reshape(-1, rows.group_size),
        advantages_BT.reshape(-1, rows.group_size, SLOTS), objective,
    )


@functools.cache
def pairs(process: Process, stopped: int = 0) -> tuple[Rows, np.ndarray]:
    """All groups of two with exact J, the second of them stopped or not, and their chances."""
    ends_in = process.stopped_Z == (stopped > 0)
    kinds = [np.flatnonzero(process.chances_Z * kind > 1e-12) for kind in (
        ~process.stopped_Z, ends_in,
    )]  # fmt: skip
    drawn_N2 = np.stack(np.meshgrid(*kinds), axis=-1).reshape(-1, 2)
    drawn_B = drawn_N2.ravel()
    success_BE = np.float32(process.success_ZE[drawn_B])
    exact = Success(success_BE, np.zeros_like(success_BE), np.full(success_BE.shape, 10**6))
    return Rows(process, drawn_B, 2, exact), process.chances_Z[drawn_N2].prod(axis=1)


@functools.cache
def draws(process: Process, stopped: int = 0) -> Rows:
    """10,000 groups of four, the last ones stopped, with J from two answers."""
    rng = np.random.default_rng(0)
    drawn_B = process.draw(rng, GROUP, stopped).ravel()
    correct_BEM = process.ask(rng, drawn_B, ANSWERED)
    mask_BEM = np.broadcast_to(process.mask_ZE[drawn_B][..., None], correct_BEM.shape)
    return Rows(process, drawn_B, GROUP, success_rate(correct_BEM, mask_BEM))


def check(
    process: Process, advantage: Advantage, expected: Callable[[int], np.ndarray],
    *, stopped: bool = False, **objective,
) -> None:
    """Compares both ways; `stopped`: half of each group is stopped at once."""
    rows, chances_N = pairs(process, int(stopped))
    found_NSV = gradients(rows, advantage, **objective)
    found_SV = np.einsum('n,nsv->sv', chances_N, found_NSV)
    np.testing.assert_allclose(found_SV, expected(2), atol=3e-6)
    assert np.abs(expected(GROUP)).max() > 1e-3
    drawn = draws(process, GROUP // 2 * stopped)
    assert_unbiased(gradients(drawn, advantage, **objective), expected(GROUP))
