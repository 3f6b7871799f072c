"""How long to wait after failures: longer with each, up to a limit, and never all at the same moment."""

from __future__ import annotations

import random


def pause_seconds(failures: int, *, first: float, longest: float) -> float:
    """`first` after one failure, twice as long after each more, up to `longest`; give or take a quarter.

    Processes that failed together do not come back together.
    """
    return min(first * 2.0 ** min(failures - 1, 20), longest) * random.uniform(0.75, 1.25)
