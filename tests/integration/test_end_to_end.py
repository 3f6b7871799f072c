"""The whole way with the real processes: whatever is killed, purged or doubled, each committed event arrives once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
import urllib.request
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest
from django.conf import settings
from django.db import connection

from backend.users.models import User
from backend.users.use_cases import UserCreated
from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered_within
from tests.integration.manage import manage
from tests.integration.queues import purge_queues, take_messages
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.threads import all_at_once
from tests.integration.workers import QUICK, Workers
from tests.services import Services
from tests.waiting import eventually
from towpath.actors import enqueue_batches
from towpath.ledger.models import Batch, Shift, Window
from towpath.rabbitmq.queues import queue_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How long what must happen may take on a machine that does much else; waiting ends when it has happened.
WAIT_SECONDS = 60


@pytest.fixture
def frozen_clickhouse(services: Services) -> Iterator[contextlib.ExitStack]:
    """Stops the ClickHouse endpoint as if it hung; closing the stack, or the end of the test, lets it go on."""
    with contextlib.ExitStack() as stack:
        assert services.clickhouse.pid is not None
        stack.callback(os.kill, services.clickhouse.pid, signal.SIGCONT)
        yield stack


@pytest.fixture
def clickhouse_down(services: Services) -> Iterator[contextlib.ExitStack]:
    """Kills the ClickHouse endpoint; closing the stack, or the end of the test, starts it again."""
    with contextlib.ExitStack() as stack:
        stack.callback(services.clickhouse.wait_until_ready)
        stack.callback(services.clickhouse.start)
        services.clickhouse.kill()
        yield stack


def dispatch(*, batch_ids: int = 500) -> None:
    """Dispatch all that waits, onto the real RabbitMQ, from this process."""
    dispatch_all(make_dispatcher(enqueue_batches, batch_ids=batch_ids))


def bytes_nobody_has_read(port: int) -> int:
    """What has arrived at a local port and waits in the kernel for its server."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(int(field[4].split(":")[1], 16) for field in fields if int(field[1].split(":")[1], 16) == port)


# --- The ordinary way --------------------------------------------------------------------------------------------


def test_fifty_thousand_users_of_one_statement_arrive_once_each_in_windows_of_a_thousand(
    workers: Workers, event_log: EventLog
) -> None:
    knobs = {**QUICK, "WINDOW_LINGER_SECONDS": "10", "LEASE_SECONDS": "20", "UNSEALED_SECONDS": "60"}
    knobs["WINDOW_MAX_ROWS"] = "1000"
    workers.dispatcher(**knobs)
    workers.aggregator(**knobs)
    workers.wait_until_ready()

    create_users(50_000)

    assert_delivered_within(event_log, committed=50_000, seconds=WAIT_SECONDS)
    assert event_log.window_sizes() == [1000] * 50
    assert Window.objects.filter(attempts=1).count() == 50


def test_few_rows_of_several_messages_go_out_together_after_the_linger_time(
    workers: Workers, event_log: EventLog
) -> None:
    # Given four messages of two ids each
    create_users(8)
    dispatch(batch_ids=2)
    dispatched_at = Batch.objects.latest("id").dispatched_at

    # When an aggregator takes them that lingers for two seconds
    workers.aggregator(**{**QUICK, "WINDOW_LINGER_SECONDS": "2"})

    # Then they are one window, sealed when the time was over
    assert_delivered_within(event_log, committed=8, seconds=WAIT_SECONDS)
    assert event_log.window_sizes() == [8]
    assert Window.objects.get().sealed_at - dispatched_at >= timedelta(seconds=2)


def test_an_event_is_stored_within_three_seconds_of_its_post_with_the_default_knobs(
    workers: Workers, event_log: EventLog, services: Services
) -> None:
    # Given all processes of the application, with the scheduler that starts the shifts
    workers.web()
    workers.idle_dispatcher()
    workers.aggregator()
    workers.wait_until_ready()
    workers.scheduler()
    eventually(lambda: Shift.objects.count() == 2, seconds=WAIT_SECONDS)

    # When users sign up, one after the other
    seconds = []
    for number in range(3):
        fields = {"email": f"a{number}@b.co", "first_name": "A", "last_name": "B"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{services.web_port}/api/users",
            data=json.dumps(fields).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 201
        posted_at = time.monotonic()
        eventually(lambda: event_log.count() > number, seconds=WAIT_SECONDS)
        seconds.append(time.monotonic() - posted_at)

    # Then an event is in the store within three seconds (the best of three: the machine may do something else, too)
    assert min(seconds) < 3, seconds
    assert_delivered_within(event_log, committed=3, seconds=WAIT_SECONDS)
    assert event_log.events()[2].event_context == UserCreated(**fields).model_dump_json().encode()

    # And the doctor has nothing to say
    examined = manage("pipeline", "doctor", "--json")
    assert examined.returncode == 0, examined.stdout
    assert all(finding["is_ok"] for finding in json.loads(examined.stdout))
    status = manage("pipeline", "status", "--json")
    assert status.returncode == 0, status.stdout
    assert json.loads(status.stdout)["receipts"] == 3


def test_concurrent_writers_and_two_of_each_process_deliver_each_event_once(
    workers: Workers, event_log: EventLog
) -> None:
    # Given two dispatchers that both have a shift of each kind, and two aggregators
    for number in range(2):
        workers.dispatcher(**QUICK)
        workers.aggregator(number, **QUICK)
    workers.wait_until_ready()

    # When twenty writers commit and roll back in any order
    def write(seed: int) -> int:
        chance = random.Random(seed)
        committed = 0
        for _ in range(20):
            with contextlib.closing(psycopg2.connect(settings.DATABASE_URL)) as session, session.cursor() as cursor:
                rows = chance.randint(1, 20)
                cursor.execute(
                    "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
                    " SELECT 'tested', now(), n::text, 1 FROM generate_series(1, %s) AS n",
                    [rows],
                )
                time.sleep(chance.uniform(0, 0.05))
                if chance.random() < 0.3:
                    session.rollback()
                else:
                    session.commit()
                    committed += rows
        return committed

    committed = sum(all_at_once([partial(write, seed) for seed in range(20)]))

    assert_delivered_within(event_log, committed=committed, seconds=WAIT_SECONDS)


def test_a_message_is_readable_json_with_ids_and_without_payload() -> None:
    ids = write_events(['{"secret":"payload"}'] * 3)
    dispatch()

    (message,) = take_messages("aggregate")

    batch = Batch.objects.get()
    assert message["kwargs"] == {"batch": batch.id, "outbox": "outbox_event", "ids": ids, "bytes": batch.bytes}
    assert message["args"] == []
    assert "payload" not in json.dumps(message)


# --- Messages doubled, shuffled, lost ----------------------------------------------------------------------------


def test_messages_delivered_three_times_in_random_order_make_each_row_arrive_once(
    workers: Workers, event_log: EventLog
) -> None:
    # Given 40 batches, each message twice more, in random order
    create_users(2000)
    sent = Sent()
    dispatch_all(make_dispatcher(sent, batch_ids=50))
    messages = sent.batches * 3
    random.shuffle(messages)
    enqueue_batches(messages)
    assert queue_lengths()["aggregate"] == 120

    # When two aggregators take them
    for number in range(2):
        workers.aggregator(number, **QUICK)

    assert_delivered_within(event_log, committed=2000, seconds=WAIT_SECONDS)
    eventually(lambda: queue_lengths()["aggregate"] == 0, seconds=WAIT_SECONDS)


def test_purging_rabbitmq_costs_time_and_no_row(workers: Workers, event_log: EventLog) -> None:
    # Given messages in the queue, all of which are lost
    create_users(1500)
    dispatch()
    assert queue_lengths()["aggregate"] == 3
    purge_queues()

    # When the workers come, no message tells them of the batches
    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)

    assert_delivered_within(event_log, committed=1500, seconds=WAIT_SECONDS)


# --- Killed ------------------------------------------------------------------------------------------------------


def test_an_aggregator_killed_before_it_seals_gives_its_messages_to_another_one(
    workers: Workers, event_log: EventLog
) -> None:
    # Given an aggregator that holds a message and waits for more
    first = workers.aggregator(1, WINDOW_LINGER_SECONDS="300")
    workers.wait_until_ready()
    create_users(10)
    dispatch()
    eventually(lambda: queue_lengths()["aggregate"] == 0, seconds=WAIT_SECONDS)
    assert undelivered() == {"outbox_user": 10, "batches": 1}

    # When it is killed, the message is there again
    first.kill()
    eventually(lambda: queue_lengths()["aggregate"] == 1, seconds=WAIT_SECONDS)

    # Then the next one takes it; nobody recovers here
    workers.aggregator(2, **QUICK)
    assert_delivered_within(event_log, committed=10, seconds=WAIT_SECONDS)


@pytest.mark.own_services
def test_an_aggregator_killed_between_seal_and_write_leaves_a_window_that_is_recovered(
    workers: Workers, event_log: EventLog, clickhouse_down: contextlib.ExitStack
) -> None:
    # Given an aggregator that has sealed a window and found no event store
    aggregator = workers.aggregator(**QUICK)
    workers.wait_until_ready()
    create_users(10)
    dispatch()
    eventually(lambda: Window.objects.exclude(failed_at=None).exists(), seconds=WAIT_SECONDS)
    window = Window.objects.get()

    # When it is killed, and the store comes back
    aggregator.kill()
    clickhouse_down.close()
    assert event_log.count() == 0
    workers.dispatcher(**QUICK)

    # Then the same window is written by recovery
    assert_delivered_within(event_log, committed=10, seconds=WAIT_SECONDS)
    assert [event.window_id for event in event_log.events()] == [str(window.id)] * 10


@pytest.mark.own_services
def test_an_aggregator_killed_while_its_insert_is_on_the_way_leaves_each_row_once(
    workers: Workers, event_log: EventLog, services: Services, frozen_clickhouse: contextlib.ExitStack
) -> None:
    # Given an aggregator that has a connection to the event store
    aggregator = workers.aggregator(**QUICK)
    workers.wait_until_ready()
    create_users(1, prefix="first")
    dispatch()
    assert_delivered_within(event_log, committed=1, seconds=WAIT_SECONDS)

    # When the store hangs, with the whole insert in its hands, and the aggregator is killed
    assert services.clickhouse.pid is not None
    os.kill(services.clickhouse.pid, signal.SIGSTOP)
    create_users(10)
    dispatch()
    # (What a starting worker asks of the store may also be on its way.)
    eventually(Window.objects.filter(acked_at=None, is_write_begun=True).exists, seconds=WAIT_SECONDS)
    eventually(lambda: bytes_nobody_has_read(services.clickhouse.port) > 1000, seconds=WAIT_SECONDS)
    aggregator.kill()

    # And when the store goes on, it carries out what nobody waits for any more, while recovery replays the window
    workers.dispatcher(**QUICK)
    workers.wait_until_recovering()
    frozen_clickhouse.close()
    assert_delivered_within(event_log, committed=11, seconds=WAIT_SECONDS)
    assert Window.objects.filter(attempts__gt=1).count() == 1


def test_an_aggregator_killed_between_write_and_ack_leaves_a_window_that_is_only_acked(
    workers: Workers, event_log: EventLog
) -> None:
    # Given an aggregator whose ack has to wait for somebody who has locked the rows
    create_users(10)
    with contextlib.closing(psycopg2.connect(settings.DATABASE_URL)) as session, session.cursor() as cursor:
        cursor.execute("SELECT FROM outbox_user FOR UPDATE")
        aggregator = workers.aggregator(**QUICK)
        workers.wait_until_ready()
        dispatch()
        eventually(lambda: waiting_for_a_lock("DELETE FROM pipeline_batch"), seconds=WAIT_SECONDS)
        assert event_log.count() == 10

        # When it is killed, and with it what it has asked PostgreSQL to do
        aggregator.kill()
        for pid in waiting_for_a_lock(""):
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        session.rollback()
    assert undelivered() == {"outbox_user": 10, "batches": 1, "open windows": 1}
    workers.dispatcher(**QUICK)

    # Then recovery finds the rows written
    assert_delivered_within(event_log, committed=10, seconds=WAIT_SECONDS)
    assert [window.attempts for window in Window.objects.all()] == [2]


def waiting_for_a_lock(statement: str) -> list[int]:
    """Server processes that wait for somebody's lock in a statement with this text."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s", [f"%{statement}%"]
        )
        return [pid for (pid,) in cursor.fetchall()]


def test_a_killed_dispatcher_is_replaced_by_another_one_without_waiting_for_the_scheduler(
    workers: Workers, event_log: EventLog
) -> None:
    # Given a dispatcher at work, and a second one that has nothing to do
    first = workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    workers.wait_until_ready()
    workers.wait_until_recovering()
    create_users(10, prefix="before")
    assert_delivered_within(event_log, committed=10, seconds=WAIT_SECONDS)
    workers.idle_dispatcher(**QUICK)
    workers.wait_until_ready()

    # When the first is killed
    first.kill()
    create_users(10, prefix="after")

    # Then the second goes on, and does not wait for the next minute's tick
    assert_delivered_within(event_log, committed=20, seconds=WAIT_SECONDS)


def test_everything_killed_in_the_middle_of_a_backlog_delivers_each_event_once_after_a_restart(
    workers: Workers, event_log: EventLog
) -> None:
    # Given a backlog that is half delivered, so slowly that it still is when the kill takes effect
    slow = {**QUICK, "WINDOW_MAX_ROWS": "1000", "FAILPOINTS": "written=sleep:0.2"}
    processes = [workers.dispatcher(**QUICK), workers.aggregator(1, **slow), workers.aggregator(2, **slow)]
    workers.wait_until_ready()
    create_users(30_000)
    eventually(lambda: event_log.count() > 5000, seconds=WAIT_SECONDS)

    # When all workers are killed, then started again
    for process in processes:
        process.kill()
    assert undelivered() != {}
    for process in processes:
        process.start()

    assert_delivered_within(event_log, committed=30_000, seconds=WAIT_SECONDS)


def test_an_aggregator_that_is_told_to_stop_leaves_no_window_open(workers: Workers, event_log: EventLog) -> None:
    # Given an aggregator in the middle of a backlog
    first = workers.aggregator(1, **QUICK)
    workers.wait_until_ready()
    create_users(20_000)
    dispatch()
    eventually(lambda: event_log.count() > 0, seconds=WAIT_SECONDS)

    # When it is told to stop, it delivers what it has sealed, and ends
    first.request_stop()
    eventually(lambda: not first.is_running, seconds=WAIT_SECONDS)
    assert first.exit_code == 0
    assert "open windows" not in undelivered()

    # Then another one delivers the rest
    workers.aggregator(2, **QUICK)
    assert_delivered_within(event_log, committed=20_000, seconds=WAIT_SECONDS)


# --- The store away ----------------------------------------------------------------------------------------------


@pytest.mark.own_services
def test_a_store_that_was_away_gets_everything_when_it_is_back(
    workers: Workers, event_log: EventLog, clickhouse_down: contextlib.ExitStack
) -> None:
    # Given workers without an event store, and users that sign up nevertheless
    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    workers.wait_until_ready()
    create_users(3000)
    eventually(lambda: Window.objects.exclude(failed_at=None).exists(), seconds=WAIT_SECONDS)
    assert User.objects.count() == 3000

    clickhouse_down.close()

    assert_delivered_within(event_log, committed=3000, seconds=WAIT_SECONDS)
