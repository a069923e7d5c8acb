"""Runs small enough for tests: an untrained policy that the countdown tokeniser reads."""

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import ml_collections
import pytest

from configs import countdown
from mrt_jax.kernels.episodes import TokenWindows
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, WORDS, countdown_tokenizer
from mrt_jax.tasks.task import Task, Verdict, get_task
from mrt_jax.training.metrics import MetricsWriter
from mrt_jax.training.reinforcement import train_policy
from tests.tiny import tiny_model


def save_untrained_policy(
    folder: Path, sharpness: float = 8, words: Sequence[str] = WORDS,
    template: str = CHAT_TEMPLATE,
) -> str:
    """A tiny policy folder whose traces have attempts and ends now and then.

    With a `sharpness` of 1 its tokens are nearly uniform; with 8 some of them repeat.
    """
    tokenizer = countdown_tokenizer(words)
    # Divisible by 8, for meshes.
    model, params = tiny_model(vocab_size=-(-tokenizer.vocab_size // 8) * 8)
    params = {**params, 'embedding': sharpness * params['embedding']}
    chat = ChatTemplate(template, tokenizer.special_tokens)
    eos_ids = (*tokenizer.eos_ids, *range(20, 40))
    return str(save_policy(folder, Policy(model.config, params, tokenizer, chat, eos_ids)))


def small_run(
    policy: str, variant: str = 'mrt', recipes: ModuleType = countdown, **changes
) -> ml_collections.ConfigDict:
    """A variant of a config file at the smallest size."""
    config = recipes.get_config(variant)
    small = dict(
        policy=policy, num_steps=4, checkpoint_every=1, prompts_per_step=2, group_size=4,
        max_thinking_tokens=24, max_answer_tokens=4, max_boundaries=3, branches=2,
        row_tokens=64, microbatch_rows=8,
    )
    config.update(small | changes)
    return config


# Of an iteration of STaR.
SMALL_STAR = dict(
    problems_per_iteration=4, steps_per_iteration=2, rows_per_step=8, max_answer_tokens=8,
    branches=4,
)


def get_easy_task(name: str, **texts: str) -> Task:
    """A task in which numbers are right: an untrained policy has something to keep, and to learn.
    """
    return dataclasses.replace(get_task(name, **texts), check=_check_number, rule=TokenWindows(8))


def _check_number(response: str, answer: Any) -> Verdict:
    del answer
    _, answered, said = response.rpartition('Answer: ')
    if not answered or not said:
        return Verdict(False, None, 'no_answer')
    return Verdict(said[0].isdigit(), said, 'equal')


def terminate_at_call(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, number: int
) -> None:
    """Sends this process SIGTERM when a function of a module is called so many times."""
    calls = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    before_each_call(monkeypatch, module, name, interrupt)


def note_calls(
    monkeypatch: pytest.MonkeyPatch, events: list[str], module: ModuleType, name: str, event: str
) -> None:
    """Adds an event whenever a function of a module is called."""
    before_each_call(monkeypatch, module, name, lambda: events.append(event))


def before_each_call(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, act: Callable[[], None]
) -> None:
    """Does something before a function of a module, whenever it is called."""
    function = getattr(module, name)

    def acting(*args: Any, **kwargs: Any) -> Any:
        act()
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, acting)


@contextlib.contextmanager
def counting_compilations() -> Iterator[list[int]]:
    """Programs that were compiled so far, a number for each step whose metrics are written."""
    compiled: list[str] = []
    after_step: list[int] = []
    write = MetricsWriter.write

    def note(event: str, seconds: float, **details: Any) -> None:
        del seconds, details
        if event == '/jax/core/compile/backend_compile_duration':
            compiled.append(event)

    def counted(self: MetricsWriter, step: int, metrics: Any) -> Any:
        after_step.append(len(compiled))
        return write(self, step, metrics)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsWriter, 'write', counted)
            yield after_step
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def run(config: ml_collections.ConfigDict, workdir: Path) -> list[dict]:
    """Trains a policy to its last step; the metrics of all steps, see `read_steps`."""
    workdir.mkdir(exist_ok=True)
    assert train_policy(config, workdir)
    return read_steps(workdir)


def read_steps(workdir: Path, clocks: bool = False) -> list[dict]:
    """The lines of a run's metrics; without `clocks` only what is the same when repeated."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    if clocks:
        return lines
    suffixes = ('_seconds', '_per_second')
    return [{k: v for k, v in line.items() if not k.endswith(suffixes)} for line in lines]
