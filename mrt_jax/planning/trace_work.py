"""Forward operations of a trace and of the meta-prover's answers along it, token by token.

Only tokens that a network must read are counted, prompt, forced text and sampled tokens; the last
token of a sequence is read by nobody. Matrix products and attention over the keys that each query
sees, sliding windows included, as in `work`; norms, rotations and the softmax are left out.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mrt_jax.models.config import ModelConfig
from mrt_jax.planning.work import attention_flops, body_params, head_params, keys_seen


@dataclasses.dataclass(frozen=True)
class ProofWork:
    """Operations of the meta-prover on one trace.

    Attributes:
        forked: answers grow from the trace's cache: a boundary's termination text is read once,
            the prefix never again.
        plain: every answer is a request of its own, which reads prompt, prefix and text anew.
    """

    forked: float
    plain: float


def trace_flops(config: ModelConfig, *, prompt: int, response: int, sampled: int) -> float:
    """Operations of a response, its prompt read for it alone.

    Args:
        config: the network's.
        prompt, response: tokens; forced text included.
        sampled: tokens of the response that were drawn from the policy.
    """
    return float(read_flops(config, 0, prompt + response - 1, sampled))


def proof_work(
    config: ModelConfig,
    *,
    prefixes: Sequence[int],
    texts: Sequence[int],
    answers: Sequence[Sequence[int]],
) -> ProofWork:
    """Operations of the answers at the boundaries of a trace.

    Args:
        config: the network's.
        prefixes: tokens of prompt and response up to each boundary.
        texts: tokens of the termination text there, at least 1.
        answers: sampled tokens of each answer there, at least 1.
    """
    forked = plain = 0.0
    for prefix, text, lengths in zip(prefixes, texts, answers, strict=True):
        asked = prefix + text
        sampled_M = np.asarray(lengths)
        # The branches share the text, and the probabilities of their first tokens.
        forked += read_flops(config, prefix, asked, 1)
        forked += read_flops(config, asked, asked + sampled_M - 1, sampled_M - 1).sum()
        plain += read_flops(config, 0, asked + sampled_M - 1, sampled_M).sum()
    return ProofWork(float(forked), float(plain))


def read_flops(
    config: ModelConfig,
    start: int | np.ndarray,
    stop: int | np.ndarray,
    logits: int | np.ndarray,
) -> np.ndarray:
    """Operations to read tokens `start` to `stop` of a sequence, with the logits at some of them.

    A product of [m, k] and [k, n] is 2 m k n operations. Arguments broadcast.
    """
    start, stop = np.asarray(start, float), np.asarray(stop, float)
    matrices = 2 * body_params(config) * (stop - start) + 2 * head_params(config) * logits
    return matrices + attention_flops(config, keys_seen(config, stop) - keys_seen(config, start))
