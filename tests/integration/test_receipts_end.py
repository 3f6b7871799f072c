"""How receipts end: verified ones are purged, and an alarm is closed by a person."""

from __future__ import annotations

import json
import os
import pwd
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection

from tests.integration.event_log import EventLog
from tests.integration.manage import here
from tests.integration.proving import audited
from tests.integration.receipts import LONG_AGO, delivered, insert_receipts, verified
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, expire_leases, recover, sealed
from towpath.conf.current import config
from towpath.eventlog.store import Store
from towpath.flow import verify
from towpath.flow.verify import purge_receipts
from towpath.ledger.models import Window
from towpath.telemetry.metrics import mismatched_windows
from towpath.watch.doctor import examine
from towpath.watch.gauges import read_gauges
from towpath.watch.status import read_status


@pytest.mark.parametrize(
    ("days", "is_verified", "is_purged"), [(31, True, True), (29, True, False), (31, False, False)]
)
def test_verified_receipts_are_purged_after_receipt_days(
    store: Store, *, days: int, is_verified: bool, is_purged: bool
) -> None:
    delivered(store, users=1)
    then = datetime.now(UTC) - timedelta(days=days)
    Window.objects.update(acked_at=then, dispatched_from=then, verified_at=then if is_verified else None)

    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == int(is_purged)
    assert Window.objects.exists() != is_purged


def test_a_purged_receipt_is_not_called_removed_when_receipts_are_kept_for_longer(store: Store) -> None:
    delivered(store, users=1)
    then = datetime.now(UTC) - timedelta(days=20)
    Window.objects.update(acked_at=then, dispatched_from=then)
    assert verified(store) == 0
    assert purge_receipts(receipt_days=10, should_stop=lambda: False) == 1
    assert audited()["exit"] == 0

    for _ in range(2):
        assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 0

    assert audited()["differences"] == []


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


def test_an_open_window_is_never_purged(store: Store) -> None:  # noqa: ARG001 - it is emptied
    create_users(1)
    sealed()
    Window.objects.update(sealed_at=LONG_AGO, dispatched_from=LONG_AGO)

    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 0
    assert Window.objects.exists()


def alarm(store: Store, event_log: EventLog) -> Window:
    """The receipt of a window whose rows somebody has deleted for good."""
    lost = delivered(store, events=2)
    event_log.delete_where(f"window_id = '{lost.id}'")
    assert verified(store) == 1
    return lost


def test_a_person_closes_an_alarm_with_a_reason_and_that_is_an_event(store: Store, event_log: EventLog) -> None:
    lost = alarm(store, event_log)

    done = here("pipeline", "verify", "--close", str(lost.id), "--reason", "retention of 2023")

    assert done.returncode == 0
    assert f"closed: window {lost.id}: outbox_event: 0 of 2 stored (retention of 2023)" in done.stdout + done.stderr
    receipt = Window.objects.get(id=lost.id)
    assert receipt.closed_reason == "retention of 2023"
    assert receipt.contradiction == "outbox_event: 0 of 2 stored"
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
        "difference": "outbox_event: 0 of 2 stored",
        "reason": "retention of 2023",
        "closed_by": pwd.getpwuid(os.getuid()).pw_name,
    }


def test_the_alarm_of_vanished_rows_is_closed_in_the_same_way(store: Store, event_log: EventLog) -> None:
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


def test_an_alarm_is_not_closed_without_a_reason(store: Store, event_log: EventLog) -> None:
    lost = alarm(store, event_log)

    done = here("pipeline", "verify", "--close", str(lost.id), "--reason", " ")

    assert done.returncode == 2
    assert "--reason" in done.stdout + done.stderr
    assert read_status().figures.ledger.unverified.contradicted == 1


def test_what_is_no_alarm_is_not_closed_and_nothing_beside_it(store: Store, event_log: EventLog) -> None:
    lost = alarm(store, event_log)
    whole = delivered(store, events=1)
    verified(store)

    done = here("pipeline", "verify", "--close", str(lost.id), str(whole.id), "--reason", "cleaned up")

    assert done.returncode == 1
    assert f"{whole.id} has no alarm" in done.stdout + done.stderr
    assert read_status().figures.ledger.unverified.contradicted == 1
    assert not Window.objects.exclude(closed_reason="").exists()


def test_a_closing_that_cannot_be_recorded_does_not_happen(store: Store, event_log: EventLog) -> None:
    lost = alarm(store, event_log)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_event ADD CONSTRAINT nothing_new CHECK (event_type = 'tested') NOT VALID")
    try:
        with pytest.raises(DatabaseError):
            verify.close_alarms([lost.id], store, reason="retention", by="somebody")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE outbox_event DROP CONSTRAINT nothing_new")

    assert read_status().figures.ledger.unverified.contradicted == 1
