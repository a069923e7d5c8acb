"""Sampling: logit processors, rollouts with a thinking budget, and branches forked from a cache.

`processors` turns logits into tokens, `sampler` decodes whole responses, `fork` answers from many
boundaries of a trace on that trace's own key-value cache, `row_keys` gives every row its own
random numbers.
"""
