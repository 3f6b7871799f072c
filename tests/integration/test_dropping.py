"""Dropping a dead letter deletes evidence, so it leaves evidence: an event of its own, stored like any other."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection

from tests.integration.rows import undelivered, write_events
from tests.integration.windows import expire_leases, recover, sealed
from towpath.flow import deadletters
from towpath.ledger.ack import ack
from towpath.ledger.models import DeadLetter
from towpath.ledger.windows import RefusedRow
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from tests.integration.event_log import EventLog
    from towpath.eventlog.store import EventStore


@pytest.fixture
def letter() -> DeadLetter:
    """A row that the event store has refused."""
    (row_id,) = write_events(['{"secret":"payload"}'])
    window = sealed()
    ack(window, delivered={}, refused=[RefusedRow("outbox_event", row_id, "does not fit its column")])
    return DeadLetter.objects.get()


def test_a_drop_is_stored_as_an_event_that_names_who_did_it(
    letter: DeadLetter, store: EventStore, event_log: EventLog
) -> None:
    call_command("pipeline", "deadletters", "drop", str(letter.id), "--yes")

    assert not DeadLetter.objects.exists()
    assert not OutboxEvent.objects.filter(id=letter.row_id).exists()
    sealed()
    expire_leases()
    recover(store, should_stop=lambda: False)
    (event,) = event_log.events()
    assert event.event_type == "dead_letter_dropped"
    assert json.loads(event.event_context) == {
        "outbox": "outbox_event",
        "outbox_id": letter.row_id,
        "error": "does not fit its column",
        "dropped_by": pwd.getpwuid(os.getuid()).pw_name,
    }
    assert undelivered() == {}


def test_a_drop_that_cannot_be_recorded_does_not_happen(letter: DeadLetter) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_event ADD CONSTRAINT nothing_new CHECK (event_type = 'tested') NOT VALID")
    try:
        with pytest.raises(DatabaseError):
            deadletters.drop(deadletters.find([letter.id]), by="somebody")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE outbox_event DROP CONSTRAINT nothing_new")

    assert DeadLetter.objects.filter(id=letter.id).exists()
    assert OutboxEvent.objects.filter(id=letter.row_id).exists()


def test_who_drops_is_the_account_and_not_a_variable(letter: DeadLetter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")

    call_command("pipeline", "deadletters", "drop", str(letter.id), "--yes")

    assert "somebody-else" not in OutboxEvent.objects.get().event_context
