"""google-tunix in a comparison of GRPO steps: its `GRPOLearner`, on a Llama.

    pip install -r experiments/peers/requirements-tunix.txt
"""

from importlib.metadata import version
from typing import Any

import grain
import jax
import numpy as np
import optax
from tunix.rl import rl_cluster as rl  # pyright: ignore[reportMissingImports]
from tunix.rl.grpo import grpo_learner  # pyright: ignore[reportMissingImports]
from tunix.rl.rollout import base_rollout  # pyright: ignore[reportMissingImports]

from experiments.peers.request import StepClock, read_request
from experiments.peers.tunix_sampler import Numbers, as_texts, load


class EndlessNumbers(Numbers):
    """Ends completions at the last token id, which nothing here samples."""

    def __init__(self, vocabulary: int) -> None:
        self._last = vocabulary - 1

    def eos_id(self) -> int:
        return self._last


def main() -> None:
    request = read_request()
    clock = StepClock(request)
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(-1, 1), ('fsdp', 'tp'))
    prompt_tokens = len(request.prompts[0])
    with mesh:
        (actor, shape), (reference, _) = load(request), load(request)
    roles = rl.Role.ACTOR, rl.Role.REFERENCE, rl.Role.ROLLOUT
    engine = rl.RLCluster(
        actor=actor,
        reference=reference,
        tokenizer=EndlessNumbers(shape.vocab_size),
        cluster_config=rl.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            rollout_engine='vanilla',
            offload_to_cpu=False,
            training_config=rl.RLTrainingConfig(
                actor_optimizer=optax.adamw(1e-4), eval_every_n_steps=1_000_000,
                max_steps=clock.steps,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=request.new_tokens, max_prompt_length=prompt_tokens,
                temperature=1.0, top_p=1.0, kv_cache_size=prompt_tokens + request.new_tokens + 8,
                return_logprobs=False,
            ),
        ),
    )

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        del prompts, columns
        return clock.reward([[int(word) for word in text.split()] for text in completions])

    learner = grpo_learner.GRPOLearner(
        rl_cluster=engine,
        reward_fns=reward,
        algo_config=grpo_learner.GRPOConfig(
            num_generations=request.group, num_iterations=1, beta=0.04
        ),
    )
    texts = as_texts(request.prompts[:: request.group])
    data = grain.MapDataset.source(texts * clock.steps).batch(len(texts))
    learner.train(data.map(lambda prompts: {'prompts': prompts}))
    clock.report('google-tunix', version('google-tunix'))


if __name__ == '__main__':
    main()
