"""Writes any policy as a policy folder that transformers loads.

    python -m experiments.convert --input=DIR_OR_FILE --output=DIR

The input is a policy folder, a GGUF file, a workdir of `experiments.train` (its final policy, else
its newest checkpoint), or 'package:NAME/PATH' for a file of an installed Python package.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import cli


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_string('input', None, 'Policy folder, GGUF file or workdir.', required=True)
    flags.DEFINE_string('output', None, 'Folder to write, replacing a policy there.', required=True)
    flags.DEFINE_enum(
        'dtype', None, ['float32', 'bfloat16'],
        'Type of the numbers written; by default as they are stored, float32 for a GGUF file.',
    )
    flags.DEFINE_float(
        'max_shard_gigabytes', 5.0, 'Weights larger than this are split into files, GB.',
        lower_bound=0.001,
    )


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    convert(values.input, values.output, values.dtype, int(1e9 * values.max_shard_gigabytes))


def convert(source: str, output: str, dtype: str | None, max_shard_bytes: int) -> None:
    """Reads and writes; see the module and the flags."""
    # JAX takes a second to import; a mistake in the flags should not have to wait for it.
    import jax

    from mrt_jax.policies.load import load_policy
    from mrt_jax.policies.save import save_policy
    from mrt_jax.training.export import is_workdir, read_workdir

    if is_workdir(Path(source)):
        policy = read_workdir(Path(source))
    else:
        policy = load_policy(source, dtype=dtype, need_tokenizer=False)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(policy.params))
    print(f'{source}: {numbers / 1e6:.1f}M parameters, {policy.config.family}', file=sys.stderr)
    folder = save_policy(output, policy, dtype, max_shard_bytes)
    print(folder)


if __name__ == '__main__':
    define_flags()
    cli.run(main)
