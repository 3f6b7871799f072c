"""The report of a period, and the command `pipeline verify` that prints it."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from structlog.testing import capture_logs

from tests.integration.event_log import EventLog
from tests.integration.manage import here, manage
from tests.integration.receipts import LONG_AGO, NEVER, delivered, verified
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, dispatched, members, sealed
from towpath.conf.current import config
from towpath.eventlog.store import Store
from towpath.flow.delivery import Delivery
from towpath.ledger.ack import ack
from towpath.ledger.models import Window
from towpath.ledger.period import RowCounts, read_row_counts
from towpath.ledger.windows import RefusedRow
from towpath.process import Process
from towpath.watch.period import read_period


def test_the_report_has_each_row_where_it_is(store: Store) -> None:
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


def test_the_report_of_a_period_leaves_out_what_was_dispatched_before_or_after(store: Store) -> None:
    delivered(store, users=3)
    between = datetime.now(UTC)
    delivered(store, users=4)

    before = read_period(store, since=LONG_AGO, until=between)
    after = read_period(store, since=between, until=None)

    assert (before.windows, before.outboxes["outbox_user"].stored) == (1, 3)
    assert (after.windows, after.outboxes["outbox_user"].stored) == (1, 4)


def test_the_report_counts_rows_that_the_store_has_lost(store: Store, event_log: EventLog) -> None:
    receipt = delivered(store, users=3, events=2)
    event_log.delete_where(f"window_id = '{receipt.id}' AND outbox = 'outbox_event'")

    report = read_period(store, since=LONG_AGO, until=None)

    events = report.outboxes["outbox_event"]
    assert (events.committed, events.stored, events.lost) == (2, 0, 2)
    assert report.outboxes["outbox_user"].lost == 0
    assert [one.difference() for one in report.mismatches] == ["outbox_event: 0 of 2 stored"]


def test_a_row_deleted_after_the_seal_is_committed_and_vanished(store: Store) -> None:
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


def test_what_a_window_gives_on_at_its_ack_is_counted_once(store: Store) -> None:  # noqa: ARG001 - it is emptied
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
        ("rows = '{\"outbox_user\": 4}'", "outbox_user: 3 of 4 sealed rows accounted for"),
        ("refused = '{\"outbox_user\": 1}'", "outbox_user: 4 of 3 sealed rows accounted for"),
        ("isolated = '{\"outbox_user\": 2}'", "outbox_user: 5 of 3 sealed rows accounted for"),
    ],
)
def test_a_receipt_that_does_not_add_up_is_an_alarm(store: Store, falsified: str, difference: str) -> None:
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


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    printed = io.StringIO()
    try:
        call_command("pipeline", "verify", "--json", *arguments, stdout=printed)
    except SystemExit as stop:
        return int(stop.code or 0), json.loads(printed.getvalue())
    return 0, json.loads(printed.getvalue())


def test_the_command_prints_the_report_and_verifies(store: Store) -> None:
    delivered(store, users=3)

    code, ledger = command()

    assert code == 0
    assert ledger["windows"] == 1
    users = ledger["outboxes"]["outbox_user"]
    assert users == {"committed": 3, "stored": 3, "pending": 0, "in_flight": 0, "dead": 0, "vanished": 0, "lost": 0}
    assert Window.objects.exclude(verified_at=None).count() == 1


def test_the_command_finds_a_lost_row_and_says_which_window(store: Store, event_log: EventLog) -> None:
    receipt = delivered(store, users=3)
    event_log.clear()

    done = here("pipeline", "verify", "--since", "2020-01-01")

    assert done.returncode == 1
    assert f"window {receipt.id}" in done.stdout
    assert "outbox_user: 0 of 3 stored" in done.stdout
    assert "docs/runbook.md" in done.stdout


def test_the_command_looks_at_the_period_that_it_is_told(store: Store) -> None:
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


def test_a_store_that_is_away_is_said_in_one_line(store: Store) -> None:
    delivered(store, users=1)

    done = manage("pipeline", "verify", EVENT_STORE_URL="clickhouse://127.0.0.1:1/default")

    assert done.returncode == 1
    assert "The event store does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_verification_reads_with_its_own_user_where_it_has_one(store: Store) -> None:
    """The store of EVENT_STORE_URL answers, and is not asked."""
    window = delivered(store, users=1)
    elsewhere = replace(config(), event_store_verifier_url="clickhouse://127.0.0.1:1/default")

    with capture_logs() as logs:
        Process(elsewhere, enqueue=lambda _: None).verify()
    assert [entry["event"] for entry in logs] == ["verify_postponed"]
    assert Window.objects.get(id=window.id).verified_at is None

    Process(config(), enqueue=lambda _: None).verify()
    assert Window.objects.get(id=window.id).verified_at is not None

    done = manage("pipeline", "verify", EVENT_STORE_VERIFIER_URL=elsewhere.event_store_verifier_url)
    assert done.returncode == 1
    assert "The event store does not answer" in done.stderr
