"""Samples completions of prompts.

    python -m experiments.generate --policy=DIR --prompts=FILE.jsonl --output=FILE.jsonl

A line of the input has one of `prompt` (text, encoded with the tokenizer's beginning-of-sequence
token), `messages` (a chat, through the policy's template) and `prompt_tokens` (ids, used as they
are). The output repeats it with `completions` added: a list of `text`, `tokens`, `logprobs` (of the
policy at temperature 1, natural logarithm) and `finish_reason`, which is 'stop' or 'length'.
`text` is that of the tokens without the one that ends a sequence, a stop string included; it is
null where the policy has no tokenizer.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli
from experiments.jsonl import Line, finite_floats, read_lines, write_lines
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from mrt_jax.policies.policy import Policy
    from mrt_jax.sampling.processors import SamplingConfig

_PROMPT_KEYS = ('prompt', 'messages', 'prompt_tokens')


def define_flags() -> None:
    """Flags of the command."""
    cli.define_policy_flags()
    flags.DEFINE_string('prompts', None, 'Prompts, a JSONL file.', required=True)
    flags.DEFINE_string('output', None, 'JSONL file to write.', required=True)
    flags.DEFINE_integer('max_new_tokens', 512, 'Most tokens of a completion.', lower_bound=1)
    flags.DEFINE_integer('num_samples', 1, 'Completions of each prompt.', lower_bound=1)
    flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
    flags.DEFINE_integer(
        'batch_size', 32, 'Completions decoded together; memory grows with it.', lower_bound=1
    )
    flags.DEFINE_float('temperature', 1.0, 'Logits are divided by it; 0 is greedy decoding.')
    flags.DEFINE_integer('top_k', 0, 'Keep the k most likely tokens; 0 keeps all.')
    flags.DEFINE_float('top_p', 1.0, 'Keep the most likely tokens that make up this probability.')
    flags.DEFINE_float('min_p', 0.0, 'Keep tokens this many times as likely as the likeliest.')
    flags.DEFINE_multi_string(
        'stop_strings', [], 'Text that ends a completion, of which it is the last part. Repeatable.'
    )


def main(argv: Sequence[str]) -> None:
    del argv
    from mrt_jax.sampling.processors import SamplingConfig

    values = flags.FLAGS
    with cli.validating('sampling flags'):
        sampling = SamplingConfig(values.temperature, values.top_k, values.top_p, values.min_p)
    generate(
        values.policy,
        values.prompts,
        values.output,
        max_new_tokens=values.max_new_tokens,
        num_samples=values.num_samples,
        sampling=sampling,
        stop_strings=values.stop_strings,
        seed=values.seed,
        batch_size=values.batch_size,
        mesh_axes=cli.mesh_axes(values.mesh),
        dtype=values.dtype,
    )


def generate(
    policy_folder: str,
    prompts_file: str,
    output_file: str,
    *,
    max_new_tokens: int,
    sampling: 'SamplingConfig',
    num_samples: int = 1,
    stop_strings: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 32,
    mesh_axes: dict[str, int] | None = None,
    dtype: str = 'float32',
) -> None:
    """Samples completions of every line of a file; see the module and the flags."""
    cli.check_output(output_file)
    lines = read_lines(prompts_file)
    needs_text = bool(stop_strings) or any('prompt_tokens' not in line.fields for line in lines)

    from mrt_jax.kernels.matcher import build_matcher
    from mrt_jax.policies.complete import Request, complete
    from mrt_jax.sampling.phases import Terminals

    mesh, policy, model = cli.load(policy_folder, mesh_axes, dtype, need_tokenizer=needs_text)
    prompts = [encode_prompt(line, policy, max_new_tokens) for line in lines]
    stop = None
    if stop_strings and policy.tokenizer:
        with cli.validating('--stop_strings'):
            stop = build_matcher(
                stop_strings, policy.tokenizer.token_bytes, policy.config.vocab_size
            )
    requests = [
        Request(tuple(prompt), draw=occurrence * num_samples + sample)
        for prompt, occurrence in zip(prompts, _occurrences(lines, prompts), strict=True)
        for sample in range(num_samples)
    ]
    completions: list[Any] = [None] * len(requests)
    for index, completion in complete(
        policy,
        model,
        requests,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        terminals=Terminals(stop=stop, eos_ids=policy.eos_ids, pad_id=policy.pad_id),
        seed=seed,
        mesh=mesh,
        batch_size=batch_size,
    ):
        completions[index] = {
            'text': policy.decode(completion.tokens),
            'tokens': completion.tokens,
            'logprobs': finite_floats(completion.logprobs, lines[index // num_samples].where),
            'finish_reason': 'stop' if completion.ended else 'length',
        }
    write_lines(
        output_file,
        (
            {**line.fields, 'completions': completions[i * num_samples : (i + 1) * num_samples]}
            for i, line in enumerate(lines)
        ),
    )


def encode_prompt(line: Line, policy: 'Policy', max_new_tokens: int) -> list[int]:
    """Token ids of a line's prompt.

    Raises:
        InputError: names the line and what is wrong with it.
    """
    present = [key for key in _PROMPT_KEYS if key in line.fields]
    if len(present) != 1:
        line.fail(f'must have one of {", ".join(_PROMPT_KEYS)}; has {present or "none"}')
    value = line.fields[present[0]]
    if present == ['prompt_tokens']:
        ids = line.token_ids('prompt_tokens', policy.config.vocab_size)
    else:
        try:
            encode = policy.encode_prompt if present == ['prompt'] else policy.encode_messages
            ids = encode(value)
        except InputError as error:
            line.fail(str(error))
    limit = policy.config.max_positions
    if not ids:
        line.fail('the prompt has no tokens, and the policy needs one to begin with')
    if len(ids) + max_new_tokens > limit:
        line.fail(
            f'{len(ids)} prompt tokens and {max_new_tokens} new ones exceed the {limit} positions '
            'of the policy: shorten the prompt or lower --max_new_tokens'
        )
    return ids


def _occurrences(lines: Sequence[Line], prompts: Sequence[Sequence[int]]) -> list[int]:
    """Numbers lines with the same prompt, so that each has samples of its own.

    They are numbered in the order of their text, so that the order of the lines does not matter.
    """
    same_prompt: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        same_prompt[tuple(prompt)].append(index)
    numbers = [0] * len(lines)
    for indices in same_prompt.values():
        ordered = sorted(indices, key=lambda i: json.dumps(lines[i].fields, sort_keys=True))
        for number, index in enumerate(ordered):
            numbers[index] = number
    return numbers


if __name__ == '__main__':
    define_flags()
    cli.run(main)
