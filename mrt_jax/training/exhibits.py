"""What TensorBoard shows of a step besides numbers: distributions, and a few traces to read."""

import numpy as np

from mrt_jax.methods.experience import Experience, Reader
from mrt_jax.methods.prover import Proof
from mrt_jax.training.metrics import Exhibit, Histogram, Markdown
from mrt_jax.training.trace_markdown import trace_markdown

TRACES = 3


def is_due(every: int, done: int) -> bool:
    """Whether a step is shown, `done` being its number counted from 1; never if `every` is 0."""
    return every > 0 and done % every == 0


def exhibits_of(
    reader: Reader, experience: Experience, proof: Proof | None, group_size: int
) -> dict[str, Exhibit]:
    """Lengths of responses, J over all boundaries if it was asked for, and the first trace of each
    of the first `TRACES` groups: nobody picks them."""
    rows = range(0, len(experience.verdicts), group_size)[:TRACES]
    traces = [trace_markdown(reader, experience, proof, row) for row in rows]
    exhibits: dict[str, Exhibit] = {
        'histograms/response_tokens': Histogram(np.asarray(experience.rollout.lengths_B)),
        'texts/traces': Markdown('\n\n---\n\n'.join(traces)),
    }
    if proof is not None:
        success_BE = np.asarray(proof.success.mean_BE)
        exhibits['histograms/success'] = Histogram(success_BE[experience.episodes.mask_BE])
    return exhibits
