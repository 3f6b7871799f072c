"""Cursor arithmetic: which rows a dispatcher that has seen one snapshot must look at next. Pure.

Rows commit out of id order and out of transaction order, so no "greater than the last one" finds all of them. What a
later snapshot shows and an earlier one did not is exactly: the transactions that were open in the earlier one
(`xip`), and all from its `xmax` on. (PgQ's snapshot diff; research in docs/decisions/0002-snapshot-cursor.md.)

What is too much for one look becomes a run: the difference of two snapshots, which is dispatched page by page while
the cursor moves on. Two differences without an overlap have no row in common (docs/decisions/0015-runs.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """PostgreSQL's `pg_snapshot`: transactions below `xmax` are finished, but for those in `xip`."""

    xmin: int
    xmax: int
    xip: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From PostgreSQL's text form, `xmin:xmax:xip,xip,...`."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in xip.split(",") if xid))

    def shows(self, xid: int) -> bool:
        """True if what transaction `xid` committed is visible in this snapshot (`pg_visible_in_snapshot`)."""
        return xid < self.xmax and xid not in self.xip

    def __str__(self) -> str:
        """PostgreSQL's text form."""
        return f"{self.xmin}:{self.xmax}:{','.join(str(xid) for xid in self.xip)}"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A row, in the order (xid, id): the last one of a page."""

    xid: int
    id: int


@dataclass(frozen=True, slots=True)
class Stretches:
    """Where the rows not yet seen are, as index ranges over (xid, id).

    `open_transactions`: rows of these transactions with an id above the one given. `tail`: rows after this position.
    """

    open_transactions: tuple[Position, ...]
    tail: Position


def unseen(seen: Snapshot, page: Position | None) -> Stretches:
    """The stretches that hold every row `seen` does not show and that comes after `page`."""
    start_of_tail = Position(seen.xmax, 0)
    if page is None:
        return Stretches(tuple(Position(xid, 0) for xid in sorted(seen.xip)), start_of_tail)
    remaining = tuple(page if xid == page.xid else Position(xid, 0) for xid in sorted(seen.xip) if xid >= page.xid)
    return Stretches(remaining, page if page.xid >= seen.xmax else start_of_tail)


@dataclass(frozen=True, slots=True)
class Run:
    """Rows too many for one look: those that `seen` does not show and `target` does, and that come after `page`.

    One that is rewound leaves out what batches and dead letters hold.
    """

    seen: Snapshot
    target: Snapshot
    page: Position | None
    is_rewound: bool


@dataclass(frozen=True, slots=True)
class Range:
    """The rows after a position, up to and with another."""

    after: Position
    until: Position


#: Below and above every row's id.
_LOWEST_ID, _HIGHEST_ID = -(2**63), 2**63 - 1


def passed(seen: Snapshot, runs: Sequence[Run]) -> list[Range]:
    """The ranges that hold every row which `seen` shows and which none of the runs has still to come to."""
    found = list(_between(Position(0, _LOWEST_ID), seen))
    for run in runs:
        for waiting in _still_to_come(run):
            found = [rest for one in found for rest in _without(one, waiting)]
    return found


def ending_before(xid: int, ranges: Sequence[Range]) -> list[Range]:
    """What is in the ranges of transactions below this one."""
    return [Range(one.after, min(one.until, _last_of(xid - 1))) for one in ranges if one.after < _last_of(xid - 1)]


def _still_to_come(run: Run) -> Iterator[Range]:
    stretches = unseen(run.seen, run.page)
    for start in stretches.open_transactions:
        if run.target.shows(start.xid):
            yield Range(start, _last_of(start.xid))
    yield from _between(stretches.tail, run.target)


def _between(after: Position, snapshot: Snapshot) -> Iterator[Range]:
    """The ranges after a position that hold what the snapshot shows."""
    for xid in (*sorted(snapshot.xip), snapshot.xmax):
        if after < _last_of(xid - 1):
            yield Range(after, _last_of(xid - 1))
        after = max(after, _last_of(xid))


def _last_of(xid: int) -> Position:
    return Position(xid, _HIGHEST_ID)


def _without(one: Range, other: Range) -> Iterator[Range]:
    """What is left of one range without the other."""
    if one.after < min(one.until, other.after):
        yield Range(one.after, min(one.until, other.after))
    if max(one.after, other.until) < one.until:
        yield Range(max(one.after, other.until), one.until)
