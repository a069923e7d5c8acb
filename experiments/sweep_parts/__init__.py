"""Parts of the command `experiments.sweep`."""
