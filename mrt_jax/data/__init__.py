"""Datasets: puzzles and demonstrations made by procedure, stored and iterated."""
