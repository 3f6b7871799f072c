"""Columns that an outbox adds fill the event log's columns of the same names, where one is declared."""

from __future__ import annotations

import pytest
from django.db import transaction

from backend.eventlog.columns import ROW_COLUMNS, Column, FromEvent, Kind
from backend.outbox import publish
from backend.outbox.models import OutboxEvent
from backend.users.events import UserUpdated
from backend.users.models import User
from backend.users.use_cases import CreateUser, CreateUserRequest
from pipeline import load
from tests.integration.rows import write_events
from tests.integration.windows import sealed


def test_a_column_is_filled_by_the_outboxes_that_have_it_and_has_its_default_in_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given two more columns of the event log, as a line each in ADDED_COLUMNS would declare them
    more = (Column("user_id", Kind.WHOLE_NUMBER, FromEvent()), Column("bound", Kind.TEXT, FromEvent()))
    monkeypatch.setattr(load, "ROW_COLUMNS", (*ROW_COLUMNS, *more))
    monkeypatch.setattr(load, "_rows_sql_of_any_window", load._rows_sql_of_any_window.__wrapped__)
    monkeypatch.setattr(OutboxEvent, "own_columns", lambda: ("bound",))

    # And a lean event, a frozen one, and one that knows nothing of users (and has NULL for the other)
    user = CreateUser().execute(CreateUserRequest(email="a@b.co", first_name="A", last_name="B")).result
    assert isinstance(user, User)
    with transaction.atomic():
        publish(UserUpdated(user_id=77, changes={}))
    write_events(["{}"])

    rows = load.load(sealed(), max_bytes=None).rows.decode().splitlines()

    assert sorted((line.split("\t")[0], *line.split("\t")[-2:]) for line in rows) == [
        ("outbox_event", "0", ""),
        ("outbox_user", str(user.pk), ""),
        ("outbox_user_change", "77", ""),
    ]
