"""Verify: receipts against the event store, the ledger of a period, and what is purged."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from structlog.testing import capture_logs

from tests.integration.event_log import EventLog
from tests.integration.manage import here, manage
from tests.integration.rows import create_users, write_events
from tests.integration.stores import PassesOn
from tests.integration.windows import deliver, dispatched, expire_leases, members, recover, sealed
from tests.integration.workers import Workers
from tests.waiting import eventually
from towpath.actors import dispatch_shift, recover_shift
from towpath.actors import verify as tick
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.store import EventStore
from towpath.flow import verify
from towpath.flow.delivery import Delivery
from towpath.flow.verify import purge_receipts, verify_receipts
from towpath.ledger.ack import ack
from towpath.ledger.models import Window
from towpath.ledger.period import RowCounts, read_row_counts
from towpath.ledger.windows import RefusedRow
from towpath.telemetry.metrics import mismatched_windows, unverified_age_seconds
from towpath.watch import figures, problems
from towpath.watch.doctor import examine
from towpath.watch.gauges import read_gauges
from towpath.watch.period import read_period
from towpath.watch.status import read_status

LONG_AGO, NEVER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def delivered(store: EventStore, *, users: int = 0, events: int = 0) -> Window:
    """The receipt of one window of so many rows."""
    create_users(users, prefix=f"verify{Window.objects.count()}-")
    write_events(["{}"] * events)
    window = sealed()
    assert deliver(window, store) is Delivery.ACKED
    return Window.objects.get(id=window.id)


def verified(store: EventStore) -> int:
    return verify_receipts(store, should_stop=lambda: False)


def test_receipts_that_the_store_confirms_are_verified(store: EventStore) -> None:
    delivered(store, users=3, events=2)
    delivered(store, users=4)

    assert verified(store) == 0

    assert Window.objects.filter(verified_at=None).count() == 0
    assert read_gauges()[unverified_age_seconds] == {"": 0.0}


def test_a_window_whose_rows_are_lost_is_an_alarm_with_its_details(store: EventStore, event_log: EventLog) -> None:
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
        problem for problem in read_status().problems if "1 window(s) with a receipt that the event store" in problem
    ]

    # And it is not logged again as long as nothing changes
    with capture_logs() as logs:
        assert verified(store) == 1
    assert not [line for line in logs if line["event"] == "receipt_mismatch"]


def test_status_and_doctor_name_the_command_that_shows_what_differs(store: EventStore, event_log: EventLog) -> None:
    """Also when it was dispatched before the day that `pipeline verify` looks at by itself."""
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
    insert_receipts(1, age="1 day", error="outbox_user: 0 stored of 3")
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
    assert "these are estimates" in _table_of_the_status()


def test_mismatches_that_are_too_many_to_count_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (figures, problems):
        monkeypatch.setattr(module, "COUNTED_ROWS", 10)
    insert_receipts(20, age="1 day", error="outbox_user: 0 stored of 3")

    (problem,) = [problem for problem in read_status().problems if "event store" in problem]

    assert problem.startswith("10 or more window(s)")


def _table_of_the_status() -> str:
    printed = io.StringIO()
    with contextlib.suppress(SystemExit):  # no shift runs
        call_command("pipeline", "status", stdout=printed)
    return printed.getvalue()


def insert_receipts(count: int, *, age: str, verified: bool = False, error: str | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, contradiction, is_late, rows, bytes,"
            " sealed_at, acked_at, verified_at, delivered, dispatched_from, dispatched_to)"
            " SELECT gen_random_uuid(), gen_random_uuid(), t, 1, %s, %s, '{}', 0, t, t, CASE WHEN %s THEN t END, '{}',"
            " t, t"
            " FROM (SELECT now() - %s::interval + n * interval '1 ms' AS t FROM generate_series(1, %s) AS n) AS times",
            [error, error is not None, verified, age, count],
        )


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


def test_a_doubled_row_is_an_alarm(store: EventStore, event_log: EventLog) -> None:
    receipt = delivered(store, users=2)
    event_log.copy_window(str(receipt.id))

    assert verified(store) == 1


def test_a_window_whose_rows_come_back_is_verified_in_the_end(store: EventStore, event_log: EventLog) -> None:
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


def test_nothing_is_decided_while_the_store_is_away(store: EventStore) -> None:
    delivered(store, users=2)
    away = connect("clickhouse://127.0.0.1:1/default", timeout_seconds=1)

    assert verified(away) == 0

    receipt = Window.objects.get()
    assert (receipt.verified_at, receipt.contradiction) == (None, None)


def test_the_receipt_of_a_window_that_was_empty_when_it_was_loaded_is_verified(store: EventStore) -> None:
    write_events(["{}"])
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_event")
    deliver(window, store)

    assert verified(store) == 0
    assert Window.objects.exclude(verified_at=None).count() == 1


def test_more_receipts_than_fit_one_query_are_all_verified(store: EventStore) -> None:
    insert_receipts(1000, age="1 minute")
    counting = Counting(store)

    assert verified(counting) == 0

    assert Window.objects.exclude(verified_at=None).count() == 1000
    assert counting.asked == [300, 300, 300, 100]
    assert verified(counting) == 0
    assert len(counting.asked) == 4  # what is verified is not asked for again


class Counting(PassesOn):
    """How many windows each query has asked for."""

    def __init__(self, store: EventStore) -> None:
        super().__init__(store)
        self.asked: list[int] = []

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        self.asked.append(len(window_ids))
        return super().counts(window_ids)


def test_the_dispatcher_verifies_and_purges_at_each_tick(store: EventStore, workers: Workers) -> None:
    fresh = delivered(store, users=3)
    insert_receipts(5, age="31 days", verified=True)

    workers.idle_dispatcher()
    tick.send()

    eventually(lambda: Window.objects.exclude(verified_at=None).filter(id=fresh.id).exists(), seconds=60)
    eventually(lambda: Window.objects.count() == 1, seconds=60)


def test_the_dispatcher_s_work_is_due_every_minute() -> None:
    due = {actor.actor_name: str(actor.options["periodic"]) for actor in (dispatch_shift, recover_shift, tick)}

    assert due == dict.fromkeys(("towpath.dispatch_shift", "towpath.recover_shift", "towpath.verify"), "* * * * *")


# --- The report of a period --------------------------------------------------------------------------------------


def test_the_report_has_each_row_where_it_is(store: EventStore) -> None:
    # Given rows in every state
    delivered(store, users=3)
    create_users(2, prefix="sealed")
    sealed()
    create_users(4, prefix="unsealed")
    dispatched()
    create_users(5, prefix="pending")
    with connection.cursor() as cursor:
        (dead_id,) = create_users(1, prefix="dead")
        cursor.execute(
            "INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)"
            " VALUES ('outbox_user', %s, 'refused', gen_random_uuid(), clock_timestamp())",
            [dead_id],
        )

    users = read_period(store, since=LONG_AGO, until=None).outboxes["outbox_user"]

    assert asdict(users) == {
        "committed": 15,
        "stored": 3,
        "pending": 5,
        "in_flight": 6,
        "dead": 1,
        "vanished": 0,
        "lost": 0,
    }


def test_the_report_of_a_period_leaves_out_what_was_dispatched_before_or_after(store: EventStore) -> None:
    delivered(store, users=3)
    between = datetime.now(UTC)
    delivered(store, users=4)

    before = read_period(store, since=LONG_AGO, until=between)
    after = read_period(store, since=between, until=None)

    assert (before.windows, before.outboxes["outbox_user"].stored) == (1, 3)
    assert (after.windows, after.outboxes["outbox_user"].stored) == (1, 4)


def test_the_report_counts_rows_that_the_store_has_lost(store: EventStore, event_log: EventLog) -> None:
    receipt = delivered(store, users=3, events=2)
    event_log.delete_where(f"window_id = '{receipt.id}' AND outbox = 'outbox_event'")

    report = read_period(store, since=LONG_AGO, until=None)

    events = report.outboxes["outbox_event"]
    assert (events.committed, events.stored, events.lost) == (2, 0, 2)
    assert report.outboxes["outbox_user"].lost == 0
    assert [one.difference() for one in report.mismatches] == ["outbox_event: 0 stored of 2"]


def test_a_row_deleted_after_the_seal_is_committed_and_vanished(store: EventStore) -> None:
    # Given a window of two outboxes, and somebody who deletes rows of one before it is loaded
    create_users(3)
    write_events(["{}"] * 2)
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_user WHERE id = (SELECT min(id) FROM outbox_user)")
    assert deliver(window, store) is Delivery.ACKED

    report = read_period(store, since=LONG_AGO, until=None)

    users = report.outboxes["outbox_user"]
    assert (users.committed, users.stored, users.vanished, users.lost) == (3, 2, 1, 0)
    assert report.outboxes["outbox_event"].vanished == 0
    assert not report.mismatches
    assert [one.difference() for one in report.vanished] == ["outbox_user: 1 vanished"]

    # And the command says so, and that it is a problem
    done = here("pipeline", "verify")
    assert done.returncode == 1
    assert f"window {window.id}" in done.stdout
    assert "outbox_user: 1 vanished" in done.stdout
    assert "TowpathRowsVanished" in done.stdout


def test_what_a_window_gives_on_at_its_ack_is_counted_once(store: EventStore) -> None:  # noqa: ARG001 - it is emptied
    create_users(5)
    window = sealed()
    first, second, *_ = (id_ for _, id_ in members()[window.id])
    ack(
        window,
        delivered={"outbox_user": 3},
        refused=[RefusedRow("outbox_user", first, "bad")],
        left=[("outbox_user", second)],
        error="some are bad",
    )

    users = read_row_counts(since=LONG_AGO, until=NEVER, outboxes=["outbox_user"], is_with_pending=True)["outbox_user"]

    assert users == RowCounts(sealed=3, delivered=3, vanished=0, in_flight=1, dead=1, pending=0)


@pytest.mark.parametrize(
    ("falsified", "difference"),
    [
        ("rows = '{\"outbox_user\": 4}'", "outbox_user: 3 accounted for of 4 sealed"),
        ("refused = '{\"outbox_user\": 1}'", "outbox_user: 4 accounted for of 3 sealed"),
        ("isolated = '{\"outbox_user\": 2}'", "outbox_user: 5 accounted for of 3 sealed"),
    ],
)
def test_a_receipt_that_does_not_add_up_is_an_alarm(store: EventStore, falsified: str, difference: str) -> None:
    receipt = delivered(store, users=3)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE pipeline_window SET {falsified}")

    # The report names its window, and the columns do not add up
    report = read_period(store, since=LONG_AGO, until=None)
    assert [(one.receipt.window, one.difference()) for one in report.mismatches] == [(receipt.id, difference)]
    assert any(
        rows.committed != sum(value for name, value in asdict(rows).items() if name != "committed")
        for rows in report.outboxes.values()
    )

    # And so does every minute's verification
    assert verified(store) == 1
    done = here("pipeline", "verify")
    assert done.returncode == 1
    assert f"window {receipt.id}" in done.stdout
    assert difference in done.stdout


# --- The command -------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    printed = io.StringIO()
    try:
        call_command("pipeline", "verify", "--json", *arguments, stdout=printed)
    except SystemExit as stop:
        return int(stop.code or 0), json.loads(printed.getvalue())
    return 0, json.loads(printed.getvalue())


def test_the_command_prints_the_report_and_verifies(store: EventStore) -> None:
    delivered(store, users=3)

    code, ledger = command()

    assert code == 0
    assert ledger["windows"] == 1
    users = ledger["outboxes"]["outbox_user"]
    assert users == {"committed": 3, "stored": 3, "pending": 0, "in_flight": 0, "dead": 0, "vanished": 0, "lost": 0}
    assert Window.objects.exclude(verified_at=None).count() == 1


def test_the_command_finds_a_lost_row_and_says_which_window(store: EventStore, event_log: EventLog) -> None:
    receipt = delivered(store, users=3)
    event_log.clear()

    done = here("pipeline", "verify", "--since", "2020-01-01")

    assert done.returncode == 1
    assert f"window {receipt.id}" in done.stdout
    assert "outbox_user: 0 stored of 3" in done.stdout
    assert "docs/runbook.md" in done.stdout


def test_the_command_looks_at_the_period_that_it_is_told(store: EventStore) -> None:
    for days in (1, 2, 3):
        receipt = delivered(store, users=days)
        then = datetime.now(UTC) - timedelta(days=days, hours=-1)
        Window.objects.filter(id=receipt.id).update(acked_at=then, dispatched_from=then, dispatched_to=then)
    create_users(4, prefix="pending")
    since, until = (datetime.now(UTC) - timedelta(days=days) for days in (3, 1))

    code, ledger = command("--since", since.isoformat(), "--until", until.isoformat())

    # Pending rows belong to no period that has an end
    users = ledger["outboxes"]["outbox_user"]
    assert (code, ledger["windows"], users["stored"], users["pending"]) == (0, 2, 5, 0)
    code, ledger = command()
    users = ledger["outboxes"]["outbox_user"]
    assert (code, ledger["windows"], users["stored"], users["pending"]) == (0, 1, 1, 4)


def test_a_time_that_is_none_is_wrong_usage() -> None:
    done = manage("pipeline", "verify", "--since", "yesterday")

    assert done.returncode == 2
    assert "'yesterday' is not a time" in done.stderr


def test_a_store_that_is_away_is_said_in_one_line(store: EventStore) -> None:
    delivered(store, users=1)

    done = manage("pipeline", "verify", EVENT_STORE_URL="clickhouse://127.0.0.1:1/default")

    assert done.returncode == 1
    assert "The event store does not answer" in done.stderr
    assert "Traceback" not in done.stderr


# --- Purging -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "is_verified", "is_purged"), [(31, True, True), (29, True, False), (31, False, False)]
)
def test_verified_receipts_are_purged_after_receipt_days(
    store: EventStore, *, days: int, is_verified: bool, is_purged: bool
) -> None:
    delivered(store, users=1)
    then = datetime.now(UTC) - timedelta(days=days)
    Window.objects.update(acked_at=then, dispatched_from=then, verified_at=then if is_verified else None)

    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == int(is_purged)
    assert Window.objects.exists() != is_purged


def test_receipts_are_purged_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_RECEIPTS_PER_DELETE", 10)
    monkeypatch.setattr(verify, "_DELETES_PER_ROUND", 3)
    insert_receipts(45, age="31 days", verified=True)
    left = []

    def should_stop() -> bool:
        left.append(Window.objects.count())
        return len(left) == 3

    assert purge_receipts(receipt_days=30, should_stop=should_stop) == 20
    assert left == [45, 35, 25]

    # And no more of them in one round than it may make steps
    insert_receipts(45, age="31 days", verified=True)
    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 30


def test_an_open_window_is_never_purged(store: EventStore) -> None:  # noqa: ARG001 - it is emptied
    create_users(1)
    sealed()
    Window.objects.update(sealed_at=LONG_AGO, dispatched_from=LONG_AGO)

    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 0
    assert Window.objects.exists()


# --- Closing an alarm ----------------------------------------------------------------------------------------------


def alarm(store: EventStore, event_log: EventLog) -> Window:
    """The receipt of a window whose rows somebody has deleted for good."""
    lost = delivered(store, events=2)
    event_log.delete_where(f"window_id = '{lost.id}'")
    assert verified(store) == 1
    return lost


def test_a_person_closes_an_alarm_with_a_reason_and_that_is_an_event(store: EventStore, event_log: EventLog) -> None:
    lost = alarm(store, event_log)

    done = here("pipeline", "verify", "--close", str(lost.id), "--reason", "retention of 2023")

    assert done.returncode == 0
    assert f"closed: window {lost.id}: outbox_event: 0 stored of 2 (retention of 2023)" in done.stdout + done.stderr
    receipt = Window.objects.get(id=lost.id)
    assert receipt.closed_reason == "retention of 2023"
    assert receipt.contradiction == "outbox_event: 0 stored of 2"
    assert verified(store) == 0
    assert read_status().figures.ledger.unverified.contradicted == 0
    assert read_gauges()[mismatched_windows] == {"": 0.0}
    assert [one.is_ok for one in examine(config()) if one.check == "receipts"] == [True]
    # And the event goes the way of all events
    sealed()
    expire_leases()
    recover(store, should_stop=lambda: False)
    (event,) = [one for one in event_log.events() if one.event_type == "receipt_mismatch_closed"]
    assert json.loads(event.event_context) == {
        "window": str(lost.id),
        "difference": "outbox_event: 0 stored of 2",
        "reason": "retention of 2023",
        "closed_by": pwd.getpwuid(os.getuid()).pw_name,
    }


def test_the_alarm_of_vanished_rows_is_closed_in_the_same_way(store: EventStore, event_log: EventLog) -> None:
    # Given a window one of whose rows had vanished: an alarm that can be closed once the rest is verified
    write_events(["{}"] * 2)
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_event WHERE id = (SELECT min(id) FROM outbox_event)")
    deliver(window, store)
    assert here("pipeline", "verify", "--close", str(window.id), "--reason", "too early").returncode == 1
    assert verified(store) == 0
    assert read_status().figures.ledger.vanished.rows == 1

    done = here("pipeline", "verify", "--close", str(window.id), "--reason", "published again")

    assert done.returncode == 0
    assert f"closed: window {window.id}: outbox_event: 1 vanished (published again)" in done.stdout + done.stderr
    assert read_status().figures.ledger.vanished.rows == 0
    sealed()
    expire_leases()
    recover(store, should_stop=lambda: False)
    (event,) = [one for one in event_log.events() if one.event_type == "receipt_mismatch_closed"]
    assert json.loads(event.event_context)["difference"] == "outbox_event: 1 vanished"


def test_an_alarm_is_not_closed_without_a_reason(store: EventStore, event_log: EventLog) -> None:
    lost = alarm(store, event_log)

    done = here("pipeline", "verify", "--close", str(lost.id), "--reason", " ")

    assert done.returncode == 2
    assert "--reason" in done.stdout + done.stderr
    assert read_status().figures.ledger.unverified.contradicted == 1


def test_what_is_no_alarm_is_not_closed_and_nothing_beside_it(store: EventStore, event_log: EventLog) -> None:
    lost = alarm(store, event_log)
    whole = delivered(store, events=1)
    verified(store)

    done = here("pipeline", "verify", "--close", str(lost.id), str(whole.id), "--reason", "cleaned up")

    assert done.returncode == 1
    assert f"{whole.id} is not the receipt of an alarm" in done.stdout + done.stderr
    assert read_status().figures.ledger.unverified.contradicted == 1
    assert not Window.objects.exclude(closed_reason="").exists()


def test_a_closing_that_cannot_be_recorded_does_not_happen(store: EventStore, event_log: EventLog) -> None:
    lost = alarm(store, event_log)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_event ADD CONSTRAINT nothing_new CHECK (event_type = 'tested') NOT VALID")
    try:
        with pytest.raises(DatabaseError):
            verify.close([lost.id], reason="retention", by="somebody")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE outbox_event DROP CONSTRAINT nothing_new")

    assert read_status().figures.ledger.unverified.contradicted == 1
