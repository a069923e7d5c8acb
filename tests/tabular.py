"""A reasoning process so small that all its traces can be listed, so every expectation is exact.

Tokens of a thought move between three states (`u` up, `d` down), open an episode (`|`) or end the
thought (`.`, sampled, or put by force behind three tokens). Then comes the answer: `g` is right,
`x` and `y` are not. Each token is drawn from a softmax of its state's row of theta_SV: over the
first four columns within the thought, over the last three for the answer. The meta-prover answers
from the state at a boundary with the same columns, so J there is the chance of `g`.

Letters beside those of `mrt_jax/__init__.py`: Z traces of the list, X terms of an objective, N
draws.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.kernels.episodes import AttemptMarkers, EpisodeRule, TokenBytes, TokenWindows, segment
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.training.objective import ObjectiveConfig, UpdateBatch, policy_loss

TEXTS = 'ud|.gxy'
UP, DOWN, OPEN, STOP, GOLD, *_WRONG = range(len(TEXTS))
MOVES, ANSWERS = slice(UP, GOLD), slice(GOLD, None)
STATES, LONGEST = 3, 3
MARKERS, WINDOWS = AttemptMarkers('|'), TokenWindows(2)
DRAWS = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """A policy with the list of its traces.

    Attributes:
        theta_SV: float64, the policy.
        tokens_ZT: int32, thought, `.`, answer, padding.
        states_ZT: int32, the state that each token is drawn in.
        sampled_ZT: bool, drawn by the policy: no padding, no `.` put by force.
        ends_Z: int32, tokens of each thought.
        boundaries_ZE, mask_ZE: the episodes, by `segment`.
        success_ZE: float64, J at each boundary; 0 off the mask.
        rewards_Z: 1 for the answer `g`, else 0.
        stopped_Z: bool, `.` was put by force before any thought; only with `fork`.
        chances_Z: float64, probability of each trace among those that are stopped, or are not.
    """

    theta_SV: np.ndarray
    tokens_ZT: np.ndarray
    states_ZT: np.ndarray
    sampled_ZT: np.ndarray
    ends_Z: np.ndarray
    boundaries_ZE: np.ndarray
    mask_ZE: np.ndarray
    success_ZE: np.ndarray
    rewards_Z: np.ndarray
    stopped_Z: np.ndarray
    chances_Z: np.ndarray

    @property
    def lengths_Z(self) -> np.ndarray:
        """Sampled tokens."""
        return self.sampled_ZT.sum(axis=1)

    def logprobs(self, theta_SV: np.ndarray) -> np.ndarray:
        """Log-probability of each token by another policy, 0 where not sampled: [Z, T]."""
        table_SV = log_table(theta_SV)
        return np.where(self.sampled_ZT, table_SV[self.states_ZT, self.tokens_ZT], 0)

    def expectation(
        self, theta_SV: np.ndarray, values_ZX: np.ndarray, varied_ZXT: np.ndarray | bool = True
    ) -> float:
        """Sum over terms of the value, where the tokens `varied` come from theta.

        The other tokens come from the process's own policy, pi_old; values do not depend on theta.
        """
        own_Z1T, old_Z1T = self.logprobs(theta_SV)[:, None], self.logprobs(self.theta_SV)[:, None]
        chances_ZX = np.exp(np.where(varied_ZXT, own_Z1T, old_Z1T).sum(axis=-1))
        return (chances_ZX * values_ZX).sum()

    def slope(self, values_ZX: np.ndarray, varied_ZXT: np.ndarray | bool = True) -> np.ndarray:
        """Gradient of `expectation` at pi_old by central differences in float64, [S, V]."""
        return differences(
            lambda theta_SV: self.expectation(theta_SV, values_ZX, varied_ZXT), self.theta_SV
        )

    def draw(self, rng: np.random.Generator, group_size: int = 1, stopped: int = 0) -> np.ndarray:
        """Traces of DRAWS groups, the last `stopped` of each such: numbers [N, G]."""
        kinds = [self.chances_Z * (self.stopped_Z == stops) for stops in (False, True)]
        return np.concatenate([
            rng.choice(len(self.chances_Z), (DRAWS, rows), p=chances_Z)
            for rows, chances_Z in zip((group_size - stopped, stopped), kinds, strict=True) if rows
        ], axis=1)  # fmt: skip

    def ask(self, rng: np.random.Generator, drawn_B: np.ndarray, branches: int) -> np.ndarray:
        """Answers of the meta-prover at the boundaries of drawn traces: bool[B, E, M]."""
        success_BE1 = self.success_ZE[drawn_B][..., None]
        return rng.random((*success_BE1.shape[:2], branches)) < success_BE1


def make_process(
    rule: EpisodeRule = MARKERS, *, stops: bool = True, start: int = 0, fork: bool = False,
    seed: int = 0,
) -> Process:
    """The process under a random policy.

    Args:
        rule: what an episode is.
        stops: whether thoughts may end by themselves.
        start: the state that traces begin in.
        fork: adds, at the end of the list, the traces that are stopped at once, so that only their
            answers are sampled: the groups of MRT (RL).
        seed: of the policy.
    """
    theta_SV = np.random.default_rng(seed).normal(0, 0.8, (STATES, len(TEXTS)))
    if not stops:
        theta_SV[:, STOP] = -60.0  # As good as never: e^-60 is below what float64 adds to 1.
    thoughts = [
        thought for size in range(LONGEST + 1)
        for thought in itertools.product((UP, DOWN, OPEN), repeat=size)
    ] + [()] * fork
    traces = [(*thought, STOP, answer) for thought in thoughts for answer in (GOLD, *_WRONG)]
    slots = LONGEST + 2
    tokens_ZT = np.array([(*trace, *[0] * (slots - len(trace))) for trace in traces], np.int32)
    lengths_Z = np.array([len(trace) for trace in traces])
    ends_Z = lengths_Z - 2
    stopped_Z = np.arange(len(traces)) >= len(traces) - fork * (1 + len(_WRONG))
    places_T = np.arange(slots)
    forced_Z = (ends_Z == LONGEST) | stopped_Z
    forced_ZT = (places_T == ends_Z[:, None]) & forced_Z[:, None]
    steps_ZT = np.where(tokens_ZT == UP, 1, np.where(tokens_ZT == DOWN, -1, 0))
    states_ZT = np.full_like(tokens_ZT, start)
    for place in range(1, slots):
        moved_Z = states_ZT[:, place - 1] + steps_ZT[:, place - 1]
        states_ZT[:, place] = np.clip(moved_Z, 0, STATES - 1)
    episodes = segment(
        tokens_ZT, ends_Z, TokenBytes.build([text.encode() for text in TEXTS]), rule, LONGEST
    )
    at_ZE = np.take_along_axis(states_ZT, episodes.boundaries_BE, axis=1)
    process = Process(
        theta_SV=theta_SV,
        tokens_ZT=tokens_ZT,
        states_ZT=states_ZT,
        sampled_ZT=(places_T < lengths_Z[:, None]) & ~forced_ZT,
        ends_Z=ends_Z,
        boundaries_ZE=episodes.boundaries_BE,
        mask_ZE=episodes.mask_BE,
        success_ZE=np.where(episodes.mask_BE, np.exp(log_table(theta_SV))[at_ZE, GOLD], 0),
        rewards_Z=(tokens_ZT[np.arange(len(traces)), ends_Z + 1] == GOLD).astype(np.float64),
        stopped_Z=stopped_Z,
        chances_Z=np.ones(len(traces)),
    )
    chances_Z = np.exp(process.logprobs(theta_SV).sum(axis=1))
    for kind_Z in (stopped_Z, ~stopped_Z):
        chances_Z[kind_Z] /= max(chances_Z[kind_Z].sum(), 1e-30)
    return dataclasses.replace(process, chances_Z=chances_Z)


def log_table(theta_SV: np.ndarray) -> np.ndarray:
    """Log-probability of every token in every state, [S, V]."""
    parts = [theta_SV[:, MOVES], theta_SV[:, ANSWERS]]
    return np.concatenate(
        [part - np.log(np.exp(part).sum(axis=1, keepdims=True)) for part in parts], axis=1
    )


def differences(function, theta_SV: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Gradient by central differences, [S, V]."""
    slope_SV = np.zeros_like(theta_SV)
    for place in np.ndindex(theta_SV.shape):
        shift_SV = np.zeros_like(theta_SV)
        shift_SV[place] = step
        slope_SV[place] = (function(theta_SV + shift_SV) - function(theta_SV - shift_SV)) / step / 2
    return slope_SV


def policy_gradients(
    process: Process, drawn_NG: np.ndarray, advantages_NGT: np.ndarray, objective: ObjectiveConfig
) -> np.ndarray:
    """Gradient ascended by the project's loss, each group a batch of its own: [N, S, V].

    At ratio 1, before the first update.
    """
    states_ZT, tokens_ZT, sampled_ZT = process.states_ZT, process.tokens_ZT, process.sampled_ZT
    loss = policy_loss(objective)

    def logprobs(theta_SV: jax.Array, drawn_G: jax.Array) -> jax.Array:
        moves_SV, answers_SV = theta_SV[:, MOVES], theta_SV[:, ANSWERS]
        table_SV = jnp.concatenate(
            [jax.nn.log_softmax(moves_SV), jax.nn.log_softmax(answers_SV)], axis=1
        )
        table_GT = table_SV[jnp.asarray(states_ZT)[drawn_G], jnp.asarray(tokens_ZT)[drawn_G]]
        return jnp.where(jnp.asarray(sampled_ZT)[drawn_G], table_GT, 0)

    def ascended(theta_SV: jax.Array, drawn_G: jax.Array, advantages_GT: jax.Array) -> jax.Array:
        tokens_GT, sampled_GT = jnp.asarray(tokens_ZT)[drawn_G], jnp.asarray(sampled_ZT)[drawn_G]
        batch = UpdateBatch(
            tokens_BT=tokens_GT,
            positions_BT=jnp.broadcast_to(jnp.arange(tokens_GT.shape[1]), tokens_GT.shape),
            weights_BT=token_weights(sampled_GT, objective.aggregation),
            old_logprobs_BT=logprobs(jnp.asarray(process.theta_SV, jnp.float32), drawn_G),
            advantages_BT=advantages_GT,
        )
        return -loss(logprobs(theta_SV, drawn_G), jnp.zeros_like(advantages_GT), batch)[0]

    per_group = jax.jit(jax.vmap(jax.grad(ascended), in_axes=(None, 0, 0)))
    theta_SV = jnp.asarray(process.theta_SV, jnp.float32)
    return np.asarray(per_group(theta_SV, drawn_NG, jnp.asarray(advantages_NGT, jnp.float32)))


def assert_unbiased(estimates_NX: np.ndarray, expected_X: np.ndarray | float) -> None:
    """The mean over draws is within four of its standard errors of the expectation."""
    estimates_NX = np.asarray(estimates_NX, np.float64)
    assert len(estimates_NX) == DRAWS
    error_X = estimates_NX.std(axis=0, ddof=1) / DRAWS**0.5
    off_X = np.abs(estimates_NX.mean(axis=0) - expected_X)
    assert (off_X <= 4 * error_X + 1e-6).all(), f'off by {(off_X / (error_X + 1e-9)).max():.1f} se'
