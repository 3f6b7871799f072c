"""Metrics against the truth: what is scraped is what has happened."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from datetime import UTC, datetime
from typing import get_args
from urllib.error import URLError

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from structlog.testing import capture_logs

from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered_within
from tests.integration.queues import queue_length
from tests.integration.rows import create_users, write_events
from tests.integration.scraping import Counted, Samples, measure_at_each_scrape, scrape
from tests.integration.stores import LosesInserts
from tests.integration.windows import age_batches, deliver, dispatched, expire_leases, recover, sealed, taken_over
from tests.integration.workers import QUICK, Workers
from tests.ports import any_free_port
from tests.services import Services
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.store import Store
from towpath.flow import canary
from towpath.flow.accumulate import WindowLimits
from towpath.flow.aggregator import Aggregator
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import Cursor, Window
from towpath.telemetry.metrics import (
    LEDGER_GAUGES,
    CloseReason,
    dead_letters,
    open_windows,
    pending_rows,
    unsealed_batches,
)
from towpath.watch import figures, health, status
from towpath.watch.gauges import read_gauges
from towpath.watch.within import Within
from towpath.wiring import window_rules

WAIT_SECONDS = 60


@pytest.fixture
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_at_each_scrape(monkeypatch)


def ledger() -> Samples:
    """What the web process serves."""
    response = Client().get("/metrics")
    assert response.status_code == 200, response.content
    return Samples(response.content.decode())


# --- Real processes ----------------------------------------------------------------------------------------------


def test_every_role_counts_what_really_happened(workers: Workers, event_log: EventLog, services: Services) -> None:
    # Given the processes of the application, each with its metrics
    ports = {"dispatcher": any_free_port(), "aggregator": any_free_port()}
    workers.dispatcher(**QUICK, METRICS_PORT=str(ports["dispatcher"]))
    workers.aggregator(**QUICK, METRICS_PORT=str(ports["aggregator"]))
    workers.web()
    workers.wait_until_ready()

    # When rows are delivered
    create_users(2500)
    write_events(["{}"] * 7)
    assert_delivered_within(event_log, committed=2507, seconds=WAIT_SECONDS)

    # Then the dispatcher has counted what was committed
    dispatcher = scrape(ports["dispatcher"])
    assert dispatcher.of("towpath_dispatched_rows_total", outbox="outbox_user") == 2500
    assert dispatcher.of("towpath_dispatched_rows_total", outbox="outbox_event") == 7
    assert dispatcher.of("towpath_batches_total", outbox="outbox_user") >= 2500 / settings.TOWPATH.batch_ids
    assert dispatcher.of("towpath_stage_seconds_count", stage="dispatch") >= 1

    # And the aggregator what was stored (it counts when the ledger has it already)
    windows = Window.objects.count()
    aggregator = eventually(
        lambda: (found := scrape(ports["aggregator"])).of("towpath_window_rows_count") == windows and found,
        seconds=WAIT_SECONDS,
    )
    assert aggregator
    assert aggregator.of("towpath_acked_rows_total", outbox="outbox_user") == 2500
    assert aggregator.of("towpath_acked_rows_total", outbox="outbox_event") == 7
    assert aggregator["towpath_window_rows_sum"] == 2507
    assert aggregator.of("towpath_inserts_total", outcome="stored") == windows
    assert aggregator.of("towpath_inserts_total", outcome="refused") == 0
    assert aggregator.of("towpath_refused_rows_total", outbox="outbox_event") == 0  # there before the first one is
    assert sum(aggregator.of("towpath_windows_total", reason=reason) for reason in ("rows", "linger")) == windows
    for stage in ("accumulate", "seal", "load", "write", "ack"):
        assert aggregator.of("towpath_stage_seconds_count", stage=stage) == windows, stage
    assert aggregator["towpath_loaded_bytes_total"] > 100 * 2507
    assert aggregator["towpath_end_to_end_seconds_count"] >= windows

    # And the web process says that nothing is left
    web = scrape(services.web_port)
    for outbox in ("outbox_user", "outbox_event"):
        for gauge in ("pending_rows", "in_flight_rows", "oldest_age_seconds", "dead_letters"):
            assert web.of(f"towpath_{gauge}", outbox=outbox) == 0, gauge
    assert web.of("towpath_shift_alive_age_seconds", shift="dispatch") < WAIT_SECONDS
    dispatched_at = Cursor.objects.get(outbox="outbox_user").dispatched_at
    assert dispatched_at is not None
    assert web.of("towpath_last_dispatch_timestamp_seconds", outbox="outbox_user") == pytest.approx(
        dispatched_at.timestamp()
    )


def test_the_scheduler_serves_when_rabbitmq_has_last_taken_each_of_its_messages(workers: Workers) -> None:
    port, began = any_free_port(), time.time()
    workers.scheduler(METRICS_PORT=str(port))

    scraped = eventually(lambda: _if_ticked(port, "towpath.verify"), seconds=WAIT_SECONDS)  # the last of three

    assert scraped
    assert queue_length("towpath.dispatch") >= 3  # nobody works at them here
    for actor in ("towpath.dispatch_shift", "towpath.recover_shift", "towpath.verify"):
        assert began <= scraped.of("towpath_last_tick_timestamp_seconds", actor=actor) <= time.time()


def test_a_scheduler_whose_metrics_port_is_taken_ticks_all_the_same(workers: Workers, services: Services) -> None:
    workers.scheduler(METRICS_PORT=str(services.postgres.port))

    eventually(lambda: queue_length("towpath.dispatch") >= 3, seconds=WAIT_SECONDS)


def _if_ticked(port: int, actor: str) -> Samples | None:
    try:
        found = scrape(port)
        found.of("towpath_last_tick_timestamp_seconds", actor=actor)
    except (URLError, KeyError):
        return None
    return found


def test_a_worker_whose_metrics_port_is_taken_delivers_all_the_same(
    workers: Workers, event_log: EventLog, services: Services
) -> None:
    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK, METRICS_PORT=str(services.postgres.port))
    workers.wait_until_ready()

    create_users(5)

    assert_delivered_within(event_log, committed=5, seconds=WAIT_SECONDS)


# --- The ledger's gauges -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always_fresh")
def test_the_ledger_s_gauges_are_those_of_the_tables(store: Store) -> None:
    # Given rows in every state
    create_users(2, prefix="delivered")
    deliver(sealed(), store)
    create_users(3, prefix="sealed")
    sealed()
    expire_leases()
    create_users(4, prefix="unsealed")
    write_events(["{}"] * 5)
    dispatched()
    create_users(6, prefix="pending")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE users SET created_at = now() - interval '1 hour' WHERE email LIKE 'sealed%'")

    found = ledger()

    assert found.of("towpath_pending_rows", outbox="outbox_user") == 6
    assert found.of("towpath_in_flight_rows", outbox="outbox_user") == 7
    assert found.of("towpath_in_flight_rows", outbox="outbox_event") == 5
    assert found.of("towpath_oldest_age_seconds", outbox="outbox_user") == pytest.approx(3600, abs=60)
    assert found["towpath_open_windows"] == 1
    assert found["towpath_expired_leases"] == 1
    assert found["towpath_unsealed_batches"] == 2
    assert 0 < found["towpath_unverified_age_seconds"] < WAIT_SECONDS
    assert found["towpath_mismatched_windows"] == 0


@pytest.mark.usefixtures("always_fresh")
def test_every_gauge_that_is_declared_is_served() -> None:
    create_users(1)
    dispatched()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_shift (name, token, taken_at, alive_at)"
            " VALUES ('dispatch', gen_random_uuid(), now(), now())"
        )
    canary.send_if_due(every_seconds=60)

    assert {gauge.name for gauge in LEDGER_GAUGES} <= ledger().names()


def test_a_large_backlog_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "COUNTED_ROWS", 10)
    create_users(500)
    write_events(["{}"] * 4)

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE outbox_user")  # the statistics are a second or so behind otherwise

    found = read_gauges()[pending_rows]

    assert found == {"outbox_user": 500, "outbox_event": 4, "outbox_user_change": 0}


# --- What goes wrong ---------------------------------------------------------------------------------------------


def test_a_refused_row_is_counted_where_it_is_refused(store: Store) -> None:
    write_events(["{}"] * 20)
    write_events(["{}"], at="infinity")
    counted = Counted()

    assert deliver(sealed(), store) is Delivery.ACKED

    assert counted.of("towpath_inserts_total", outcome="refused") >= 2  # the window, and the row by itself
    assert counted.of("towpath_refused_rows_total", outbox="outbox_event") == 1
    assert counted.of("towpath_acked_rows_total", outbox="outbox_event") == 20
    assert read_gauges()[dead_letters]["outbox_event"] == 1


def test_a_store_that_is_away_is_counted_as_unavailable() -> None:
    create_users(3)
    counted = Counted()

    assert deliver(sealed(), connect("clickhouse://127.0.0.1:1/default", timeout_seconds=1)) is Delivery.POSTPONED

    assert counted.of("towpath_inserts_total", outcome="unavailable") == 1
    assert counted.of("towpath_retries_total", reason="unavailable") == 1
    assert counted.of("towpath_inserts_total", outcome="stored") == 0


def test_a_window_whose_rows_are_all_refused_is_counted_as_the_schema_s_fault(store: Store) -> None:
    write_events(["{}"] * 20, at="infinity")
    counted = Counted()

    assert deliver(sealed(), store) is Delivery.REFUSED

    assert counted.of("towpath_retries_total", reason="schema") == 1
    assert read_gauges()[dead_letters]["outbox_event"] == 0


def test_a_lost_answer_is_counted_as_unknown(store: Store) -> None:
    create_users(3)
    counted = Counted()

    assert deliver(sealed(), LosesInserts(store)) is Delivery.POSTPONED

    assert counted.of("towpath_inserts_total", outcome="unknown") == 1
    assert counted.of("towpath_retries_total", reason="unknown") == 1


def test_a_lost_lease_and_what_recovers_are_counted(store: Store) -> None:
    create_users(3)
    window = sealed()
    taken_over(window)
    expire_leases()
    counted = Counted()

    assert deliver(window, store) is Delivery.LEASE_LOST
    recover(store, should_stop=lambda: False)

    assert counted.of("towpath_leases_lost_total") == 1
    assert counted.of("towpath_recovered_windows_total", reason="expired") == 1
    assert counted.of("towpath_acked_rows_total", outbox="outbox_user") == 3


def test_batches_that_recovery_takes_up_are_counted(store: Store) -> None:
    create_users(3)
    dispatched()
    age_batches()
    counted = Counted()

    recover(store, should_stop=lambda: False)

    assert counted.of("towpath_recovered_windows_total", reason="unsealed") == 1
    assert counted.of("towpath_recovered_windows_total", reason="expired") == 0
    assert counted.of("towpath_windows_total", reason="recovery") == 1


@pytest.mark.parametrize(
    ("reason", "limits"),
    [
        ("rows", WindowLimits(rows=3, max_rows=3, payload_bytes=1024**2, linger_seconds=3600)),
        ("bytes", WindowLimits(rows=1000, max_rows=1000, payload_bytes=1, linger_seconds=3600)),
        ("linger", WindowLimits(rows=1000, max_rows=1000, payload_bytes=1024**2, linger_seconds=0.3)),
        ("shutdown", WindowLimits(rows=1000, max_rows=1000, payload_bytes=1024**2, linger_seconds=3600)),
    ],
)
def test_a_window_is_counted_by_the_reason_for_which_it_was_closed(
    reason: str, limits: WindowLimits, store: Store
) -> None:
    write_events(["{}"] * 3)
    sent = Sent()
    dispatch_all(make_dispatcher(sent))
    (batch,) = sent.batches
    aggregator = Aggregator(store, window_rules(config()), limits=limits, writers=1)
    aggregator.start()
    counted = Counted()

    actor = threading.Thread(
        target=aggregator.submit,
        args=[batch.id],
        kwargs={"rows": len(batch.ids), "payload_bytes": batch.bytes, "is_backlog": False},
    )
    actor.start()
    if reason == "shutdown":
        aggregator.stop_lingering()
    actor.join(WAIT_SECONDS)

    assert aggregator.close(timeout_seconds=WAIT_SECONDS)
    assert {closed: counted.of("towpath_windows_total", reason=closed) for closed in get_args(CloseReason)} == {
        closed: int(closed == reason) for closed in get_args(CloseReason)
    }
    assert Window.objects.get().acked_at is not None


def test_receipts_are_counted_by_what_the_store_says_of_them(store: Store, event_log: EventLog) -> None:
    for number in range(3):
        create_users(1, prefix=f"n{number}")
        deliver(sealed(), store)
    event_log.delete_where(f"window_id = '{Window.objects.earliest('acked_at').id}'")
    counted = Counted()

    verify_receipts(store, should_stop=lambda: False)

    assert counted.of("towpath_verified_windows_total", outcome="match") == 2
    assert counted.of("towpath_verified_windows_total", outcome="mismatch") == 1


@pytest.mark.timing
@pytest.mark.usefixtures("always_fresh")
def test_a_ledger_that_does_not_answer_in_time_is_not_measured() -> None:
    """Rather none than figures of who knows when; the scrape does not hang."""
    locked, is_measured = threading.Event(), threading.Event()

    def lock() -> None:
        with contextlib.closing(connection), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE pipeline_window IN ACCESS EXCLUSIVE MODE")
            locked.set()
            is_measured.wait(WAIT_SECONDS)

    holder = threading.Thread(target=lock)
    holder.start()
    try:
        assert locked.wait(WAIT_SECONDS)
        began = time.monotonic()
        with capture_logs() as logs:
            response = Client().get("/metrics")
    finally:
        is_measured.set()
        holder.join()

    assert response.status_code == 503
    assert time.monotonic() - began < 10
    assert [line["event"] for line in logs] == ["ledger_not_measured"]


def test_the_ledger_is_read_once_in_two_seconds_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    read = itertools.count()

    def measure() -> bytes:
        next(read)
        return health._measure()

    measurement = Within(measure, seconds=WAIT_SECONDS, fresh_seconds=health._MEASURED_EVERY_SECONDS)
    monkeypatch.setattr(health, "_measurement", measurement)

    scraped = {name for _ in range(5) for name in ledger().names()}

    assert {gauge.name for gauge in (open_windows, unsealed_batches)} <= scraped
    assert next(read) == 1


def test_a_scrape_takes_no_more_statements_than_the_status() -> None:
    create_users(2)
    dispatched()

    with CaptureQueriesContext(connection) as of_gauges:
        read_gauges()
    with CaptureQueriesContext(connection) as of_status:
        status.read_status()

    assert 10 < len(of_gauges) < len(of_status)


def test_the_end_to_end_latency_is_that_of_the_events_own_time(store: Store) -> None:
    hour_ago = datetime.fromtimestamp(datetime.now(UTC).timestamp() - 3600, UTC).isoformat()
    write_events(["{}", "{}"], at=hour_ago)
    counted = Counted()

    deliver(sealed(), store)

    assert counted.of("towpath_end_to_end_seconds_count") == 2
    assert counted.of("towpath_end_to_end_seconds_sum") == pytest.approx(2 * 3600, abs=120)
