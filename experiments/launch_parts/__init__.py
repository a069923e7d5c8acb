"""Parts of the command `experiments.launch`."""
