"""The bars of the histogram: how long a bar is, and the bars as JSON for the page's script."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from towpath.eventlog.paging import Histogram

#: More bars would be too thin to see, or to point at.
MOST_BARS = 120

#: Lengths of a bar that people read easily on a clock.
_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
)


def step(length: timedelta) -> timedelta:
    """Return the shortest length of a bar with which a period of this length has at most MOST_BARS."""
    for each in _STEPS:
        if length / each <= MOST_BARS:
            return each
    days = -(-length // (MOST_BARS * timedelta(days=1)))
    return timedelta(days=days)


def as_json(found: Histogram) -> dict[str, Any]:
    """Return the bars as rows of `[start, index of the type, events]`. Times are seconds since 1970."""
    types = sorted({bar.event_type for bar in found.bars})
    numbers = {event_type: number for number, event_type in enumerate(types)}
    return {
        "types": types,
        "bars": [[bar.start.timestamp(), numbers[bar.event_type], bar.events] for bar in found.bars],
        "back_to": found.searched_back_to.timestamp(),
        "is_complete": found.is_complete,
    }


def moment(text: str) -> datetime:
    """Return the time that a URL's parameter gives. Raises ValueError if it is not a time, or has no time zone."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("it has no time zone")
    return found
