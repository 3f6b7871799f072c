"""Verify: receipts against the event store, the ledger of a period, and what is purged."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection
from structlog.testing import capture_logs

from tests.integration.event_log import EventLog
from tests.integration.manage import here
from tests.integration.receipts import delivered, insert_receipts, verified
from tests.integration.rows import create_users, write_events
from tests.integration.stores import PassesOn
from tests.integration.windows import deliver, sealed
from tests.integration.workers import Workers
from tests.waiting import eventually
from towpath.actors import dispatch_shift, recover_shift
from towpath.actors import verify as tick
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.proof import WindowDigest
from towpath.eventlog.store import Store
from towpath.ledger.models import Window
from towpath.telemetry.metrics import mismatched_windows, unverified_age_seconds
from towpath.watch import figures, problems
from towpath.watch.doctor import examine
from towpath.watch.gauges import read_gauges
from towpath.watch.status import read_status


def test_receipts_that_the_store_confirms_are_verified(store: Store) -> None:
    delivered(store, users=3, events=2)
    delivered(store, users=4)

    assert verified(store) == 0

    assert Window.objects.filter(verified_at=None).count() == 0
    assert read_gauges()[unverified_age_seconds] == {"": 0.0}


@pytest.mark.parametrize("column", ["dispatched_from", "acked_at"])
def test_a_receipt_with_a_time_that_python_cannot_hold_keeps_no_other_waiting(store: Store, column: str) -> None:
    delivered(store, users=3)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE pipeline_window SET {column} = '20000-01-01'")
    delivered(store, users=4)

    assert verified(store) == 0
    assert Window.objects.filter(verified_at=None).count() == 0


def test_a_window_whose_rows_are_lost_is_an_alarm_with_its_details(store: Store, event_log: EventLog) -> None:
    # Given a window of which the store has lost a row, and one that is whole
    lost = delivered(store, users=3, events=2)
    whole = delivered(store, users=4)
    event_log.delete_where(
        f"window_id = '{lost.id}' AND outbox = 'outbox_user' AND outbox_id = (SELECT min(outbox_id) FROM event_log"
        f" WHERE window_id = '{lost.id}' AND outbox = 'outbox_user')"
    )

    # When receipts are verified
    with capture_logs() as logs:
        assert verified(store) == 1

    # Then the whole one is verified; the other is not, and log, metric and status say so
    assert Window.objects.get(verified_at=None).id == lost.id
    assert Window.objects.exclude(verified_at=None).get().id == whole.id
    (alarm,) = [line for line in logs if line["event"] == "receipt_mismatch"]
    assert alarm["log_level"] == "error"
    assert alarm["window"] == str(lost.id)
    assert alarm["delivered"] == {"outbox_user": 3, "outbox_event": 2}
    assert alarm["stored"] == {"outbox_user": 2, "outbox_event": 2}
    assert read_gauges()[mismatched_windows] == {"": 1.0}
    assert [
        problem
        for problem in read_status().problems
        if "the receipts of 1 window(s) do not match the event store" in problem
    ]

    # And it is not logged again as long as nothing changes
    with capture_logs() as logs:
        assert verified(store) == 1
    assert not [line for line in logs if line["event"] == "receipt_mismatch"]


def test_status_and_doctor_name_the_command_that_shows_what_differs(store: Store, event_log: EventLog) -> None:
    """Even when it was dispatched before the day that `pipeline verify` looks at by itself."""
    assert receipts_of_the_doctor() == {"is_ok": True, "detail": "none is known to differ from the event store"}
    lost = delivered(store, users=3)
    Window.objects.update(
        **{name: datetime.now(UTC) - timedelta(days=3) for name in ("acked_at", "dispatched_from", "dispatched_to")}
    )
    event_log.clear()
    assert verified(store) == 1

    finding = receipts_of_the_doctor()
    (problem,) = [problem for problem in read_status().problems if "event store" in problem]

    assert finding == {"is_ok": False, "detail": problem}
    python, script, *typed = re.findall(r"`([^`]+)`", problem)[0].split()
    assert (python, script) == ("python", "manage.py")
    shown = here(*typed)
    assert shown.returncode == 1
    assert f"window {lost.id}" in shown.stdout


def receipts_of_the_doctor() -> dict[str, Any]:
    (finding,) = [finding for finding in examine(config()) if finding.check == "receipts"]
    return {"is_ok": finding.is_ok, "detail": finding.detail}


def test_the_status_reads_no_more_however_many_receipts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given receipts that are verified, one that the store contradicts, and, because verify has not run since, many more
    monkeypatch.setattr(figures, "COUNTED_ROWS", 100)
    insert_receipts(5000, age="2 days", verified=True)
    insert_receipts(1, age="1 day", error="outbox_user: 0 of 3 stored")
    put_mark("verified")
    insert_receipts(3000, age="1 hour")
    put_mark("windows")
    create_users(2000)
    tuples_read()  # what was inserted is counted now, and not once more after ANALYZE has counted it
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pipeline_window, outbox_user")

    before = tuples_read()
    found = read_status().figures
    read = tuples_read() - before

    assert (found.ledger.receipts, found.outboxes["outbox_user"].pending) == (8001, 2000)
    assert found.ledger.unverified.contradicted == 1
    assert found.ledger.unverified.contradicted_since == pytest.approx(
        datetime.now(UTC) - timedelta(days=1), abs=timedelta(minutes=5)
    )
    assert 100 < read < 1000
    assert "these numbers are estimates" in _table_of_the_status()


def test_mismatches_that_are_too_many_to_count_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (figures, problems):
        monkeypatch.setattr(module, "COUNTED_ROWS", 10)
    insert_receipts(20, age="1 day", error="outbox_user: 0 of 3 stored")

    (problem,) = [problem for problem in read_status().problems if "event store" in problem]

    assert problem.startswith("the receipts of 10 or more window(s)")


def _table_of_the_status() -> str:
    printed = io.StringIO()
    with contextlib.suppress(SystemExit):  # no shift runs
        call_command("pipeline", "status", stdout=printed)
    return printed.getvalue()


def put_mark(name: str) -> None:
    """Above every window that there is."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_mark (name, version, value) SELECT %s, 1, 1 + max(number) FROM pipeline_window",
            [name],
        )


def tuples_read() -> int:
    """How much has been read of all tables and indexes of the database, by anybody, so far."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables)"
            " + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)"
        )
        return int(cursor.fetchone()[0])


def test_a_doubled_row_is_an_alarm(store: Store, event_log: EventLog) -> None:
    receipt = delivered(store, users=2)
    event_log.copy_window(str(receipt.id))

    assert verified(store) == 1


def test_a_window_whose_rows_come_back_is_verified_in_the_end(store: Store, event_log: EventLog) -> None:
    delivered(store, users=2)
    event_log.rename_table("event_log", "event_log_away")
    event_log.create_table("event_log", like="event_log_away")
    try:
        assert verified(store) == 1
    finally:
        event_log.drop_table("event_log")
        event_log.rename_table("event_log_away", "event_log")

    assert verified(store) == 0

    assert Window.objects.get().contradiction is None
    assert read_gauges()[mismatched_windows] == {"": 0.0}


def test_nothing_is_decided_while_the_store_is_away(store: Store) -> None:
    delivered(store, users=2)
    away = connect("clickhouse://127.0.0.1:1/default", timeout_seconds=1)

    assert verified(away) == 0

    receipt = Window.objects.get()
    assert (receipt.verified_at, receipt.contradiction) == (None, None)


def test_the_receipt_of_a_window_that_was_empty_when_it_was_loaded_is_verified(store: Store) -> None:
    write_events(["{}"])
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_event")
    deliver(window, store)

    assert verified(store) == 0
    assert Window.objects.exclude(verified_at=None).count() == 1


def test_more_receipts_than_fit_one_query_are_all_verified(store: Store) -> None:
    insert_receipts(1000, age="1 minute")
    counting = Counting(store)

    assert verified(counting) == 0

    assert Window.objects.exclude(verified_at=None).count() == 1000
    assert counting.asked == [300, 300, 300, 100]
    assert verified(counting) == 0
    assert len(counting.asked) == 4  # what is verified is not asked for again


class Counting(PassesOn):
    """How many windows each query has asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[int] = []

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        self.asked.append(len(window_ids))
        return super().window_digests(window_ids, columns=columns)


def test_the_dispatcher_verifies_and_purges_at_each_tick(store: Store, workers: Workers) -> None:
    fresh = delivered(store, users=3)
    insert_receipts(5, age="31 days", verified=True)

    workers.idle_dispatcher()
    tick.send()

    eventually(lambda: Window.objects.exclude(verified_at=None).filter(id=fresh.id).exists(), seconds=60)
    eventually(lambda: Window.objects.count() == 1, seconds=60)


def test_the_dispatcher_s_work_is_due_every_minute() -> None:
    due = {actor.actor_name: str(actor.options["periodic"]) for actor in (dispatch_shift, recover_shift, tick)}

    assert due == dict.fromkeys(("towpath.dispatch_shift", "towpath.recover_shift", "towpath.verify"), "* * * * *")
