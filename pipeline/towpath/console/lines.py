"""The last two hours as lines: SVG that the server draws, without scripts or styles on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from towpath.ledger.history import Minute

#: The picture's own units; it is stretched to its place.
WIDTH, HEIGHT = 240.0, 44.0
#: After more than this many minutes without a measurement, the line is broken.
_GAP_MINUTES = 2.5


@dataclass(frozen=True, slots=True)
class Line:
    """A line and the area below it, as paths, and what its top stands for."""

    path: str
    area: str
    top: float

    def __bool__(self) -> bool:
        return bool(self.path)


def line(
    minutes: Sequence[Minute],
    value: Callable[[Minute], float | None],
    *,
    now: datetime,
    span_minutes: int,
    least_top: float,
) -> Line:
    """The values of the minutes, newest at the right; None leaves a point out. `least_top` keeps a quiet line from
    looking like a storm."""
    points = [
        (WIDTH * (1 - (now - minute.measured_at).total_seconds() / 60 / span_minutes), at)
        for minute in minutes
        if (at := value(minute)) is not None
    ]
    points = [(max(0.0, min(WIDTH, x)), y) for x, y in points]
    top = max([least_top, *(y for _, y in points)])
    runs: list[list[tuple[float, float]]] = []
    for x, y in points:
        scaled = (round(x, 1), round(HEIGHT - 1 - (HEIGHT - 3) * y / top, 1))
        if runs and x - runs[-1][-1][0] <= _GAP_MINUTES * WIDTH / span_minutes:
            runs[-1].append(scaled)
        else:
            runs.append([scaled])
    path = " ".join(_path(run) for run in runs)
    area = " ".join(f"{_path(run)} V{HEIGHT:g} H{run[0][0]:g} Z" for run in runs)
    return Line(path, area, top)


def _path(run: Sequence[tuple[float, float]]) -> str:
    # A single point is drawn as a short stroke.
    first, *others = run
    rest = " ".join(f"L{x:g} {y:g}" for x, y in others) or "h1"
    return f"M{first[0]:g} {first[1]:g} {rest}"
