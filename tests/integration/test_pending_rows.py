"""Pending rows are counted from the cursor's position on: each once, and none of the dead."""

from __future__ import annotations

import contextlib
import random
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.extensions
import pytest
from django.db import connection

from tests.benchmarks import holders
from tests.benchmarks.buffers import measuring
from tests.benchmarks.sql_log import server_settings
from tests.benchmarks.traffic import publish_events
from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.rows import execute, write_events
from tests.integration.windows import deliver, seal, sealed
from towpath.flow.delivery import Delivery
from towpath.watch import figures
from towpath.watch.gauges import read_gauges
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.services import Services
    from towpath.eventlog.store import EventStore
    from towpath.watch.figures import OutboxFigures

_EVENT = "outbox_event"
_INSERT = (
    "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
    " SELECT 'x', now() - make_interval(mins => %s), '{}', 1 FROM generate_series(1, %s)"
)


def truly_pending() -> int:
    """Rows that are committed, and neither in a batch nor dead letters."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM outbox_event WHERE id NOT IN (SELECT unnest(ids) FROM pipeline_batch)"
            " AND id NOT IN (SELECT row_id FROM pipeline_deadletter)"
        )
        return int(cursor.fetchone()[0])


def counted() -> OutboxFigures:
    """What `pipeline status` and the page show of this outbox; who consumes and the store are not asked."""
    return read_status().figures.outboxes[_EVENT]


def shown() -> tuple[int, int]:
    found = counted()
    return found.pending, found.in_flight


def oldest_minutes() -> float | None:
    age = counted().oldest_age_seconds
    return None if age is None else age / 60


@contextlib.contextmanager
def sessions(services: Services, count: int) -> Iterator[list[psycopg2.extensions.connection]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(closing(psycopg2.connect(services.postgres.url))) for _ in range(count)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_every_committed_row_is_pending_in_flight_or_gone(
    services: Services, store: EventStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """While transactions open and end in any order, and pages of a backlog are dispatched in between."""
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 7)
    chance = random.Random(seed)
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=5)

    with sessions(services, 4) as writers:
        for _ in range(60):
            writer = chance.choice(writers)
            match chance.randrange(6):
                case 0 | 1:
                    writer.cursor().execute(_INSERT, [0, chance.randint(1, 20)])
                case 2 | 3:
                    chance.choice([writer.commit, writer.commit, writer.rollback])()
                case 4:
                    dispatcher.look()
                case 5 if sent.batches:
                    window = seal([sent.batches.pop(0).id])
                    if window is not None:
                        assert deliver(window, store) is Delivery.ACKED
            assert shown()[0] == truly_pending()


def test_rows_of_an_outbox_that_nobody_has_looked_at_are_pending() -> None:
    write_events(["{}"] * 3)

    assert shown() == (3, 0)


def test_rows_that_a_restore_has_brought_are_pending_but_for_those_in_flight() -> None:
    """The cursor is of another cluster, and means nothing."""
    write_events(["{}"] * 3)
    sealed()
    write_events(["{}"] * 4)
    execute("UPDATE pipeline_cursor SET cluster = 'another'")

    assert shown() == (4, 3)


def test_rows_that_are_not_committed_are_not_pending(services: Services) -> None:
    dispatch_all(make_dispatcher(Sent()))
    with sessions(services, 1) as (writer,):
        writer.cursor().execute(_INSERT, [0, 5])
        assert shown() == (0, 0)
        writer.commit()
        assert shown() == (5, 0)


def test_the_oldest_event_is_looked_for_in_batches_and_among_pending_rows(
    services: Services, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 10)
    dispatcher = make_dispatcher(sent := Sent(), batch_ids=10)
    assert oldest_minutes() is None

    # Given a backlog whose first page is in flight, and whose rest is older
    with sessions(services, 1) as (writer,):
        writer.cursor().execute(_INSERT, [30, 10])
        writer.cursor().execute(_INSERT, [90, 5])
        writer.commit()
    while not sent.batches:
        dispatcher.look()
    assert shown() == (5, 10)
    assert oldest_minutes() == pytest.approx(90, abs=2)

    # When the rest is gone, then the oldest is in flight
    execute("DELETE FROM outbox_event WHERE event_date_time < now() - interval '1 hour'")
    assert shown() == (0, 10)
    assert oldest_minutes() == pytest.approx(30, abs=2)

    # And when somebody has deleted these, it is as old as its batch
    execute("DELETE FROM outbox_event")
    assert oldest_minutes() == pytest.approx(0, abs=2)
    window = seal([batch.id for batch in sent.batches])
    assert window is not None
    deliver(window, store)
    assert oldest_minutes() is None


def test_a_dead_letter_is_neither_pending_nor_the_oldest(store: EventStore) -> None:
    write_events(["{}"] * 20)
    write_events(["{}"], at="infinity")
    assert deliver(sealed(), store) is Delivery.ACKED

    found = counted()

    assert (found.pending, found.in_flight, found.dead_letters) == (0, 0, 1)
    assert found.oldest_age_seconds is None


# --- What it costs -----------------------------------------------------------------------------------------------

_DELIVERED = 30_000


@pytest.mark.parametrize("is_held", [False, True])
def test_status_and_gauges_cost_the_same_before_during_and_after_a_drain(
    services: Services, monkeypatch: pytest.MonkeyPatch, *, is_held: bool
) -> None:
    """In pages that are read: of dead rows, few; of the rows that wait, those that are counted."""
    monkeypatch.setattr(figures, "COUNTED_ROWS", 1_000)
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 5_000)
    dispatcher = make_dispatcher(sent := Sent())
    holder = holders.session(services.postgres.url) if is_held else contextlib.nullcontext()
    with server_settings({"autovacuum": "off"}), holder, measuring() as pages:
        publish_events(1_000)

        def look(when: str) -> None:
            with pages.during(when):
                read_status()
                read_gauges()

        dispatch_all(dispatcher)
        _deliver_by_force(sent)
        look("empty")
        publish_events(2 * _DELIVERED)
        look("backlog")
        for _ in range(_DELIVERED // 5_000):
            dispatcher.look()
        look("in flight")
        _deliver_by_force(sent)
        look("draining")
        dispatch_all(dispatcher)
        _deliver_by_force(sent)
        look("drained")
        assert shown() == (0, 0)

    read = {when: _of(pages.totals, when) for when in ("empty", "backlog", "in flight", "draining", "drained")}
    assert sum(read["drained"].values()) <= 1.5 * sum(read["empty"].values()), read
    assert sum(read["draining"].values()) <= 1.5 * sum(read["backlog"].values()), read
    # And the batches, which back-pressure bounds.
    assert sum(read["in flight"].values()) <= 2 * sum(read["backlog"].values()), read


def _of(totals: Mapping[str, int], when: str) -> dict[str, int]:
    return {name.removeprefix(f"{when}: "): pages for name, pages in totals.items() if name.startswith(f"{when}: ")}


def _deliver_by_force(sent: Sent) -> None:
    """What acks leave behind, without the windows."""
    sent.batches.clear()
    execute(
        "DELETE FROM outbox_event WHERE id IN (SELECT unnest(ids) FROM pipeline_batch)",
        "DELETE FROM pipeline_batch",
        # PostgreSQL counts the dead a second later by itself.
        "SELECT pg_stat_force_next_flush()",
    )
