"""Hypothesis strategies for traces with J at their boundaries, in arrays of fixed shapes."""

import numpy as np
from hypothesis import strategies as st

ROWS, COLUMNS = 4, 7  # B and E; one shape, so that programs compile once


@st.composite
def success_curves(draw, rows: int = ROWS):
    """J [B, E] in eighths, as eight branches give it, and the mask of the boundaries."""
    eighths = st.lists(st.integers(0, 8), min_size=COLUMNS, max_size=COLUMNS)
    success_BE = np.array(draw(st.lists(eighths, min_size=rows, max_size=rows)), np.float32) / 8
    counts = draw(st.lists(st.integers(0, COLUMNS - 1), min_size=rows, max_size=rows))
    return success_BE, np.arange(COLUMNS) <= np.array(counts)[:, None]


@st.composite
def token_columns(draw, rows: int = ROWS):
    """Tokens [B, E] spent at the boundaries, strictly increasing."""
    steps = st.lists(st.integers(1, 3000), min_size=COLUMNS, max_size=COLUMNS)
    return np.cumsum(np.array(draw(st.lists(steps, min_size=rows, max_size=rows))), axis=1)


permutations = st.permutations(range(ROWS)).map(np.array)
