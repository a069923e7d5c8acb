"""mrt_jax in a comparison of GRPO steps: rollouts, reference, credit and update."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax

from experiments import cli
from experiments.peers.request import read_request, report
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.credit import CreditConfig, Outcomes
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.load import load_policy
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.training.objective import ObjectiveConfig, UpdateBatch, policy_loss
from mrt_jax.training.rl_batch import give_credit
from mrt_jax.training.state import start_training
from mrt_jax.training.update import join_response, make_scorer, make_update


def main() -> None:
    cli.keep_freed_memory()  # As the commands do.
    request = read_request()
    mesh = make_mesh()
    policy = load_policy(str(request.folder), mesh, 'float32')
    model = Transformer(policy.config)
    rows, prompt_slots = len(request.prompts), len(request.prompts[0])
    prompts = encode_prompts(request.prompts, prompt_slots)
    optimizer = optax.adamw(1e-4)
    objective = ObjectiveConfig(0.2, 0.2, kl_coef=0.04, entropy_coef=0.0, aggregation='sequence')
    credit = CreditConfig(group_size=request.group)
    update = make_update(
        model, optimizer, policy_loss(objective), mesh, rows=rows, microbatch_rows=rows
    )
    score = make_scorer(model, mesh, rows=rows, microbatch_rows=rows)
    state = start_training(model, policy.params, optimizer, mesh, jax.random.key(0))
    no_votes_B = jnp.zeros(rows, jnp.int32)
    steps = iter(range(1_000_000))

    def step() -> int:
        nonlocal state
        rollout = sample_rollouts(
            model, state.params, prompts, split_by_row(jax.random.key(next(steps)), rows),
            Terminals(), budget=Budget(max_thinking_tokens=0, max_answer_tokens=request.new_tokens),
            sampling=SamplingConfig(), group_size=request.group,
        )
        rewards_B = (rollout.tokens_BT % 2 == 0).mean(axis=1)
        given = give_credit(
            credit, Outcomes(rewards_B, rollout.lengths_B, rollout.sampled_BT, no_votes_B)
        )
        tokens_BS, positions_BS = join_response(
            rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.lengths_B,
            rollout.tokens_BT,
        )

        def behind_prompt(x_BT: jax.Array) -> jax.Array:
            return jnp.pad(x_BT, ((0, 0), (prompt_slots, 0)))

        batch = UpdateBatch(
            tokens_BT=tokens_BS,
            positions_BT=positions_BS,
            weights_BT=behind_prompt(token_weights(rollout.sampled_BT, objective.aggregation)),
            old_logprobs_BT=behind_prompt(rollout.logprobs_BT),
            advantages_BT=behind_prompt(given.advantages_BT),
            reference_logprobs_BT=score(policy.params, tokens_BS, positions_BS, None),
        )
        state, metrics = update(state, {}, batch)
        jax.block_until_ready((state, metrics))
        return int(rollout.sampled_BT.sum())

    report('mrt_jax', f'jax {version("jax")}', request, step)


if __name__ == '__main__':
    main()
