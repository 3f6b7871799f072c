"""Nothing reads more while somebody holds back vacuum, or with millions of receipts: in pages, which no load changes.

Each side in a database of its own, step by step in turns with the side that nobody holds, so that the times of a step
can be compared. Autovacuum works as ever: on the side without a holder, it removes what dies.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import connection

from tests.benchmarks import holders as held_by
from tests.benchmarks.buffers import FEW_PAGES, Buffers, grown, measuring
from tests.benchmarks.figure import Bound, Figure, Partner, measured, short
from tests.benchmarks.in_process import in_windows
from tests.benchmarks.rounds import OLD_PERIOD_AGO, Pipeline, ask_status_and_gauges, insert_receipts
from tests.benchmarks.traffic import publish_events
from towpath.flow.verify import purge_receipts
from towpath.watch.figures import COUNTED_ROWS

if TYPE_CHECKING:
    from tests.benchmarks.lab import Lab

#: The databases.
_FREE, _SESSION, _PREPARED, _SLOT, _DRAINED = (
    f"bench_{name}" for name in ("free", "session", "prepared", "slot", "drained")
)

#: A look a second finds some hundred windows' worth; a turn of the recover shift comes with each.
_WINDOWS_PER_LOOK = 50
_STEPS = 20
#: As many windows as a step has come before the pages are counted for the first time, but no more than these.
_FIRST_WINDOWS = 1_000
#: Of these steps, the last ones, the times are compared.
_COMPARED_STEPS = 5

_TWICE = Bound("at most", 2)
_FLAT = Bound("at most", 1.25)

_RECEIPTS_PER_STEP = 250_000
#: Between these the receipts are.
_OLDEST, _NEWEST = timedelta(days=29.9), timedelta(days=2)
_RECEIPT_DAYS = 30
#: Older than what is kept; as many as one DELETE takes.
_PURGED_AGO = timedelta(days=31)
_PURGED = 900
#: What might read receipts that it need not.
_ASKED_OF_RECEIPTS = ("deliver", "recover, nothing to do", "verify, nothing to do", "purge", "status", "gauges")
_PURGE = f"purge of {_PURGED:,} receipts"
_OLD, _NEW = "pipeline verify, 29 days ago", "pipeline verify, 2 days ago"

#: In so many looks a backlog is dispatched, and each look's rows are delivered before the next.
_LOOKS_OF_DRAIN = 20
_ROWS_PER_WINDOW = 10_000


def holders(lab: Lab) -> list[Figure]:
    """Windows under each holder, then receipts, then an outbox that has drained."""
    lab.clear()
    # What is late here is so on purpose.
    logging.disable(logging.WARNING)
    try:
        return [*_windows(lab), *_receipts(lab), *_drained_outbox(lab)]
    finally:
        logging.disable(logging.NOTSET)


# --- Windows -----------------------------------------------------------------------------------------------------


class _Side:
    """Windows carried in one database, and what was measured there."""

    def __init__(self, lab: Lab, database: str) -> None:
        self.database = database
        self._lab = lab
        lab.use_database(database)
        insert_receipts(COUNTED_ROWS, oldest=timedelta(days=2), newest=timedelta(days=1))
        self._pipeline = Pipeline.new()
        self._carry(_first_windows(lab))
        self.start = self._go_round()
        self.end = Buffers()
        self.milliseconds: list[float] = []

    def step(self, windows: int) -> None:
        """So many windows more."""
        self._lab.use_database(self.database)
        began = time.perf_counter()
        self._carry(windows)
        self.milliseconds.append((time.perf_counter() - began) * 1e3 / windows)

    @property
    def last_times(self) -> list[float]:
        """Of the last steps, milliseconds per window."""
        return self.milliseconds[-_COMPARED_STEPS:]

    def finish(self) -> None:
        """Count the pages again."""
        self._lab.use_database(self.database)
        self.end = self._go_round()

    def _carry(self, windows: int) -> None:
        self._pipeline.carry(windows, windows_per_look=_WINDOWS_PER_LOOK, looks_per_turn=2)

    def _go_round(self) -> Buffers:
        with connection.cursor() as cursor:
            # As autovacuum does now and then. Where vacuum is held back, it removes nothing.
            cursor.execute("VACUUM ANALYZE")
        with measuring() as buffers:
            self._pipeline.go_round(buffers)
        return buffers


def _first_windows(lab: Lab) -> int:
    return min(_FIRST_WINDOWS, lab.sizes.held_windows // _STEPS)


def _windows(lab: Lab) -> list[Figure]:
    windows = lab.sizes.held_windows
    # Without a holder, what is read depends on when vacuum came last: the times are compared with it, and no pages.
    with lab.databases(_FREE, _SESSION):
        with held_by.session(lab.database_url(_SESSION)):
            free, session = _carried(lab, _FREE, _SESSION)
        what = f"{windows:,} windows under a session"
        figures = [
            measured(
                f"holders: time per window, after {what}",
                session.last_times,
                unit="ms",
                partner=Partner(name="without, ms", values=free.last_times),
                bound=_FLAT,
            ),
            *_of_one(session, what=what),
            *_each(session, what=what),
        ]
    with lab.databases(_PREPARED):
        with held_by.prepared_transaction(lab.database_url(_PREPARED)):
            (prepared,) = _carried(lab, _PREPARED)
        figures += _of_one(prepared, what=f"{windows:,} windows under a prepared transaction")
    # By itself, because it holds back the vacuum of every database.
    with lab.databases(_SLOT):
        with held_by.replication_slot(lab.superuser_url):
            (slot,) = _carried(lab, _SLOT)
        figures += _of_one(slot, what=f"{windows:,} windows under a replication slot")
    return figures


def _carried(lab: Lab, *databases: str) -> list[_Side]:
    """Windows in these databases, in turns."""
    windows = lab.sizes.held_windows
    sides = [_Side(lab, database) for database in databases]
    for step in range(1, _STEPS + 1):
        for side in sides:
            side.step(windows // _STEPS)
        times = ", ".join(f"{side.database}: {short(side.milliseconds[-1])} ms" for side in sides)
        lab.say(f"    {step * windows // _STEPS:>9,} windows  {times} a window")
    for side in sides:
        side.finish()
        for name, (then, now) in sorted(grown(side.start.totals, side.end.totals).items()):
            lab.say(f"    {side.database}: {name}: {now:,} pages instead of {then:,}, {side.end.most_read(name)}")
    return sides


def _of_one(side: _Side, *, what: str) -> list[Figure]:
    """The times beside the first ones, and the statement that has grown most, of those that read more than a few pages
    now."""
    before, after = side.start.totals, side.end.totals
    name = max(after, key=lambda name: (after[name] > before[name] + FEW_PAGES, after[name] / max(1, before[name])))
    first = Partner(name="the first of them, ms", values=side.milliseconds[:_COMPARED_STEPS])
    return [
        measured(f"holders: time per window, the last of {what}", side.last_times, unit="ms", partner=first),
        _pages(f"worst statement after {what}: {name}", before[name], after[name]),
    ]


def _each(side: _Side, *, what: str) -> list[Figure]:
    """All that was done once, each with all its statements."""
    before, after = side.start.by_doing(), side.end.by_doing()
    return [_pages(f"{doing}, after {what}", before[doing], after[doing]) for doing in after if after[doing]]


def _pages(what: str, before: int, after: int, *, other: str = "at the start") -> Figure:
    """What reads a few pages may read a few more: then an index has got a level, and nothing is walked."""
    return Figure(
        name=f"holders: {what}",
        value=after,
        unit="pages",
        partner=f"{other}: {before:,}",
        ratio=after / max(1, before),
        target=f"at most {_TWICE.limit:g} x",
        met=not grown({what: before}, {what: after}),
    )


# --- Receipts ----------------------------------------------------------------------------------------------------


def _receipts(lab: Lab) -> list[Figure]:
    """Millions of receipts of a month, and what is asked of them."""
    count = lab.sizes.receipts
    with lab.databases(_FREE):
        lab.use_database(_FREE)
        pipeline = Pipeline.new()
        insert_receipts(COUNTED_ROWS, oldest=_OLDEST + timedelta(hours=1), newest=_OLDEST)
        pipeline.carry(_first_windows(lab), windows_per_look=_WINDOWS_PER_LOOK, looks_per_turn=2)
        start = _asked_of_receipts(pipeline, purged_ago=_PURGED_AGO + timedelta(days=1))
        steps = max(1, count // _RECEIPTS_PER_STEP)
        stretch = (_OLDEST - _NEWEST) / steps
        for step in range(steps):
            oldest = _OLDEST - step * stretch
            insert_receipts(count // steps, oldest=oldest, newest=oldest - stretch)
            # As often as in the product, or nearly so: what has been read once is not read again.
            pipeline.recover()
            pipeline.verify()
            lab.say(f"    {(step + 1) * count // steps:>9,} receipts")
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        pipeline.carry(_first_windows(lab), windows_per_look=_WINDOWS_PER_LOOK, looks_per_turn=2)
        end = _asked_of_receipts(pipeline, purged_ago=_PURGED_AGO)
    before, after = start.by_doing(), end.by_doing()
    for name, (then, now) in sorted(grown(start.totals, end.totals).items()):
        lab.say(f"    {name}: {now:,} pages instead of {then:,}, {end.most_read(name)}")
    return [
        *(
            _pages(f"{doing}, {count:,} receipts", before[doing], after[doing], other=f"{COUNTED_ROWS:,}")
            for doing in (*_ASKED_OF_RECEIPTS, _PURGE)
        ),
        _pages(f"{_OLD}, {count:,} receipts", after[_NEW], after[_OLD], other="2 days ago"),
    ]


def _asked_of_receipts(pipeline: Pipeline, *, purged_ago: timedelta) -> Buffers:
    with measuring() as buffers:
        pipeline.go_round(buffers)
        insert_receipts(_PURGED, oldest=purged_ago + timedelta(hours=1), newest=purged_ago)
        with buffers.during(_PURGE):
            assert purge_receipts(receipt_days=_RECEIPT_DAYS, should_stop=lambda: False) == _PURGED
        pipeline.ask_for_period(buffers, _OLD, ago=OLD_PERIOD_AGO)
        pipeline.ask_for_period(buffers, _NEW, ago=_NEWEST + timedelta(hours=1))
    return buffers


# --- An outbox that has drained ----------------------------------------------------------------------------------


def _drained_outbox(lab: Lab) -> list[Figure]:
    """A backlog that is delivered under a session: what is asked before, in the middle and right after."""
    rows = lab.sizes.delivered_rows
    with lab.databases(_DRAINED), held_by.session(lab.database_url(_DRAINED)):
        lab.use_database(_DRAINED)
        pipeline = Pipeline.new(batch_ids=1000, in_flight_rows=rows // _LOOKS_OF_DRAIN)
        publish_events(_ROWS_PER_WINDOW)
        _deliver(lab, pipeline, _ROWS_PER_WINDOW)
        empty = _asked()
        publish_events(rows)
        full = _asked()
        too_many = _deliver(lab, pipeline, rows // 2)
        half = _asked()
        _deliver(lab, pipeline, rows - rows // 2 - too_many)
        drained = _asked()
    return [
        *(
            _pages(f"{doing}, in the middle of {rows:,} rows", full[doing], half[doing], other="at their start")
            for doing in half
        ),
        *(
            _pages(f"{doing}, after {rows:,} rows", empty[doing], drained[doing], other="before them")
            for doing in drained
        ),
    ]


def _asked() -> dict[str, int]:
    with measuring() as buffers:
        ask_status_and_gauges(buffers)
    return buffers.by_doing()


def _deliver(lab: Lab, pipeline: Pipeline, rows: int) -> int:
    """Deliver so many rows, look by look; how many there were besides in the last one."""
    left = rows
    while left > 0:
        lab.say(f"    {left:>9,} rows to deliver")
        pipeline.dispatcher.look()
        for window in in_windows(pipeline.dispatched.batches, rows=_ROWS_PER_WINDOW):
            pipeline.deliver(*(batch.id for batch in window))
            left -= sum(len(batch.ids) for batch in window)
        pipeline.dispatched.batches.clear()
        pipeline.recover()
        pipeline.verify()
    return -left
