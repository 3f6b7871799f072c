"""The whole way with the real processes. What becomes of events when things break is shown by tests/faults."""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import timedelta

import pytest

from backend.users.use_cases import UserCreated
from tests.integration.dispatching import dispatch_all, make_dispatcher
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered_within
from tests.integration.manage import manage
from tests.integration.queues import queue_length, take_messages
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.workers import QUICK, Workers
from tests.services import Services
from tests.waiting import eventually
from towpath.actors import enqueue_batches
from towpath.ledger.foreign import ledger_id
from towpath.ledger.models import Batch, Shift, Window

#: How long what must happen may take on a machine that does much else; waiting ends when it has happened.
WAIT_SECONDS = 60


def dispatch(*, batch_ids: int = 500) -> None:
    """Dispatch all that waits, onto the real RabbitMQ, from this process."""
    dispatch_all(make_dispatcher(enqueue_batches, batch_ids=batch_ids))


# --- The ordinary way --------------------------------------------------------------------------------------------


@pytest.mark.slow
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
    # Given all processes of the application, with the scheduler
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

    # Then an event is in the store within three seconds (two of three: the machine may do something else, too)
    assert sorted(seconds)[1] < 3, seconds
    assert_delivered_within(event_log, committed=3, seconds=WAIT_SECONDS)
    assert event_log.events()[2].event_context == UserCreated(**fields).model_dump_json().encode()

    # And the doctor has nothing to say
    examined = manage("pipeline", "doctor", "--json")
    assert examined.returncode == 0, examined.stdout
    assert all(finding["is_ok"] for finding in json.loads(examined.stdout))
    status = manage("pipeline", "status", "--json")
    assert status.returncode == 0, status.stdout
    assert json.loads(status.stdout)["receipts"] == 3


def test_a_message_is_readable_json_with_ids_and_without_payload() -> None:
    ids = write_events(['{"secret":"payload"}'] * 3)
    dispatch()

    (message,) = take_messages("towpath.aggregate")

    batch = Batch.objects.get()
    sent = {"ledger": ledger_id(), "batch": batch.id, "outbox": "outbox_event", "ids": ids, "bytes": batch.bytes}
    assert message["kwargs"] == sent
    assert message["args"] == []
    assert "payload" not in json.dumps(message)


def test_batches_of_a_backlog_have_a_queue_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 5)
    few = create_users(2)
    dispatch(batch_ids=5)
    many = create_users(10, prefix="many")
    dispatch(batch_ids=5)

    assert [message["kwargs"]["ids"] for message in take_messages("towpath.aggregate")] == [few]
    assert [message["kwargs"]["ids"] for message in take_messages("towpath.aggregate_backlog")] == [many[:5], many[5:]]


def test_an_aggregator_started_for_its_one_queue_takes_a_backlog_too_but_a_few_messages_at_a_time(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others stay for other aggregators, and most of its threads are for fresh batches."""
    # Given ten messages of a backlog, and an aggregator that waits for more
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 2)
    create_users(20)
    dispatch(batch_ids=2)
    assert queue_length("towpath.aggregate_backlog") == 10
    workers.aggregator(**{**QUICK, "WINDOW_LINGER_SECONDS": "300"})
    eventually(lambda: queue_length("towpath.aggregate_backlog") < 10, seconds=WAIT_SECONDS)

    # When twelve threads' worth of fresh messages come
    for number in range(8):
        create_users(1, prefix=f"fresh{number}")
        dispatch()
    eventually(lambda: queue_length("towpath.aggregate") == 0, seconds=WAIT_SECONDS)

    # Then it has all of these, and four of those
    assert queue_length("towpath.aggregate_backlog") == 6


# --- Killed ------------------------------------------------------------------------------------------------------


def test_an_aggregator_killed_before_it_seals_gives_its_messages_to_another_one(
    workers: Workers, event_log: EventLog
) -> None:
    # Given an aggregator that holds a message and waits for more
    first = workers.aggregator(1, WINDOW_LINGER_SECONDS="300")
    workers.wait_until_ready()
    create_users(10)
    dispatch()
    eventually(lambda: queue_length("towpath.aggregate") == 0, seconds=WAIT_SECONDS)
    assert undelivered() == {"outbox_user": 10, "batches": 1}

    # When it is killed, the message is there again
    first.kill()
    eventually(lambda: queue_length("towpath.aggregate") == 1, seconds=WAIT_SECONDS)

    # Then the next one takes it; nobody recovers here
    workers.aggregator(2, **QUICK)
    assert_delivered_within(event_log, committed=10, seconds=WAIT_SECONDS)


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
