"""Training: state, update, checkpoints, metrics, and the loops that tie them together."""
