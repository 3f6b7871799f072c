"""Cursor arithmetic: which rows a dispatcher that has seen one snapshot must look at next. Pure.

Rows commit out of id order and out of transaction order, so no "greater than the last one" finds all of them. What a
later snapshot shows and an earlier one did not is exactly: the transactions that were open in the earlier one
(`xip`), and all from its `xmax` on. (PgQ's snapshot diff; research in docs/decisions/0002-snapshot-cursor.md.)
"""

from __future__ import annotations

from collections.abc import Iterator
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


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page, in the order (xid, id)."""

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


#: Below and above every row's id.
_LOWEST_ID, _HIGHEST_ID = -(2**63), 2**63 - 1


def passed(seen: Snapshot) -> Iterator[tuple[Position, int]]:
    """The stretches that hold every row which `seen` shows: those after a position, of transactions below another."""
    after = Position(0, _LOWEST_ID)
    for xid in (*sorted(seen.xip), seen.xmax):
        yield after, xid
        after = Position(xid, _HIGHEST_ID)
