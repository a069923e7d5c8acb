"""The policy objective and its metrics in NumPy, from log-probabilities, token by token."""

import numpy as np


def policy_objective(
    logprobs, entropies, weights, old, advantages, reference, *, clip_low, clip_high, kl_coef,
    entropy_coef,
):
    """(loss, metrics) in float64 over all tokens of weight above 0."""
    loss = 0.0
    totals = dict.fromkeys(
        ('kl', 'kl_to_sampler', 'entropy', 'clip_fraction', 'sampler_trainer_difference'), 0.0
    )
    ratio_max = 0.0
    for index in zip(*np.nonzero(weights > 0), strict=True):
        weight, new, before = float(weights[index]), float(logprobs[index]), float(old[index])
        ratio, advantage = np.exp(new - before), float(advantages[index])
        clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
        gap = before - new  # log sampler - log policy; tokens come from the sampler.
        to_sampler = np.exp(-gap) + gap - 1
        kl = to_sampler
        if reference is not None:
            gap = float(reference[index]) - new
            kl = np.exp(gap) - gap - 1
            loss += weight * kl_coef * kl
        loss -= weight * min(ratio * advantage, clipped * advantage)
        loss -= weight * entropy_coef * float(entropies[index])
        ratio_max = max(ratio_max, ratio)
        totals['kl'] += weight * kl
        totals['kl_to_sampler'] += weight * to_sampler
        totals['entropy'] += weight * float(entropies[index])
        totals['clip_fraction'] += weight * (clipped * advantage < ratio * advantage)
        totals['sampler_trainer_difference'] += weight * abs(new - before)
    whole = weights.sum()
    metrics = {name: total / whole for name, total in totals.items()}
    return loss, metrics | {'ratio_max': ratio_max, 'loss': loss}
