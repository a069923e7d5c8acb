"""Evaluation: traces with the meta-prover's success rate at every boundary, and what they show.

`evaluate` samples and proves traces, `traces` records them, `summary` turns records into numbers
with intervals, `plots` draws those, `report` puts everything on one page. All but the last write
no files.
"""
