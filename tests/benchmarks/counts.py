"""Figure 8: what an event and a window cost, in things that can be counted: the same on every machine.

Used twice: `bench` prints the counts, `test_counts` holds the product to bounds. A count that grows is a regression
that no noise hides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection

from tests.benchmarks.in_process import Dispatched, carry_window, in_windows, make_dispatcher
from tests.benchmarks.sql_log import Counts, counted, counting
from tests.benchmarks.traffic import publish_users
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from towpath.eventlog.store import EventStore


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCounts:
    """A backlog of users on its way: one publish, one look, window after window."""

    events: int
    windows: int
    messages: int
    parts: int
    #: Nothing was committed in the whole database since the look before.
    quiet_look: Counts
    #: Nothing was published, but other transactions ended.
    idle_look: Counts
    publish: Counts
    look: Counts
    delivery: Counts

    @property
    def statements_per_window(self) -> float:
        return len(self.delivery.statements) / self.windows

    @property
    def round_trips_per_window(self) -> float:
        """With the insert into the event store."""
        return self.statements_per_window + 1

    @property
    def statements_per_event(self) -> float:
        """From dispatch to ack."""
        return (len(self.look.statements) + len(self.delivery.statements)) / self.events

    @property
    def wal_bytes_per_event(self) -> float:
        """From dispatch to ack."""
        return (self.look.wal_bytes + self.delivery.wal_bytes) / self.events

    @property
    def wal_bytes_per_window(self) -> float:
        return self.delivery.wal_bytes / self.windows

    @property
    def messages_per_1000_events(self) -> float:
        return self.messages * 1e3 / self.events

    @property
    def parts_per_million_events(self) -> float:
        return self.parts * 1e6 / self.events


def count_path(*, log: Path, store: EventStore, clickhouse: Client, events: int, window_rows: int) -> PathCounts:
    """Carry `events` users in windows of `window_rows` and count. Everything must be empty before."""
    dispatched = Dispatched()
    dispatcher = make_dispatcher(all_outboxes(), enqueue=dispatched, in_flight_rows=2 * events, window_rows=window_rows)
    publish_users(window_rows)
    while not dispatched.batches:  # the first look may only end the pages of the run before
        dispatcher.look()
    carry_window(dispatched.batches, store)
    dispatched.batches.clear()
    # Once more for what the window left behind: the first look after a delivery prunes its dead rows, which is WAL.
    dispatcher.look()
    block = last_block(clickhouse)
    with counting(log):
        with counted(log, is_own=True) as quiet_look:
            dispatcher.look()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
        with counted(log, is_own=True) as idle_look:
            dispatcher.look()
        with counted(log, is_own=True) as publish:
            publish_users(events)
        with counted(log, is_own=True) as look:
            dispatcher.look()
        windows = in_windows(dispatched.batches, rows=window_rows)
        with counted(log, is_own=True) as delivery:
            for window in windows:
                carry_window(window, store)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM outbox_user")
        assert cursor.fetchone() == (0,)
    return PathCounts(
        events=events,
        windows=len(windows),
        messages=len(dispatched.batches),
        parts=last_block(clickhouse) - block,
        quiet_look=quiet_look,
        idle_look=idle_look,
        publish=publish,
        look=look,
        delivery=delivery,
    )


def last_block(clickhouse: Client) -> int:
    """The number of the event log's last inserted block: merges make fewer parts of them, but keep the number."""
    rows = clickhouse.query(
        # Another database of the server may have a table of this name, with numbers of its own.
        "SELECT max(max_block_number) FROM system.parts"
        " WHERE database = currentDatabase() AND table = 'event_log' AND active"
    ).result_rows
    return int(rows[0][0])
