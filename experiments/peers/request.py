"""What every contestant of a comparison is asked, and how it reports; needs NumPy only.

Two things are compared: sampling completions, and whole steps of GRPO. A step samples a group of
completions of each prompt, rewards each by its share of even token ids, and takes one AdamW step on
the clipped surrogate with the k3 penalty towards the first policy. Both are compared in float32 and
in bfloat16, which is for each contestant what it does itself when told so: samplers round weights
and activations, ours on a CPU the operands of products only, as TRL's mixed precision does.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
    """Completions to sample at temperature 1, none of which ends early.

    Attributes:
        folder: of the policy, as transformers saves it.
        prompts: token ids, all of one length, each as often as it has completions.
        group: completions of each prompt.
        new_tokens: of each completion.
        dtype: 'float32' or 'bfloat16'.
        runs: that are timed, behind one that is not.
    """

    folder: Path
    prompts: list[list[int]]
    group: int
    new_tokens: int
    dtype: str
    runs: int

    @property
    def tokens(self) -> int:
        """Tokens that a run samples."""
        return len(self.prompts) * self.new_tokens

    @property
    def distinct_prompts(self) -> list[list[int]]:
        """Each prompt once."""
        return self.prompts[:: self.group]


def read_request() -> Request:
    """The request on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--batch', type=int, required=True)
    parser.add_argument('--group', type=int, default=1)
    parser.add_argument('--prompt_tokens', type=int, required=True)
    parser.add_argument('--new_tokens', type=int, required=True)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), required=True)
    parser.add_argument('--runs', type=int, required=True)
    flags = parser.parse_args()
    vocabulary = json.loads((flags.folder / 'config.json').read_text())['vocab_size']
    if flags.batch % flags.group:
        parser.error(f'--batch={flags.batch} is no multiple of --group={flags.group}')
    shape = flags.batch // flags.group, flags.prompt_tokens
    ids = np.random.default_rng(0).integers(3, vocabulary, shape).repeat(flags.group, axis=0)
    return Request(
        flags.folder, ids.tolist(), flags.group, flags.new_tokens, flags.dtype, flags.runs
    )


def report(name: str, version: str, request: Request, sample: Callable[[], int]) -> None:
    """Times a contestant and prints one line of JSON.

    Args:
        name, version: of the contestant.
        request: what it was asked.
        sample: samples all completions, or takes a step, and returns the number of tokens sampled.
    """
    seconds = []
    for _ in range(request.runs + 1):
        started = time.monotonic()
        sampled = sample()
        seconds.append(time.monotonic() - started)
        if sampled != request.tokens:
            raise RuntimeError(f'{name} sampled {sampled} tokens, not {request.tokens}')
    report_seconds(name, version, request, seconds)


def report_seconds(name: str, version: str, request: Request, seconds: list[float]) -> None:
    """Prints one line of JSON; the first of the seconds is of the run that does not count."""
    print(json.dumps({
        'name': name, 'version': version, 'tokens': request.tokens, 'first_seconds': seconds[0],
        'seconds': seconds[1:],
    }))


class StepClock:
    """The reward function of a trainer that runs its own loop; one call a step tells the time.

    Between two calls lie the update of one step and the rollouts of the next.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._calls: list[float] = []

    @property
    def steps(self) -> int:
        """Steps that the trainer must take."""
        return self._request.runs + 2

    def reward(self, completions: list[list[int]]) -> list[float]:
        """Share of even token ids in each completion."""
        sampled = sum(map(len, completions))
        if sampled != self._request.tokens:
            raise RuntimeError(f'{sampled} tokens were sampled, not {self._request.tokens}')
        self._calls.append(time.monotonic())
        return [float(np.mean(np.asarray(ids) % 2 == 0)) for ids in completions]

    def report(self, name: str, version: str) -> None:
        """See `report_seconds`."""
        report_seconds(name, version, self._request, np.diff(self._calls).tolist())
