"""A table that somebody has locked keeps nobody from an answer: what can be read is shown, what cannot is named."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.integration.manage import doctor, here, status
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.scraping import measure_at_each_scrape
from tests.integration.windows import claim_expired, deliver, expire_leases, recover, sealed
from towpath.flow.delivery import Delivery
from towpath.ledger.models import DeadLetter, Window
from towpath.ledger.moment import Parts, one_moment
from towpath.ledger.windows import begin_write
from towpath.telemetry.metrics import last_dispatch, oldest_age_seconds, pending_rows
from towpath.watch.gauges import read_gauges
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.event_log import EventLog
    from towpath.eventlog.store import EventStore

TABLES = ("users", "outbox_user", "outbox_event", "pipeline_window", "pipeline_batch", "pipeline_deadletter")


@contextlib.contextmanager
def locked(*tables: str) -> Iterator[None]:
    """Another session holds the tables, as one of the web's role can hold those that it may write."""
    other = connection.copy()
    with contextlib.closing(other), other.cursor() as cursor:
        cursor.execute(f"BEGIN; LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauges are read at each look."""
    measure_at_each_scrape(monkeypatch)


@pytest.mark.timing
def test_a_lock_on_the_users_hides_the_age_of_their_events_only() -> None:
    create_users(2)
    write_events(["{}"] * 3)

    with locked("users"):
        started = time.monotonic()
        found = status()
        response = Client().get("/metrics")
        seconds = time.monotonic() - started

    assert {name: one["pending"] for name, one in found["outboxes"].items()} == {
        "outbox_event": 3,
        "outbox_user": 2,
        "outbox_user_change": 0,
    }
    assert found["outboxes"]["outbox_user"]["oldest_age_seconds"] is None
    assert found["outboxes"]["outbox_event"]["oldest_age_seconds"] > 0
    (problem,) = [problem for problem in found["problems"] if "could not be read" in problem]
    assert problem.startswith(
        "the age of the oldest event of outbox_user could not be read: another session holds a lock"
    )
    assert " on users (process " in problem
    assert response.status_code == 200
    assert 'towpath_pending_rows{outbox="outbox_user"} 2.0' in response.content.decode()
    assert 'towpath_oldest_age_seconds{outbox="outbox_user"}' not in response.content.decode()
    assert seconds < 6


@pytest.mark.timing
@pytest.mark.parametrize("table", TABLES)
def test_status_answers_in_time_and_with_what_it_knows_whatever_is_locked(table: str) -> None:
    create_users(1)
    write_events(["{}"] * 3)

    with locked(table):
        started = time.monotonic()
        done = here("pipeline", "status", "--json")
        seconds = time.monotonic() - started

    assert done.returncode == 1
    assert seconds < 6
    found = json.loads(done.stdout)
    assert any("could not be read" in problem and table in problem for problem in found["problems"])
    assert found["shifts"] == {}
    if table == "pipeline_window":
        assert not any("has ever run" in problem for problem in found["problems"])
    if table in {"users", "outbox_user", "pipeline_window"}:
        assert found["outboxes"]["outbox_event"]["pending"] == 3


@pytest.mark.timing
def test_everything_locked_is_said_once_for_each_part_and_in_time() -> None:
    with locked(*TABLES):
        started = time.monotonic()
        problems = read_status().problems
        assert time.monotonic() - started < 6

    assert len(problems) == len({*problems}) >= 3
    assert all("could not be read" in problem for problem in problems)


def test_gauges_of_the_outboxes_that_can_be_read_are_there() -> None:
    write_events(["{}"])

    with locked("outbox_user"):
        found = read_gauges()

    assert found[pending_rows] == {"outbox_event": 1, "outbox_user_change": 0}
    assert found[oldest_age_seconds].keys() == {"outbox_event", "outbox_user_change"}


@pytest.mark.parametrize("table", ["outbox_user", "users"])
def test_an_outbox_that_is_not_measured_can_be_told_by_its_last_dispatch(table: str) -> None:
    """By TowpathOutboxUnmeasured."""
    create_users(1)
    sealed()
    create_users(1, prefix="later")

    with locked(table):
        found = read_gauges()

    assert found[last_dispatch].keys() - found[oldest_age_seconds].keys() == {"outbox_user"}


def test_the_doctor_says_what_it_could_not_read() -> None:
    with locked("pipeline_window"):
        code, findings = doctor()

    assert code == 1
    assert (
        "the ledger could not be read: another session holds a lock on pipeline_window" in findings["ledger"]["detail"]
    )


def test_a_look_inside_of_a_transaction_leaves_it_as_it_was() -> None:
    create_users(1)
    with locked("users"), transaction.atomic():
        create = "SELECT set_config('lock_timeout', '7s', true)"
        with connection.cursor() as cursor:
            cursor.execute(create)
            assert any("could not be read" in problem for problem in read_status().problems)
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
            assert cursor.fetchone() == ("7s", "0")


def test_dead_letters_are_shown_though_the_event_cannot_be_read() -> None:
    (row_id,) = create_users(1)
    letter = DeadLetter.objects.create(
        outbox="outbox_user",
        row_id=row_id,
        error="refused",
        window_id="11111111-2222-3333-4444-555555555555",
        at="2026-01-01T00:00:00Z",
    )
    with locked("users"):
        listed = json.loads(here("pipeline", "deadletters", "list", "--json").stdout)
        shown = json.loads(here("pipeline", "deadletters", "show", str(letter.id), "--json").stdout)
    with locked("pipeline_deadletter"):
        refused = here("pipeline", "deadletters", "list")

    assert refused.returncode == 1
    assert "another session holds a lock on pipeline_dead" in refused.stderr
    assert [one["error"] for one in listed] == ["refused"]
    assert (shown[0]["error"], "another session holds a lock on users" in shown[0]["unread"]) == ("refused", True)


def test_events_that_are_read_from_a_locked_table_wait_apart_from_the_others(
    store: EventStore, event_log: EventLog
) -> None:
    # Given a window with events of both kinds
    create_users(3)
    write_events(["{}"] * 2)
    window = sealed()

    # When somebody has locked one of its tables, for longer than a load waits
    with locked("users"):
        assert deliver(window, store) is Delivery.ACKED

        # Then the other events are stored, status names the lock, and a second attempt changes nothing
        assert event_log.count() == 2
        assert undelivered()["outbox_user"] == 3
        for _ in range(2):
            expire_leases()
            recover(store, should_stop=lambda: False)
        assert undelivered()["outbox_user"] == 3
        assert any("holds a lock on a table that the event is read from" in one for one in read_status().problems)

    # And once the lock is gone, each is stored once
    expire_leases()
    recover(store, should_stop=lambda: False)
    assert undelivered() == {}
    assert (event_log.count(), event_log.distinct()) == (5, 5)


def test_locked_events_that_may_be_on_their_way_to_the_store_get_no_other_window(
    store: EventStore, event_log: EventLog
) -> None:
    """What an owner before has sent may arrive at any time, under the token of this window."""
    create_users(3)
    window = sealed()
    begin_write(window)
    expire_leases()
    again = claim_expired()
    assert again is not None

    with locked("users"):
        assert deliver(again, store) is Delivery.FAILED

    assert [one.id for one in Window.objects.all()] == [window.id]
    expire_leases()
    recover(store, should_stop=lambda: False)
    assert (undelivered(), event_log.count()) == ({}, 3)


def test_a_look_that_has_used_up_its_time_asks_nothing_more() -> None:
    with one_moment() as cursor, CaptureQueriesContext(connection) as asked:
        parts = Parts(cursor, seconds=0)
        found = parts.read("the ledger", lambda: 1)

    assert found is None
    assert parts.unread == ["the ledger could not be read: PostgreSQL takes too long"]
    assert not asked.captured_queries


def test_postgresql_that_stalls_between_two_parts_is_an_outage() -> None:
    """Without its savepoint, the transaction has failed, and so would every other part."""

    def stall(execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SAVEPOINT"):
            sql = "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)"
        return execute(sql, parameters, many, context)

    with one_moment() as cursor, connection.execute_wrapper(stall):
        parts = Parts(cursor)
        with pytest.raises(OperationalError, match="statement timeout"):
            parts.read("the ledger", lambda: 1)
