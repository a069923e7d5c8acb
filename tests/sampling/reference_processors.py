"""NumPy float64 references of the logit processors and of sampling, by full sorts."""

import numpy as np


def processed_probabilities(logits_V, temperature, top_k, top_p, min_p) -> np.ndarray:
    """Distribution that temperature, top-k, top-p and min-p leave, in that order: [V]."""
    logits_V = np.asarray(logits_V, np.float64) / temperature
    if 0 < top_k < logits_V.size:
        logits_V = np.where(logits_V >= np.sort(logits_V)[-top_k], logits_V, -np.inf)
    if top_p < 1:
        probs_V = softmax(logits_V)
        descending = np.sort(probs_V)[::-1]
        last = np.flatnonzero(np.cumsum(descending) >= top_p)
        smallest = descending[last[0]] if last.size else 0.0
        logits_V = np.where(probs_V >= smallest, logits_V, -np.inf)
    if min_p > 0:
        probs_V = softmax(logits_V)
        logits_V = np.where(probs_V >= min_p * probs_V.max(), logits_V, -np.inf)
    return softmax(logits_V)


def sample(probs_V, uniform) -> int:
    """Smallest token whose distribution function exceeds the uniform number."""
    return int(np.argmax(np.cumsum(probs_V) > uniform))


def softmax(logits_V) -> np.ndarray:
    weights_V = np.exp(logits_V - np.max(logits_V))
    return weights_V / weights_V.sum()
