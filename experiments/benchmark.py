"""Times the parts of a step on this machine, beside the plain ways of computing the same.

    python -m experiments.benchmark --output=FILE.json

Parts (`--parts`, default all):

    rollouts `--requests` responses of `--new_tokens` to prompts of `--prompt_tokens`, in batches of
             `--batch`; and as many of ragged lengths (log-normal, the mean a quarter of the most),
             in batches and with slots that are refilled
    kernels  progress, cumulative and normalized regret of `--traces_in_file` traces with 64
             boundaries, and of a quarter of them: cost must be linear
    prover   answers at every boundary of `--traces` traces, forked from their caches, beside the
             same number of answers with each boundary's prefix filled once and shared by its
             branches, and with each branch's prefix filled by itself

The prover's parts use random weights of the shape `--shape` and run for all of `--answer_tokens`.
The two plain ways run on `--sampled_traces` of the traces, and their time is scaled up. Times are
the least of `--repeats` runs behind one that compiles; ratios are of times of the same call. The
table goes to standard output, everything else to the file.
"""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from experiments import cli
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from mrt_jax.models.transformer import Transformer

PARTS = ('rollouts', 'kernels', 'prover')
# Shapes by name: see `models.config.ModelConfig`.
SHAPES = {
    'smollm2_135m': dict(
        family='llama', vocab_size=49152, width=576, num_layers=30, num_heads=9, num_kv_heads=3,
        head_width=64, ffn_width=1536, max_positions=8192, tie_embeddings=True,
    ),
    'countdown': dict(
        family='llama', vocab_size=64, width=128, num_layers=5, num_heads=2, num_kv_heads=1,
        head_width=64, ffn_width=512, max_positions=2048, tie_embeddings=True,
    ),
}
_TERMINATION_TOKENS = 8

Rows = list[dict[str, Any]]


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_list('parts', list(PARTS), f'What to time: {", ".join(PARTS)}.')
    flags.DEFINE_string('output', None, 'File for the figures, JSON.', required=True)
    flags.DEFINE_enum('shape', 'smollm2_135m', sorted(SHAPES), 'Shape of the policy.')
    flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of matrix products.')
    flags.DEFINE_integer('requests', 128, 'Responses, a multiple of --batch.', 1)
    flags.DEFINE_integer('batch', 32, 'Rows decoded together.', 1)
    flags.DEFINE_integer('prompt_tokens', 128, 'Tokens of a prompt.', 1)
    flags.DEFINE_integer('new_tokens', 256, 'Most tokens of a response.', 1)
    flags.DEFINE_integer('traces', 16, 'Traces that the meta-prover answers on.', 1)
    flags.DEFINE_integer('sampled_traces', 1, 'Of these, traces for the plain ways.', 1)
    flags.DEFINE_integer('trace_tokens', 1024, 'Tokens of a trace, its prompt included.', 2)
    flags.DEFINE_integer('boundaries', 8, 'Boundaries of a trace, evenly apart.', 1)
    flags.DEFINE_integer('branches', 8, 'Answers at a boundary.', 1)
    flags.DEFINE_integer('answer_tokens', 32, 'Tokens of an answer.', 1)
    flags.DEFINE_integer('traces_in_file', 1_000_000, 'Traces for the kernels.', 4)
    flags.DEFINE_integer('repeats', 1, 'Runs that are timed.', 1)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    if unknown := sorted({*values.parts} - {*PARTS}):
        raise InputError(f'--parts={unknown[0]} is unknown; known: {", ".join(PARTS)}')
    if values.sampled_traces > values.traces:
        raise InputError(f'--sampled_traces={values.sampled_traces} is more than --traces')
    if values.requests % values.batch:
        raise InputError(f'--requests={values.requests} is no multiple of --batch={values.batch}')
    if values.trace_tokens < values.boundaries:
        raise InputError(f'--boundaries={values.boundaries} is more than --trace_tokens')
    output = Path(values.output)
    with cli.validating('--output'):
        if not output.parent.is_dir():
            raise InputError(f'--output={output}: {output.parent} is no folder')
    import jax

    measured: dict[str, Rows] = {}
    for part in values.parts:
        print(f'timing: {part}', file=sys.stderr)
        measured[part] = TIMERS[part]()
    report = {
        'command': f'python -m experiments.benchmark {" ".join(sys.argv[1:])}',
        'device': str(jax.devices()[0].device_kind), 'devices': jax.device_count(),
        'machine': platform.machine(), 'jax': jax.__version__, 'parts': measured,
        'peak_host_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    output.write_text(json.dumps(report, indent=1) + '\n')
    print(render(measured))


def render(measured: dict[str, Rows]) -> str:
    """Tables in Markdown, one a part."""
    tables = []
    for part, rows in measured.items():
        columns = list(rows[0])
        cells = [[_show(row[column]) for column in columns] for row in rows]
        lines = [columns, ['---'] * len(columns), *cells]
        tables.append('\n'.join([f'{part}:', '', *(f'| {" | ".join(line)} |' for line in lines)]))
    return '\n\n'.join(tables)


def time_kernels() -> Rows:
    """Progress and regret of traces from a file, in NumPy and in a jitted program."""
    import jax

    from mrt_jax.kernels.progress import progress
    from mrt_jax.kernels.regret import cumulative_regret, normalized_regret

    count, boundaries = flags.FLAGS.traces_in_file, 64
    rng = np.random.default_rng(0)
    success_BE = rng.random((count, boundaries), dtype=np.float32)
    tokens_BE = np.cumsum(rng.random((count, boundaries), dtype=np.float32), axis=1)
    mask_BE = np.arange(boundaries) < rng.integers(1, boundaries + 1, count)[:, None]
    budgets_C = np.array([16.0], np.float32)
    kernels: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        'progress, jitted': (jax.jit(progress), (success_BE, mask_BE)),
        'cumulative regret, jitted': (jax.jit(cumulative_regret), (success_BE, mask_BE)),
        'normalized regret, jitted': (
            jax.jit(lambda *arrays: normalized_regret(*arrays, budgets_C)),
            (tokens_BE, success_BE, mask_BE),
        ),
        'normalized regret, NumPy': (
            lambda *arrays: normalized_regret(*arrays, budgets_C),
            (tokens_BE, success_BE, mask_BE),
        ),
    }
    rows = []
    for name, (kernel, arrays) in kernels.items():
        place = np.asarray if 'NumPy' in name else jax.device_put
        whole, quarter = (
            _time(kernel, *(place(x[:most]) for x in arrays))[0] for most in (count, count // 4)
        )
        rows.append({
            'kernel': name, 'traces': count, 'seconds': whole, 'seconds for a quarter': quarter,
        })
    return rows


def time_prover() -> Rows:
    """The meta-prover forked from the traces' caches, and the two plain ways."""
    import jax
    import jax.numpy as jnp

    from mrt_jax.models.transformer import init_params
    from mrt_jax.sampling.fork import prove_branches, same_termination
    from mrt_jax.sampling.phases import Budget, Terminals
    from mrt_jax.sampling.processors import SamplingConfig
    from mrt_jax.sampling.sampler import PromptBatch, fill_cache, sample_rollouts

    values = flags.FLAGS
    model = _network()
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    traces, length = values.traces, values.trace_tokens
    tokens_BT = rng.integers(0, model.config.vocab_size, (traces, length)).astype(np.int32)
    text = rng.integers(0, model.config.vocab_size, _TERMINATION_TOKENS).tolist()
    ends_E = [length * (k + 1) // values.boundaries for k in range(values.boundaries)]
    branches, answer_tokens, sampling = values.branches, values.answer_tokens, SamplingConfig()
    terminals = Terminals()  # Nothing ends an answer early.

    def prompts(rows: list[np.ndarray]) -> PromptBatch:
        lengths_B = jnp.full(len(rows), len(rows[0]), jnp.int32)
        return PromptBatch(jnp.asarray(np.stack(rows)), lengths_B)

    def answer(cache: Any, ends_BE: np.ndarray) -> Any:
        mask_BE = jnp.ones(ends_BE.shape, bool)
        return prove_branches(
            model, params, cache, jnp.zeros(len(ends_BE), jnp.int32),
            jnp.asarray(ends_BE, jnp.int32), mask_BE, same_termination(text, mask_BE),
            jax.random.split(jax.random.key(1), len(ends_BE)), terminals, branches=branches,
            max_answer_tokens=answer_tokens, sampling=sampling,
        ).tokens_BEMA

    def forked(cache: Any) -> Any:
        return answer(cache, np.tile(ends_E, (traces, 1)))

    def shared(rows: np.ndarray) -> Any:
        answers = []
        for end in ends_E:
            prefixes = fill_cache(model, params, prompts([*rows[:, :end]]))
            answers.append(answer(prefixes, np.full((len(rows), 1), end)))
        return answers

    def alone(rows: np.ndarray) -> Any:
        budget = Budget(max_thinking_tokens=0, max_answer_tokens=answer_tokens)
        return [
            sample_rollouts(
                model, params,
                prompts([np.append(row[:end], text) for row in rows for _ in range(branches)]),
                jax.random.split(jax.random.key(1), len(rows) * branches), terminals,
                budget=budget, sampling=sampling,
            ).tokens_BT
            for end in ends_E
        ]

    cache = jax.block_until_ready(fill_cache(model, params, prompts([*tokens_BT])))
    some, scale = tokens_BT[: values.sampled_traces], traces / values.sampled_traces
    timed = {
        'forked from the trace': (*_time(forked, cache), 1.0),
        "each boundary's prefix once": (*_time(shared, some), scale),
        "each branch's prefix": (*_time(alone, some), scale),
    }
    fork_seconds = timed['forked from the trace'][0]
    sampled = traces * values.boundaries * branches * answer_tokens
    return [
        {
            'meta-prover': name, 'seconds': seconds * factor,
            'answer tokens/s': sampled / (seconds * factor),
            'times the fork': seconds * factor / fork_seconds, 'seconds to compile': compiling,
        }
        for name, (seconds, compiling, factor) in timed.items()
    ]


def time_rollouts() -> Rows:
    """Responses of one length and of ragged lengths."""
    import jax
    import jax.numpy as jnp

    from mrt_jax.models.transformer import init_params
    from mrt_jax.sampling.phases import Budget, Terminals
    from mrt_jax.sampling.processors import SamplingConfig
    from mrt_jax.sampling.sampler import PromptBatch, sample_rollouts
    from mrt_jax.sampling.slots import sample_in_slots

    values = flags.FLAGS
    model = _network()
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    requests, batch, most = values.requests, values.batch, values.new_tokens
    tokens_NP = rng.integers(0, model.config.vocab_size, (requests, values.prompt_tokens))
    keys_N = jax.random.split(jax.random.key(1), requests)
    ragged_N = np.exp(rng.normal(np.log(most / 4) - 0.5, 1.0, requests))
    limits = {
        'even': np.full(requests, most), 'ragged': np.clip(np.rint(ragged_N), 1, most).astype(int),
    }
    options = dict(
        budget=Budget(max_thinking_tokens=0, max_answer_tokens=most), sampling=SamplingConfig()
    )

    def prompts(chosen: slice, limits_N: np.ndarray) -> PromptBatch:
        tokens_BP = jnp.asarray(tokens_NP[chosen], jnp.int32)
        lengths_B = jnp.full(len(tokens_BP), values.prompt_tokens, jnp.int32)
        return PromptBatch(tokens_BP, lengths_B, jnp.asarray(limits_N[chosen], jnp.int32))

    def in_batches(limits_N: np.ndarray) -> Any:
        chosen = [slice(start, start + batch) for start in range(0, requests, batch)]
        return [
            sample_rollouts(
                model, params, prompts(rows, limits_N), keys_N[rows], Terminals(), **options
            ).tokens_BT
            for rows in chosen
        ]

    def refilled(limits_N: np.ndarray) -> Any:
        return sample_in_slots(
            model, params, prompts(slice(None), limits_N), keys_N, Terminals(), **options,
            slots=batch, keep_cache=False,
        ).tokens_BT

    rows = []
    for lengths, limits_N in limits.items():
        plain, plain_compiling = _time(in_batches, limits_N)
        slots, slots_compiling = _time(refilled, limits_N)
        for name, seconds, compiling in (
            ('in batches', plain, plain_compiling), ('slots refilled', slots, slots_compiling)
        ):
            rows.append({
                'rollouts': f'{lengths}, {name}', 'tokens': int(limits_N.sum()),
                'seconds': seconds, 'tokens/s': limits_N.sum() / seconds,
                'times the batches': plain / seconds, 'seconds to compile': compiling,
            })
    return rows


def _network() -> 'Transformer':
    from mrt_jax.models.config import ModelConfig
    from mrt_jax.models.transformer import Transformer

    return Transformer(ModelConfig(**SHAPES[flags.FLAGS.shape]), dtype=flags.FLAGS.dtype)


def _time(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds of the fastest run, and by how much the first took longer."""
    import jax

    clocks = []
    for _ in range(flags.FLAGS.repeats + 1):
        started = time.monotonic()
        jax.block_until_ready(function(*arguments))
        clocks.append(time.monotonic() - started)
    return min(clocks[1:]), max(clocks[0] - min(clocks[1:]), 0.0)


def _show(value: Any) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)


TIMERS = {'rollouts': time_rollouts, 'kernels': time_kernels, 'prover': time_prover}


if __name__ == '__main__':
    define_flags()
    cli.run(main)
