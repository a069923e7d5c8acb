"""mrt_jax in a comparison of samplers: `sample_rollouts`."""

from importlib.metadata import version

import jax
import jax.numpy as jnp

from experiments import cli
from experiments.peers.request import read_request, report
from mrt_jax.models.precision import PRECISIONS
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.load import load_policy
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sharding.mesh import make_mesh

# What mrt_jax is asked for on a CPU.
OWN_NAMES = {'float32': 'float32', 'bfloat16': 'bfloat16_products'}


def main() -> None:
    cli.keep_freed_memory(one_arena=False)  # As the commands that sample do.
    request = read_request()
    policy = load_policy(str(request.folder), make_mesh(), 'float32')
    model = Transformer(policy.config, **PRECISIONS[OWN_NAMES[request.dtype]]._asdict())
    prompts = encode_prompts(request.prompts, len(request.prompts[0]))
    keys_B = split_by_row(jax.random.key(0), len(request.prompts))

    def sample() -> int:
        rollout = sample_rollouts(
            model, policy.params, prompts, keys_B, Terminals(),
            budget=Budget(max_thinking_tokens=0, max_answer_tokens=request.new_tokens),
            sampling=SamplingConfig(), group_size=request.group,
        )
        return int(jnp.sum(rollout.lengths_B))

    report('mrt_jax', f'jax {version("jax")}', request, sample)


if __name__ == '__main__':
    main()
