"""The pool of prefixes of MRT (RL), made by the policy of one step for the steps that follow.

A pool is a file of the workdir, `prefixes/STEP.jsonl`, one prefix a line: `step` of the policy that
made it, `batch` of the run that it is for, and the fields of `methods.prefixes.Prefix`. A run that
goes on reads the pool that it was using, and makes the next when it is due.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.methods.prefixes import Prefix
from mrt_jax.sharding.distributed import leads
from mrt_jax.tasks.task import Problem
from mrt_jax.training.collect import Collected, collect_continuations, sample_prefixes
from mrt_jax.training.rl_setup import Setup
from mrt_jax.whole_file import whole_file

Pool = list[list[list[Prefix]]]  # batches, their problems, prefixes of each


class PrefixSource:
    """Collects the traces of each step from the pool that is in use.

    Args:
        setup: of the run.
        batches: its problems; the batch of step n is at position n.
        workdir: pools lie in its `prefixes/`.
    """

    def __init__(self, setup: Setup, batches: ProblemIterator, workdir: Path) -> None:
        self._setup, self._batches, self._workdir = setup, batches, workdir
        self._made_at, self._pool = -1, []

    def collect(self, params: Any, step: int, key: jax.Array) -> Collected:
        """The traces of a step; makes the pool anew where it is due, by `params`.

        Metrics besides those of `collect_continuations`: `prefix_staleness`, steps since the policy
        that has made the prefixes; `sampled_tokens` includes what they took.

        Raises:
            InputError: see `read_pool`.
        """
        every = self._setup.config.refresh_prefixes_every
        made_at = step - step % every
        sampled, started = 0, time.monotonic()
        if made_at != self._made_at:
            file = self._workdir / 'prefixes' / f'{made_at:08d}.jsonl'
            coming = self._batches.batches(made_at, every)
            if made_at == step:
                self._pool, sampled = sample_prefixes(self._setup, params, coming, key)
                if leads():
                    write_pool(file, made_at, self._pool)
            else:
                each = self._setup.config.prefixes_per_group
                self._pool = read_pool(file, coming, each)
            self._made_at = made_at
        made = time.monotonic()
        collected = collect_continuations(
            self._setup, params, next(self._batches), self._pool[step - made_at], key
        )
        metrics = collected.metrics | {
            'sampled_tokens': collected.metrics['sampled_tokens'] + sampled,
            'prefix_staleness': step - made_at,
            'prefix_seconds': made - started,
        }
        return dataclasses.replace(collected, metrics=metrics)


def write_pool(file: Path, step: int, pool: Pool) -> None:
    """Writes a pool; the file appears whole or not at all."""
    file.parent.mkdir(exist_ok=True)
    with whole_file(file) as lines:
        for batch, groups in enumerate(pool):
            for prefix in (prefix for group in groups for prefix in group):
                line = {'step': step, 'batch': step + batch} | dataclasses.asdict(prefix)
                lines.write(json.dumps(line) + '\n')


def read_pool(file: Path, batches: Sequence[Sequence[Problem]], each: int) -> Pool:
    """Reads a pool.

    Args:
        file: that `write_pool` has written.
        batches: the problems that it must be for.
        each: prefixes of a problem.

    Raises:
        InputError: it is gone, broken, or of other problems.
    """
    try:
        rows = [json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()]
        names = [field.name for field in dataclasses.fields(Prefix)]
        found = [Prefix(**{name: row[name] for name in names}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{file}: the prefixes that this run goes on from cannot be read ({error}); put the '
            'file back, or begin in a new workdir'
        ) from error
    wanted = [problem.id for batch in batches for problem in batch for _ in range(each)]
    if [prefix.problem for prefix in found] != wanted:
        raise InputError(
            f'{file}: holds prefixes of other problems than this run takes next; go on with the '
            'config that it was made with, or begin in a new workdir'
        )
    prefixes = (dataclasses.replace(prefix, tokens=tuple(prefix.tokens)) for prefix in found)
    return [[[next(prefixes) for _ in range(each)] for _ in batch] for batch in batches]
