"""Datasets: puzzles and demonstrations made by procedure, stored by tensorflow-datasets, iterated."""
