"""Compare the OBT with another table that should hold the same events: for a project that still writes its old log.

Two rows are the same event when type and context are equal, byte for byte. Their times need not be: the old code and
`publish()` each read the clock. The rows are compared hour by hour, and one is missing on the other side only if that
has none left for it within `slack` around the hour either.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from datetime import datetime

    from towpath.eventlog.store import Digest, ReadableStore

#: Compared at a time: bounds what the stores have to sort.
_STEP = timedelta(hours=1)

Side = Literal["here", "there"]
SIDES: tuple[Side, Side] = ("here", "there")


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows of one context that only one side has. `at` is the time of the first of them."""

    side: Side
    event_type: str
    at: datetime
    md5: str
    rows: int


@dataclass(slots=True)
class Comparison:
    """What the two sides hold. `differences` has the first of them only, `missing` counts all, by side."""

    #: Rows by (event_type, hour) and side.
    rows: dict[tuple[str, datetime], Counter[Side]] = field(default_factory=dict)
    missing: Counter[Side] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """True if there were events, and each on both sides."""
        return bool(self.rows) and not self.missing


def compare(
    here: ReadableStore,
    there: ReadableStore,
    table: str,
    *,
    since: datetime,
    until: datetime,
    slack: timedelta,
    most_differences: int,
    only_here: Collection[str] = (),
) -> Comparison:
    """The events of the OBT `here` and of `table` in the store `there`, from `since` to before `until`.

    Events of the types `only_here` need not be there.
    """
    comparison = Comparison()
    for start, end in _steps(since, until):
        for ours, theirs in _paired(
            here.digests(None, since=start, until=end, slack=slack),
            there.digests(table, since=start, until=end, slack=slack),
        ):
            if ours and not (theirs is None and ours.event_type in only_here):
                _note(comparison, ours, theirs, side="here", hour=start, most=most_differences)
            _note(comparison, theirs, ours, side="there", hour=start, most=most_differences)
    return comparison


def _steps(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The hours of the period; the first and the last may be a part of one."""
    while since < until:
        end = min(until, since.replace(minute=0, second=0, microsecond=0) + _STEP)
        yield since, end
        since = end


def _paired(here: Iterable[Digest], there: Iterable[Digest]) -> Iterator[tuple[Digest | None, Digest | None]]:
    """What both sides have of each context; both come in the same order."""
    tagged = heapq.merge(((one, 0) for one in here), ((one, 1) for one in there), key=lambda pair: pair[0].key)
    for _, group in itertools.groupby(tagged, key=lambda pair: pair[0].key):
        sides = {side: one for one, side in group}
        yield sides.get(0), sides.get(1)


def _note(
    comparison: Comparison, own: Digest | None, other: Digest | None, *, side: Side, hour: datetime, most: int
) -> None:
    if own is None or not own.inside:
        return
    hour = hour.replace(minute=0, second=0, microsecond=0)
    comparison.rows.setdefault((own.event_type, hour), Counter())[side] += own.inside
    missing = own.inside - (other.around if other else 0)
    if missing > 0:
        comparison.missing[side] += missing
        if len(comparison.differences) < most:
            comparison.differences.append(Difference(side, own.event_type, own.first_at, own.md5, missing))
