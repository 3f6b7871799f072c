"""Cursor arithmetic against a model of PostgreSQL's transactions that begin, write, commit and abort in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.ledger.snapshot import Position, Run, Snapshot, Stretches, passed, unseen

if TYPE_CHECKING:
    from collections.abc import Callable

Arithmetic: TypeAlias = "Callable[[Snapshot, Position | None], Stretches]"

EVERYTHING_UNSEEN = Snapshot(1, 1, ())


@dataclass
class Database:
    """Transactions and the outbox rows they wrote, as PostgreSQL numbers and shows them."""

    next_xid: int = 100
    next_id: int = 1
    last_finished: int = 99
    open: dict[int, list[int]] = field(default_factory=dict)
    committed: list[Position] = field(default_factory=list)

    def begin(self) -> None:
        self.open[self.next_xid] = []
        self.next_xid += 1

    def write(self, xid: int) -> None:
        self.open[xid].append(self.next_id)
        self.next_id += 1

    def finish(self, xid: int, *, commits: bool) -> None:
        ids = self.open.pop(xid)
        self.last_finished = max(self.last_finished, xid)
        if commits:
            self.committed += [Position(xid, id_) for id_ in ids]

    def snapshot(self) -> Snapshot:
        """What pg_current_snapshot() says: xmax is one above the last *finished* transaction."""
        xmax = self.last_finished + 1
        in_progress = tuple(sorted(xid for xid in self.open if xid < xmax))
        return Snapshot(min(in_progress, default=xmax), xmax, in_progress)


#: Runs of a dispatcher, at most: few, so that it often has no room for another.
MOST_RUNS = 2


@dataclass
class Dispatcher:
    """Takes what is new, and pages through its runs, as `take_new` and `take_page` of ledger/take.py do."""

    seen: Snapshot = EVERYTHING_UNSEEN
    runs: list[Run] = field(default_factory=list)
    found: list[Position] = field(default_factory=list)
    arithmetic: Arithmetic = unseen

    def look(self, database: Database, *, max_rows: int) -> None:
        first = self.runs[:1]
        new = Run(self.seen, database.snapshot(), None, is_rewound=False)
        rows = self._rows(database, new)
        if len(rows) <= max_rows:
            self.found += rows
            self.seen = new.target
        elif len(self.runs) < MOST_RUNS:
            # Beside a run, nothing is taken of what is too much.
            self.runs += self._take(new, [] if first else rows[:max_rows])
            self.seen = new.target
        for run in first:
            rows = self._rows(database, run)
            left = self._take(run, rows[:max_rows])
            self.runs = self.runs[1:] + (left if len(rows) > max_rows else [])

    def _rows(self, database: Database, run: Run) -> list[Position]:
        stretches = self.arithmetic(run.seen, run.page)
        return sorted(row for row in database.committed if run.target.shows(row.xid) and is_in(stretches, row))

    def _take(self, run: Run, rows: list[Position]) -> list[Run]:
        """Find the rows; the run after them."""
        self.found += rows
        return [replace(run, page=rows[-1] if rows else run.page)]


@dataclass
class IdCursorDispatcher:
    """The obvious wrong way: rows with an id above the last one seen."""

    last_id: int = 0
    found: list[Position] = field(default_factory=list)

    def look(self, database: Database, *, max_rows: int) -> None:
        rows = sorted((row for row in database.committed if row.id > self.last_id), key=lambda row: row.id)[:max_rows]
        self.found += rows
        self.last_id = max((row.id for row in rows), default=self.last_id)


def is_in(stretches: Stretches, row: Position) -> bool:
    tail = stretches.tail
    return (row.xid, row.id) > (tail.xid, tail.id) or any(
        row.xid == start.xid and row.id > start.id for start in stretches.open_transactions
    )


#: begin, write, commit and abort of any open transaction (chosen by the number), and looks of the dispatcher.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "write", "write", "commit", "commit", "abort", "look", "look"]), st.integers(0)
    ),
    min_size=1,
    max_size=120,
)


def run(
    dispatcher: Dispatcher | IdCursorDispatcher,
    steps: list[tuple[str, int]],
    *,
    max_rows: int,
    check: Callable[[Database], None] = lambda _: None,
) -> tuple[Counter[Position], Counter[Position]]:
    """(found, committed) after these steps, the end of all transactions, and enough looks."""
    database = Database()
    for action, number in steps:
        chosen = sorted(database.open)[number % len(database.open)] if database.open else None
        if action == "begin":
            database.begin()
        elif action == "look":
            dispatcher.look(database, max_rows=max_rows)
        elif chosen is not None and action == "write":
            database.write(chosen)
        elif chosen is not None:
            database.finish(chosen, commits=action == "commit")
        check(database)
    for xid in sorted(database.open, reverse=True):
        database.finish(xid, commits=True)
    for _ in range(len(database.committed) + 2):
        dispatcher.look(database, max_rows=max_rows)
        check(database)
    return Counter(dispatcher.found), Counter(database.committed)


@settings(max_examples=1000, deadline=None)
@given(steps=STEPS, max_rows=st.integers(1, 5))
def test_what_a_cursor_has_passed_is_what_it_has_found(steps: list[tuple[str, int]], max_rows: int) -> None:
    dispatcher = Dispatcher()

    def check(database: Database) -> None:
        ranges = passed(dispatcher.seen, dispatcher.runs)
        found = [row for row in database.committed if any(one.after < row <= one.until for one in ranges)]
        assert sorted(found) == sorted(dispatcher.found)

    run(dispatcher, steps, max_rows=max_rows, check=check)


@settings(max_examples=1000, deadline=None)
@given(steps=STEPS, max_rows=st.integers(1, 5))
def test_every_committed_row_is_found_exactly_once(steps: list[tuple[str, int]], max_rows: int) -> None:
    found, committed = run(Dispatcher(), steps, max_rows=max_rows)

    assert found == committed


def test_a_cursor_over_ids_loses_rows_in_the_same_simulation() -> None:
    """Shows that the test above can fail."""
    # Given two transactions, of which the second to write is the first to commit, and a look in between
    steps = [("begin", 0), ("begin", 0), ("write", 0), ("write", 1), ("commit", 1), ("look", 0)]

    found, committed = run(IdCursorDispatcher(), steps, max_rows=5)

    assert found != committed
    assert run(Dispatcher(), steps, max_rows=5) == (committed, committed)


def without_open_transactions(seen: Snapshot, page: Position | None) -> Stretches:
    return Stretches((), unseen(seen, page).tail)


def without_position_in_open_transactions(seen: Snapshot, page: Position | None) -> Stretches:
    return Stretches(tuple(Position(xid, 0) for xid in seen.xip), unseen(seen, page).tail)


def without_position_in_tail(seen: Snapshot, page: Position | None) -> Stretches:
    return Stretches(unseen(seen, page).open_transactions, Position(seen.xmax, 0))


def with_tail_above_xmax(seen: Snapshot, page: Position | None) -> Stretches:
    return Stretches(unseen(seen, page).open_transactions, Position(seen.xmax + 1, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        without_open_transactions,
        without_position_in_open_transactions,
        without_position_in_tail,
        with_tail_above_xmax,
    ],
)
def test_the_simulation_notices_wrong_arithmetic(wrong: Arithmetic) -> None:
    """Shows that the property above can fail."""
    # Given a transaction with more rows than a page that is open while the dispatcher looks, then commits, and another
    # one with more rows than a page that comes after it
    steps = [("begin", 0), ("begin", 0), ("write", 1), ("commit", 1), ("look", 0)]
    steps += [("write", 0), ("write", 0), ("write", 0), ("commit", 0), ("look", 0), ("look", 0)]
    steps += [("begin", 0), ("write", 0), ("write", 0), ("write", 0), ("commit", 0), ("look", 0), ("look", 0)]

    found, committed = run(Dispatcher(arithmetic=wrong), steps, max_rows=2)

    assert found != committed
    assert run(Dispatcher(), steps, max_rows=2) == (committed, committed)


def test_a_snapshot_is_read_from_its_text() -> None:
    assert Snapshot.parse("795:799:795,797") == Snapshot(795, 799, (795, 797))
    assert Snapshot.parse("795:795:") == Snapshot(795, 795, ())


def test_a_snapshot_shows_what_was_finished_when_it_was_taken() -> None:
    snapshot = Snapshot.parse("795:799:795,797")

    assert [xid for xid in range(794, 801) if snapshot.shows(xid)] == [794, 796, 798]


def test_a_page_that_ended_among_the_open_transactions_is_continued_there() -> None:
    seen = Snapshot(10, 20, (10, 12, 15))

    stretches = unseen(seen, Position(12, 700))

    assert stretches.open_transactions == (Position(12, 700), Position(15, 0))
    assert stretches.tail == Position(20, 0)


def test_a_page_that_ended_in_the_tail_is_continued_there() -> None:
    seen = Snapshot(10, 20, (10, 12, 15))

    assert unseen(seen, Position(25, 700)) == Stretches((), Position(25, 700))
