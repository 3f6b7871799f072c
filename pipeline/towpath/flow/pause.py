"""How long to wait after failures: longer after each, up to a limit, and never all processes at the same moment."""

from __future__ import annotations

import random


def pause_seconds(failures: int, *, first: float, longest: float) -> float:
    """Return the pause in seconds: `first` after one failure, doubled after each further one, up to `longest`.

    It varies by a quarter, so processes that failed together do not come back together.
    """
    return min(first * 2.0 ** min(failures - 1, 20), longest) * random.uniform(0.75, 1.25)
