"""Figure 7: nothing gets slower as things grow. The large side in turns with the small one, in databases of their own.

In this process, stage by stage, so that a difference of a few per cent is seen and no queue hides it.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from django.db import connection

from tests.administering import administer, on_database
from tests.benchmarks import holders
from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.in_process import (
    Dispatched,
    carry_window,
    drop_dispatched,
    in_windows,
    make_dispatcher,
    seconds_of_look,
)
from tests.benchmarks.many_outboxes import fifty_outboxes, forget_them
from tests.benchmarks.traffic import publish_events, publish_users
from towpath.outbox.models import OutboxEvent, all_outboxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.lab import Lab
    from towpath.flow.dispatch import Dispatcher

_SMALL, _LARGE = "bench_small", "bench_large"
_WINDOW_ROWS = 1000
_FLAT = Bound("at most", 1.25)
#: Of as many, the quickest counts: these take a tenth of a millisecond, half of it the way to another core and back.
_IDLE_LOOKS = 100
#: Rows delivered at a time under the open transaction.
_STEP_ROWS = 5000


def flat(lab: Lab) -> list[Figure]:
    """All comparisons, one after another."""
    figures: list[Figure] = []
    for compare in (_users, _statistics, _backlog, _delivered_rows, _outboxes):
        lab.clear()
        with lab.databases(_SMALL, _LARGE):
            figures += compare(lab)
    return figures


def _users(lab: Lab) -> list[Figure]:
    small, large = lab.sizes.flat_small, lab.sizes.flat_large
    for name, count in ((_SMALL, small), (_LARGE, large)):
        lab.use_database(name)
        publish_users(count)
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE outbox_user")
            cursor.execute("VACUUM ANALYZE users")
    rows = lab.sizes.flat_windows * _WINDOW_ROWS

    def run() -> float:
        with connection.cursor() as cursor:
            # All over the table, not its newest pages.
            cursor.execute(
                "INSERT INTO outbox_user (user_id) SELECT u.id FROM generate_series(1, %s) AS n"
                " CROSS JOIN LATERAL (SELECT id FROM users WHERE id >= 1 + (hashint4(n)::bigint + 2147483648)"
                " * (SELECT max(id) FROM users) / 4294967296 ORDER BY id LIMIT 1) AS u",
                [rows],
            )
        return _milliseconds_per_window(lab, rows)

    return [_compared(lab, "time per window", f"{large:,} users", f"{small:,} users", run, unit="ms")]


def _statistics(lab: Lab) -> list[Figure]:
    """The planner takes the large side's users for an empty table, as after a bulk import that ANALYZE came too early
    for. The rows are the same.
    """
    users = lab.sizes.flat_small
    rows = lab.sizes.flat_windows * _WINDOW_ROWS
    for name in (_SMALL, _LARGE):
        lab.use_database(name)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE users SET (autovacuum_enabled = off)")
            if name == _LARGE:
                cursor.execute("VACUUM ANALYZE users")
            publish_users(users)
            if name == _SMALL:
                cursor.execute("ANALYZE users")
            else:
                # What ANALYZE writes when the rows of a bulk INSERT are not committed yet: pages, but no rows.
                administer(
                    on_database(lab.superuser_url, name),
                    "UPDATE pg_class SET reltuples = 0, relpages = pg_relation_size(oid) / 8192"
                    " WHERE relname = 'users'",
                )
            cursor.execute("TRUNCATE outbox_user")

    def run() -> float:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO outbox_user (user_id) SELECT id FROM users, generate_series(1, %s) LIMIT %s",
                [rows // users + 1, rows],
            )
        return _milliseconds_per_window(lab, rows)

    what, other = "statistics of an empty table", "statistics up to date"
    return [_compared(lab, "time per window", what, other, run, unit="ms")]


def _backlog(lab: Lab) -> list[Figure]:
    """The large backlog is published once; each turn takes as much off it as the small one has."""
    small, large = lab.sizes.flat_small, lab.sizes.flat_large
    lab.use_database(_LARGE)
    publish_events(large)
    lab.use_database(_SMALL)

    def run() -> float:
        if not OutboxEvent.objects.exists():
            publish_events(small)
        return _milliseconds_per_window(lab, small)

    return [_compared(lab, "time per window", f"a backlog of {large:,}", f"{small:,}", run, unit="ms")]


def _delivered_rows(lab: Lab) -> list[Figure]:
    delivered = lab.sizes.delivered_rows
    dispatcher = _dispatcher()
    with holders.session(lab.database_url(_LARGE)):
        lab.use_database(_LARGE)
        dispatcher.create_cursors()
        for _ in range(delivered // _STEP_ROWS):
            publish_events(_STEP_ROWS)
            dispatcher.look()
            drop_dispatched()
        what, other = f"after {delivered:,} delivered rows under an open transaction", "none, no open transaction"
        return [
            *_compared_idle_looks(lab, what, other, _dispatcher),
            _compared_busy_looks(lab, what, other, _dispatcher, lambda: publish_events(_WINDOW_ROWS)),
        ]


def _outboxes(lab: Lab) -> list[Figure]:
    lab.use_database(_LARGE)
    outboxes = fifty_outboxes()
    try:

        def publish(rows_each: int) -> None:
            if connection.settings_dict["NAME"] == _SMALL:
                publish_events(len(outboxes) * rows_each)
            else:
                for table in outboxes:
                    publish_events(rows_each, table=table)

        def dispatcher() -> Dispatcher:
            is_small = connection.settings_dict["NAME"] == _SMALL
            chosen = {"outbox_event": OutboxEvent} if is_small else outboxes
            return make_dispatcher(chosen, enqueue=Dispatched(), in_flight_rows=100_000)

        what, other = f"{len(outboxes)} outbox tables", "1 outbox table"
        return [
            *_compared_idle_looks(lab, what, other, dispatcher),
            _compared_busy_looks(lab, f"{what}, 100 rows each", f"{other}, as many", dispatcher, lambda: publish(100)),
            _compared_busy_looks(
                lab, f"{what}, 1000 rows each", f"{other}, as many", dispatcher, lambda: publish(1000)
            ),
        ]
    finally:
        forget_them()


def _milliseconds_per_window(lab: Lab, rows: int) -> float:
    """Dispatch, seal, load, write and ack of `rows` rows, a window of a thousand at a time."""
    dispatched = Dispatched()
    dispatcher = make_dispatcher(all_outboxes(), enqueue=dispatched, in_flight_rows=2 * rows, window_rows=_WINDOW_ROWS)
    began = time.perf_counter()
    # More than once where the last turn's page was full: the first look only finds that there is nothing after it.
    while sum(len(batch.ids) for batch in dispatched.batches) < rows:
        dispatcher.look()
    windows = in_windows(dispatched.batches, rows=_WINDOW_ROWS)
    for window in windows:
        carry_window(window, lab.store)
    return (time.perf_counter() - began) / len(windows) * 1e3


def _compared_idle_looks(lab: Lab, what: str, other: str, dispatcher: Callable[[], Dispatcher]) -> list[Figure]:
    """A look that finds nothing, without and with commits of others since the last look.

    A dispatcher may know without looking that nothing can be new while no transaction has ended at all. A database is
    seldom as quiet as that, so both are measured.
    """

    def idle() -> float:
        looking = dispatcher()
        looking.look()
        return min(seconds_of_look(looking) for _ in range(_IDLE_LOOKS)) * 1e3

    def idle_among_others() -> float:
        looking = dispatcher()
        looking.look()
        times = []
        for _ in range(_IDLE_LOOKS):
            _commit_something_else()
            times.append(seconds_of_look(looking))
        return min(times) * 1e3

    return [
        _compared(lab, "idle dispatch look", what, other, idle, unit="ms"),
        _compared(lab, "idle dispatch look while others commit", what, other, idle_among_others, unit="ms"),
    ]


def _compared_busy_looks(
    lab: Lab, what: str, other: str, dispatcher: Callable[[], Dispatcher], publish: Callable[[], None]
) -> Figure:
    """A look that finds rows, which are taken away afterwards."""

    def busy() -> float:
        looking = dispatcher()
        looking.look()
        times = []
        for _ in range(5):
            publish()
            times.append(seconds_of_look(looking))
            drop_dispatched()
        return statistics.median(times) * 1e3

    return _compared(lab, "busy dispatch look", what, other, busy, unit="ms")


def _compared(lab: Lab, quantity: str, what: str, other: str, run: Callable[[], float], *, unit: str) -> Figure:
    def on(database: str) -> Callable[[], float]:
        def there() -> float:
            lab.use_database(database)
            return run()

        return there

    on(_SMALL)(), on(_LARGE)()  # connections, caches
    sides = {f"{quantity}, {other}": on(_SMALL), f"{quantity}, {what}": on(_LARGE)}
    small, large = in_turns(sides, repeats=lab.sizes.repeats, say=lab.say, unit=unit).values()
    return measured(
        f"flat: {quantity}, {what}",
        large,
        unit=unit,
        partner=Partner(name=f"{other}, {unit}", values=small),
        bound=_FLAT,
    )


def _commit_something_else() -> None:
    """A transaction that has nothing to do with any outbox."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")


def _dispatcher() -> Dispatcher:
    return make_dispatcher(all_outboxes(), enqueue=Dispatched(), in_flight_rows=100_000)
