"""mrt_jax in a comparison of GRPO steps: rollouts, reference, credit and update."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import cli
from experiments.peers.mrt_jax_rollouts import OWN_NAMES
from experiments.peers.request import read_request, report
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.credit import CreditConfig, Outcomes
from mrt_jax.methods.packing import plan_rows, shared_prompts
from mrt_jax.models.precision import PRECISIONS
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.load import load_policy
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.training.objective import ObjectiveConfig, policy_loss
from mrt_jax.training.rl_batch import give_credit, pack_rollout
from mrt_jax.training.state import start_training
from mrt_jax.training.update import make_scorer, make_update


def main() -> None:
    cli.keep_freed_memory(one_arena=True)  # As the command that trains does.
    request = read_request()
    mesh = make_mesh()
    policy = load_policy(str(request.folder), mesh, 'float32')
    model = Transformer(policy.config, **PRECISIONS[OWN_NAMES[request.dtype]]._asdict())
    rows, prompt_slots = len(request.prompts), len(request.prompts[0])
    prompts = encode_prompts(request.prompts, prompt_slots)
    optimizer = optax.adamw(1e-4)
    objective = ObjectiveConfig(0.2, 0.2, kl_coef=0.04, entropy_coef=0.0, aggregation='sequence')
    credit = CreditConfig(group_size=request.group)
    # A row of an update holds a prompt once, and all of its completions.
    row_tokens = prompt_slots - 1 + request.group * (1 + request.new_tokens)
    shape = {'rows': rows // request.group, 'microbatch_rows': rows // request.group}
    update = make_update(model, optimizer, policy_loss(objective), mesh, **shape)
    score = make_scorer(model, mesh, **shape)
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
        prompts_BP, prompts_B, lengths_B = map(
            np.asarray, (rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.lengths_B)
        )
        plan = plan_rows(
            prompt_slots - prompts_B, prompt_slots + lengths_B, prompt_slots + request.new_tokens,
            rows=shape['rows'], row_tokens=row_tokens, shared=shared_prompts(prompts_BP, prompts_B),
        )
        weights_BT = token_weights(rollout.sampled_BT, objective.aggregation)
        batch = pack_rollout(rollout, weights_BT, given.advantages_BT, plan)
        reference_BT = score(
            policy.params, batch.tokens_BT, batch.positions_BT, batch.segments_BT, batch.parents_BT
        )
        batch = batch.replace(reference_logprobs_BT=reference_BT)
        state, metrics = update(state, {}, batch)
        jax.block_until_ready((state, metrics))
        return int(rollout.sampled_BT.sum())

    report('mrt_jax', f'jax {version("jax")}', request, step)


if __name__ == '__main__':
    main()
