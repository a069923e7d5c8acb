"""Meta Reinforcement Fine-Tuning (MRT, arXiv 2503.07572) in JAX.

Array names end in the letters of their axes, outermost first (`tokens_BT`):

| letter | axis |
| --- | --- |
| B | rows: prompts, traces or sequences of a batch |
| T | tokens of a row |
| P | prompt slots |
| E | boundaries of a trace: its episodes + 1, the empty prefix first |
| M | branches that the meta-prover draws at a boundary |
| R | branch rows under one parent trace (E x M) |
| G | group: rollouts of one prompt |
| V | vocabulary |
| D, F | width of the model, of its feed-forward layer |
| H, K, C | query heads, key-value heads, width of a head |
| L | layers |
| S | slots of a key-value cache |
| A | answer tokens |
| N | bytes |

Packages depend on each other in one direction only: `kernels` (pure arrays), `models`,
`sharding`, `sampling`, `policies`, `tasks`, `data`, `methods`, `training`, `evaluation`.
Entry points live outside, in `experiments/`.
"""
