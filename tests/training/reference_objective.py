"""The policy objective and its metrics in NumPy, from log-probabilities, token by token."""

import numpy as np


def policy_objective(
    logprobs, entropies, weights, old, advantages, reference, *, clip_low, clip_high, kl_coef,
    entropy_coef, ratio='token',
):
    """(loss, metrics) in float64 over all tokens of weight above 0; each row is a sequence."""
    loss = 0.0
    totals = dict.fromkeys(
        ('kl', 'kl_to_sampler', 'entropy', 'clip_fraction', 'sampler_trainer_difference'), 0.0
    )
    ratio_max = 0.0
    for index in zip(*np.nonzero(weights > 0), strict=True):
        weight, new, before = float(weights[index]), float(logprobs[index]), float(old[index])
        log_ratio, advantage = new - before, float(advantages[index])
        if ratio == 'sequence':
            own = weights[index[0]] > 0
            log_ratio = np.mean(np.float64(logprobs[index[0]] - old[index[0]])[own])
        free = np.exp(log_ratio)
        clipped = min(max(free, 1 - clip_low), 1 + clip_high)
        gap = before - new  # log sampler - log policy; tokens come from the sampler.
        to_sampler = np.exp(-gap) + gap - 1
        kl = to_sampler
        if reference is not None:
            gap = float(reference[index]) - new
            kl = np.exp(gap) - gap - 1
            loss += weight * kl_coef * kl
        loss -= weight * min(free * advantage, clipped * advantage)
        loss -= weight * entropy_coef * float(entropies[index])
        ratio_max = max(ratio_max, free)
        totals['kl'] += weight * kl
        totals['kl_to_sampler'] += weight * to_sampler
        totals['entropy'] += weight * float(entropies[index])
        totals['clip_fraction'] += weight * (clipped * advantage < free * advantage)
        totals['sampler_trainer_difference'] += weight * abs(new - before)
    whole = weights.sum()
    metrics = {name: total / whole for name, total in totals.items()}
    return loss, metrics | {'ratio_max': ratio_max, 'loss': loss}
