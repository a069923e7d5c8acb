"""Log-probabilities of given tokens.

    python -m experiments.score --policy=DIR --input=FILE.jsonl --output=FILE.jsonl

A line of the input has `tokens`, n ids. The output repeats it with `logprobs` added: n - 1 natural
logarithms, log p(tokens[i + 1] | tokens[: i + 1]).
"""

from collections.abc import Sequence

from absl import flags

from experiments import cli
from experiments.jsonl import finite_floats, read_lines, write_lines


def define_flags() -> None:
    """Flags of the command."""
    cli.define_policy_flags()
    flags.DEFINE_string('input', None, 'Token ids, a JSONL file.', required=True)
    flags.DEFINE_string('output', None, 'JSONL file to write.', required=True)
    flags.DEFINE_integer(
        'batch_size', 8, 'Sequences scored together; memory grows with it.', lower_bound=1
    )


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    score(
        values.policy,
        values.input,
        values.output,
        batch_size=values.batch_size,
        mesh_axes=cli.mesh_axes(values.mesh),
        dtype=values.dtype,
    )


def score(
    policy_folder: str,
    input_file: str,
    output_file: str,
    *,
    batch_size: int = 8,
    mesh_axes: dict[str, int] | None = None,
    dtype: str = 'float32',
) -> None:
    """Scores every line of a file; see the module and the flags."""
    cli.check_output(output_file)
    lines = read_lines(input_file)

    from mrt_jax.policies.score import score_sequences

    mesh, policy, model = cli.load(policy_folder, mesh_axes, dtype, need_tokenizer=False)
    sequences = [line.token_ids('tokens', policy.config.vocab_size) for line in lines]
    limit = policy.config.max_positions
    for line, sequence in zip(lines, sequences, strict=True):
        if not 0 < len(sequence) <= limit:
            line.fail(f"'tokens' has {len(sequence)} ids; the policy reads 1 to {limit}")
    logprobs: list[list[float]] = [[]] * len(lines)
    for index, values in score_sequences(
        policy, model, sequences, mesh=mesh, batch_size=batch_size
    ):
        logprobs[index] = finite_floats(values, lines[index].where)
    write_lines(
        output_file,
        ({**line.fields, 'logprobs': values} for line, values in zip(lines, logprobs, strict=True)),
    )


if __name__ == '__main__':
    define_flags()
    cli.run(main)
