"""Evaluation: traces with the meta-prover's success rate at every boundary, and what they show.

`evaluate` samples and proves traces, `traces` records them, `summary` turns records into numbers
with intervals, `plots` draws those, `report` puts everything on one page. `continuation` lets
thoughts go on, beyond the training budget (`extrapolation`) or with a window that slides over
attempts (`linearized`); `benchmarks` compares policies over several tasks.
"""
