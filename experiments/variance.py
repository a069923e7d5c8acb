"""What the meta-prover's noise does to the gradient, and what each tool against it is worth.

    python -m experiments.variance --config=configs/countdown.py:mrt --output=NAME

Traces of one step are sampled once and stay fixed. The meta-prover is then asked about them
`--repeats` times with `config.branches` answers a boundary: plainly, with common random numbers and
in two rounds. Each time gives the gradient of the progress advantages, plainly and by every tool of
`kernels/shrinkage.py`. Beside the reference, the gradient at the mean of all these answers, it has
a bias, a variance and, their sum, a mean squared error.

The gradient is seen through `--directions` random directions, normal in all parameters: the mean
square of a gradient's slopes along them is its squared length but for a common factor. Tables go to
NAME.md, the figures to NAME.json; intervals are of 95%, by the jackknife over repeats.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import cli
from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.results_table import write_markdown
from mrt_jax.kernels.progress import Success
from mrt_jax.kernels.shrinkage import careful_stderr, shrink_across_group
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.credit import CreditConfig, Curves, Outcomes, assign_credit
from mrt_jax.methods.experience import Experience, judge_traces
from mrt_jax.methods.prover import prove
from mrt_jax.models.transformer import Transformer
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import Rollout
from mrt_jax.sharding.rules import SAMPLING_RULES, use_mesh
from mrt_jax.training.rl_batch import vote_numbers
from mrt_jax.training.rl_setup import Setup, prepare
from mrt_jax.training.rollouts import sample_traces
from mrt_jax.training.update import join_response, next_token_logprobs

CREDITS = ('scalar', 'episode', 'to_go')
# How the meta-prover is asked: arguments of `prove` beside the answers at a boundary.
ASKED = {
    'plain': {}, 'common random numbers': {'common_draws': True}, 'two rounds': {'rounds': 2},
}  # fmt: skip
_ROLLOUT, _DIRECTIONS, *_ASKED = range(2 + len(ASKED))  # Purposes of random numbers.
_TOGETHER = 8  # directions differentiated at a time

Answers = tuple[np.ndarray, np.ndarray, float]  # J and counts [repeats, B, E], tokens a repeat


def define_flags() -> None:
    """Flags of the command."""
    config_flags.DEFINE_config_file('config', None, 'Config of objective rl.', lock_config=True)
    flags.mark_flag_as_required('config')
    flags.DEFINE_string('output', None, 'Files to write, without their ending.', required=True)
    flags.DEFINE_integer('repeats', 40, 'Times that the meta-prover is asked in each way.', 4)
    flags.DEFINE_integer('directions', 128, 'Directions through which gradients are seen.', 1)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    markdown, figures = (cli.check_output(values.output + end) for end in ('.md', '.json'))
    if values.config.objective != 'rl':
        raise InputError(f'objective={values.config.objective!r}: only steps of rl have gradients')
    results = measure(values.config, values.repeats, values.directions)
    command = f'python -m experiments.variance {" ".join(sys.argv[1:])}'
    figures.write_text(json.dumps({'command': command, **results}, indent=1) + '\n')
    write_markdown(
        markdown, "The meta-prover's noise in the gradient", tables(results), command
    )
    print(Path(markdown).read_text(), end='')


def measure(config: Any, repeats: int, directions: int) -> dict[str, Any]:
    """All figures.

    Returns:
        The sizes, and for each of `credits`: `reference`, the squared length of the gradient;
        `by_traces`, its variance over problems and traces, of progress alone and with the outcome;
        and for each of `tools` `tokens` beside the plain way's, and [value, low, high] of `bias`,
        squared, `variance`, and `error`, their sum at the plain way's number of tokens as a
        multiple of the plain one. Squares and variances are in units of `reference`.

    Raises:
        InputError: see `prepare`; two rounds need an even number of branches; attention is to be
            measured, which runs of training do; no trace makes any progress.
    """
    if config.branches % 2:
        raise InputError(f'branches={config.branches} must be even: two rounds ask for halves')
    if config.attention == 'measured':
        raise InputError(
            "attention='measured' is for training, which keeps to what it has measured: give "
            "attention='auto'"
        )
    setup = prepare(config)
    key = jax.random.key(config.seed)
    params = setup.policy.params
    problems = next(ProblemIterator(setup.problems, config.prompts_per_step, config.seed))
    with use_mesh(setup.mesh, SAMPLING_RULES):
        traces, gold = sample_traces(setup, params, problems, jax.random.fold_in(key, _ROLLOUT))
        experience = judge_traces(setup.reader, traces, gold)
        answers = {
            name: ask(setup, experience, gold, repeats, jax.random.fold_in(key, purpose), **how)
            for purpose, (name, how) in zip(_ASKED, ASKED.items(), strict=True)
        }
        keys_K = jax.random.split(jax.random.fold_in(key, _DIRECTIONS), directions)
        slopes_KBT = token_slopes(
            setup.model, params, experience.rollout, keys_K, setup.sampling.scored_at
        )
    weights_BT = np.asarray(token_weights(experience.rollout.sampled_BT, config.aggregation))
    slopes_KX = (slopes_KBT * weights_BT).reshape(directions, -1)
    return {
        'problems': config.prompts_per_step, 'group_size': config.group_size,
        'branches': config.branches, 'repeats': repeats, 'directions': directions,
        'boundaries': float(experience.episodes.mask_BE.sum(axis=1).mean()),
        'reward': float(experience.rewards_B.mean()),
        'credits': {
            credit: compare(setup, experience, answers, slopes_KX, credit) for credit in CREDITS
        },
    }


def ask(
    setup: Setup, experience: Experience, gold: list[Any], repeats: int, key: jax.Array, **how: Any
) -> Answers:
    """Asks the meta-prover about the same traces again and again."""
    config, proofs = setup.config, []
    for repeat in range(repeats):
        keys_B = split_by_row(jax.random.fold_in(key, repeat), setup.rows)
        proofs.append(prove(
            setup.model, setup.policy.params, setup.reader, experience, gold, keys_B,
            branches=config.branches, max_answer_tokens=config.max_answer_tokens,
            sampling=setup.sampling, tile_rows=config.prover_rows, **how,
        ))  # fmt: skip
        print(f'\r{how or PLAIN}: {repeat + 1} of {repeats}', end='', file=sys.stderr)
    print(file=sys.stderr)
    return (
        np.stack([np.asarray(proof.success.mean_BE) for proof in proofs]),
        np.stack([np.asarray(proof.success.count_BE) for proof in proofs]),
        float(np.mean([proof.sampled_tokens for proof in proofs])),
    )


def token_slopes(
    model: Transformer, params: Any, rollout: Rollout, keys_K: jax.Array, temperature: float = 1.0
) -> np.ndarray:
    """Slope of each response token's log-probability along `random_direction`s, [K, B, T]."""
    tokens_BS, positions_BS = join_response(
        rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.lengths_B, rollout.tokens_BT
    )

    def logprobs(params: Any) -> jax.Array:
        return next_token_logprobs(
            model, params, tokens_BS, positions_BS, temperature=temperature
        )[0]

    @jax.jit
    def slopes(keys_K: jax.Array) -> jax.Array:
        # Derivatives of log-probabilities are defined backwards; backwards of that is forwards.
        logprobs_BS, pull_back = jax.vjp(logprobs, params)
        _, push_forward = jax.vjp(pull_back, logprobs_BS)

        def slope(key: jax.Array) -> jax.Array:
            (slopes_BS,) = push_forward((random_direction(key, params),))
            return slopes_BS

        return jax.lax.map(slope, keys_K, batch_size=_TOGETHER)

    return np.asarray(slopes(keys_K))[:, :, rollout.prompt_tokens_BP.shape[1] :]


def random_direction(key: jax.Array, params: Any) -> Any:
    """A standard normal number for each parameter."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )


@dataclasses.dataclass(frozen=True)
class Tool:
    """A way to the credit.

    Attributes:
        asked: how the meta-prover is asked, see `ASKED`.
        shrinkage, weigh_by_stderr: see `CreditConfig`.
        across_group_first: J is shrunk across the group before that.
    """

    asked: str
    shrinkage: str = 'none'
    weigh_by_stderr: bool = False
    across_group_first: bool = False


PLAIN, COMMON, TWICE = ASKED
TOOLS = {
    PLAIN: Tool(PLAIN),
    'shrunk along the trace': Tool(PLAIN, 'trace'),
    'smoothed along the trace': Tool(PLAIN, 'walk'),
    'shrunk across the group': Tool(PLAIN, 'group'),
    'across the group, then along the trace': Tool(PLAIN, 'trace', across_group_first=True),
    'across the group, then smoothed': Tool(PLAIN, 'walk', across_group_first=True),
    'weights by standard error': Tool(PLAIN, weigh_by_stderr=True),
    COMMON: Tool(COMMON),
    f'{COMMON}, smoothed': Tool(COMMON, 'walk'),
    f'{COMMON}, across the group': Tool(COMMON, 'group'),
    TWICE: Tool(TWICE),
    f'{TWICE}, smoothed': Tool(TWICE, 'walk'),
}


def compare(
    setup: Setup, experience: Experience, answers: dict[str, Answers], slopes_KX: np.ndarray,
    credit: str,
) -> dict[str, Any]:
    """The figures of one credit, see `measure`."""
    config, episodes, rollout = setup.config, experience.episodes, experience.rollout
    mask_BE, boundaries_BE = jnp.asarray(episodes.mask_BE), jnp.asarray(episodes.boundaries_BE)
    own = dataclasses.replace(setup.credit, credit=credit)
    alone = dataclasses.replace(own, outcome_weight=0.0, alpha=1.0)
    outcomes = Outcomes(
        experience.rewards_B, rollout.lengths_B, rollout.sampled_BT,
        vote_numbers(experience.verdicts, config.group_size),
    )

    @functools.partial(jax.jit, static_argnames=('tool', 'of'))
    def advantages(
        success_BE: jax.Array, count_BE: jax.Array, tool: Tool, of: CreditConfig = alone
    ) -> jax.Array:
        if tool.across_group_first:
            success_BE = shrink_across_group(success_BE, count_BE, mask_BE, config.group_size)
        of = dataclasses.replace(
            of, shrinkage=tool.shrinkage, weigh_by_stderr=tool.weigh_by_stderr
        )
        success = Success(success_BE, careful_stderr(success_BE, count_BE), count_BE)
        return assign_credit(of, outcomes, Curves(boundaries_BE, mask_BE, success)).advantages_BT

    def gradients(success_RBE: np.ndarray, count_RBE: np.ndarray, tool: Tool) -> np.ndarray:
        rows = [
            np.asarray(advantages(success_BE, count_BE, tool)).ravel()
            for success_BE, count_BE in zip(success_RBE, count_RBE, strict=True)
        ]
        return np.stack(rows).astype(np.float64) @ slopes_KX.T

    hits_BE = sum((success * count).sum(axis=0) for success, count, _ in answers.values())
    counts_BE = sum(count.sum(axis=0) for _, count, _ in answers.values())
    best_BE = (hits_BE / np.maximum(counts_BE, 1)).astype(np.float32)
    progress_BT, both_BT = (
        np.asarray(advantages(best_BE, counts_BE, TOOLS[PLAIN], of)) for of in (alone, own)
    )
    reference_K = slopes_KX @ progress_BT.ravel().astype(np.float64)
    length = float((reference_K**2).mean())
    if not length:
        raise InputError('no trace makes any progress, so there is no gradient to compare with')

    products = {}
    for name, tool in TOOLS.items():
        off_RK = gradients(*answers[tool.asked][:2], tool) - reference_K
        products[name] = off_RK @ off_RK.T / off_RK.shape[1] / length
    by_traces = functools.partial(variance_of_step, slopes_KX, problems=config.prompts_per_step)
    of_tools = {}
    for name, tool in TOOLS.items():
        tokens = answers[tool.asked][2] / answers[PLAIN][2]
        error = functools.partial(error_beside, tokens=tokens)
        of_tools[name] = {
            'tokens': tokens,
            'bias': jackknife(squared_bias, products[name]),
            'variance': jackknife(variance, products[name]),
            'error': jackknife(error, products[name], products[PLAIN]),
        }
    return {
        'reference': length,
        'by_traces': {
            'progress': by_traces(progress_BT) / length, 'both': by_traces(both_BT) / length
        },
        'tools': of_tools,
    }


def variance_of_step(
    slopes_KX: np.ndarray, advantages_BT: np.ndarray, problems: int
) -> float:
    """Variance of a step's gradient over its problems and their traces, the advantages given.

    Problems are independent, so it is their number times the variance of one's share.
    """
    shares_KB = (slopes_KX.reshape(-1, *advantages_BT.shape) * advantages_BT).sum(axis=-1)
    shares_KP = shares_KB.reshape(len(shares_KB), problems, -1).sum(axis=-1)
    return float(problems * shares_KP.var(axis=1, ddof=1).mean())


def squared_error(products_RR: np.ndarray) -> float:
    """Mean squared distance to the reference, from the products of all repeats' distances."""
    return float(np.diag(products_RR).mean())


def squared_bias(products_RR: np.ndarray) -> float:
    """Squared length of the mean distance, without what variance adds to it; may be below 0."""
    repeats = len(products_RR)
    return float((products_RR.sum() - np.trace(products_RR)) / (repeats * (repeats - 1)))


def variance(products_RR: np.ndarray) -> float:
    """Mean squared distance to the mean of all repeats, unbiased."""
    return squared_error(products_RR) - squared_bias(products_RR)


def error_beside(products_RR: np.ndarray, plain_RR: np.ndarray, tokens: float) -> float:
    """Squared error as a multiple of the plain one, the answers made up to as many tokens.

    Variance falls with the number of answers and bias does not.
    """
    made_up, plain = (
        max(squared_bias(of_RR), 0) + share * variance(of_RR)
        for of_RR, share in ((products_RR, tokens), (plain_RR, 1))
    )
    return made_up / plain


def jackknife(statistic: Callable[..., float], *products: np.ndarray) -> list[float]:
    """A statistic with its 95% interval, by leaving each repeat out: [value, low, high]."""
    repeats = len(products[0])
    without = [
        statistic(*(np.delete(np.delete(of_RR, r, axis=0), r, axis=1) for of_RR in products))
        for r in range(repeats)
    ]
    value = statistic(*products)
    half = 1.96 * ((repeats - 1) * np.var(without)) ** 0.5
    return [value, value - half, value + half]


def tables(results: dict[str, Any]) -> list[Table]:
    """How much of a step's variance is the meta-prover's, and a table for each credit."""
    rows = []
    for credit, of in results['credits'].items():
        noise, both = of['tools'][PLAIN]['variance'][0], of['by_traces']['both']
        rows.append([
            credit, f'{of["by_traces"]["progress"]:.2f}', f'{both:.2f}', f'{noise:.3f}',
            f'{noise / (both + noise):.1%}',
        ])  # fmt: skip
    share = Table(
        title="The meta-prover's share of a step's variance",
        columns=['credit', 'by traces, progress alone', 'by traces, with the outcome',
                 'by answers', "answers' share"],
        rows=rows,
        caption='In units of the squared length of the progress gradient at the reference. '
        f'Variance over problems and traces is estimated from {results["problems"]} problems of '
        f'{results["group_size"]} traces (mean reward {results["reward"]:.2f}), variance over '
        f'answers from {results["repeats"]} repeats with the traces fixed.',
    )
    return [share, *(_table(credit, of, results) for credit, of in results['credits'].items())]


def _table(credit: str, of: dict[str, Any], results: dict[str, Any]) -> Table:
    own = 1 / (len(ASKED) * results['repeats'])
    return Table(
        title=f'Credit {credit}',
        columns=['tool', 'tokens', 'squared bias', 'variance', 'error at equal tokens'],
        rows=[
            [name, f'{one["tokens"]:.2f}',
             *(_text(one[key]) for key in ('bias', 'variance', 'error'))]
            for name, one in of['tools'].items()
        ],
        caption=f'{results["branches"]} answers at each of {results["boundaries"]:.1f} boundaries '
        'a trace. Tokens and error beside plain; bias and variance of the progress gradient in '
        'units of its squared length at the reference, which has itself about '
        f'{own:.1%} of the plain variance.',
    )


def _text(interval: list[float]) -> str:
    value, low, high = interval
    return f'{value:.3f} [{low:.3f}, {high:.3f}]'


if __name__ == '__main__':
    define_flags()
    cli.run(main)
