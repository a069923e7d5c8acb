"""What every contestant of a comparison is asked, and how it reports; needs NumPy only."""

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
        prompts: token ids, all of one length.
        new_tokens: of each completion.
        runs: that are timed, behind one that is not.
    """

    folder: Path
    prompts: list[list[int]]
    new_tokens: int
    runs: int


def read_request() -> Request:
    """The request on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--batch', type=int, required=True)
    parser.add_argument('--prompt_tokens', type=int, required=True)
    parser.add_argument('--new_tokens', type=int, required=True)
    parser.add_argument('--runs', type=int, required=True)
    flags = parser.parse_args()
    vocabulary = json.loads((flags.folder / 'config.json').read_text())['vocab_size']
    ids = np.random.default_rng(0).integers(3, vocabulary, (flags.batch, flags.prompt_tokens))
    return Request(flags.folder, ids.tolist(), flags.new_tokens, flags.runs)


def report(name: str, version: str, request: Request, sample: Callable[[], int]) -> None:
    """Times a contestant and prints one line of JSON.

    Args:
        name, version: of the contestant.
        request: what it was asked.
        sample: samples all completions and returns the number of their tokens.
    """
    wanted = len(request.prompts) * request.new_tokens
    seconds = []
    for _ in range(request.runs + 1):
        started = time.monotonic()
        sampled = sample()
        seconds.append(time.monotonic() - started)
        if sampled != wanted:
            raise RuntimeError(f'{name} sampled {sampled} tokens, not {wanted}')
    print(json.dumps({
        'name': name, 'version': version, 'tokens': wanted, 'first_seconds': seconds[0],
        'seconds': seconds[1:],
    }))
