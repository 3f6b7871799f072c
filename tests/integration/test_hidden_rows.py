"""A lean event of which a row is hidden from the pipeline's role waits: null in place of a value is another event."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from django.db import connection, models, transaction
from django.db.backends.postgresql.psycopg_any import is_psycopg3

from backend.users.models import OutboxUser, User
from tests.integration.event_log import EventLog
from tests.integration.rows import create_users, execute, undelivered
from tests.integration.stores import LosesInserts
from tests.integration.windows import deliver, expire_leases, recover, sealed
from tests.unit.outboxes import Maybe, lean, user_key
from towpath import Event, publish
from towpath.eventlog.store import Store
from towpath.flow import load as loading
from towpath.flow.delivery import Delivery
from towpath.flow.load import load
from towpath.ledger.models import Batch, Window
from towpath.ledger.windows import SealedWindow
from towpath.outbox.models import OutboxEvent
from towpath.watch.status import read_status


class Paid(Event):
    amount: int


@pytest.fixture
def as_subject_of_policies() -> Iterator[None]:
    """This connection is a role's that may do what the pipeline does and is not a superuser."""
    execute(
        "CREATE ROLE subject",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO subject",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO subject",
        "GRANT EXECUTE ON FUNCTION pg_control_system() TO subject",
        "SET ROLE subject",
    )
    yield
    execute(
        "RESET ROLE",
        "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
        "DROP POLICY IF EXISTS hiding ON users",
        "DROP OWNED BY subject",
        "DROP ROLE subject",
    )


def hide(condition: str) -> None:
    execute(
        "RESET ROLE",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY hiding ON users USING (NOT ({condition}))",
        "SET ROLE subject",
    )


def show_all() -> None:
    execute(
        "RESET ROLE", "DROP POLICY hiding ON users", "CREATE POLICY hiding ON users USING (true)", "SET ROLE subject"
    )


def stored_emails(event_log: EventLog) -> list[str]:
    contexts = [json.loads(event.event_context) for event in event_log.events()]
    return sorted(context["email"] for context in contexts if "email" in context)


@pytest.mark.usefixtures("as_subject_of_policies")
def test_an_event_whose_row_is_hidden_waits_by_itself_with_the_reason(store: Store, event_log: EventLog) -> None:
    # Given five users, of which the pipeline does not see one, and an event without a user
    create_users(5)
    with transaction.atomic():
        publish(Paid(amount=1))
    hide("email = 'user3@example.com'")

    # When they are delivered
    assert deliver(sealed(), store) is Delivery.ACKED

    # Then all others are stored, and its row is still there, and status says why
    assert stored_emails(event_log) == [f"user{number}@example.com" for number in (1, 2, 4, 5)]
    assert event_log.count() == 5
    assert OutboxUser.objects.count() == 1
    assert not OutboxEvent.objects.exists()
    expire_leases()
    recover(store, should_stop=lambda: False)
    assert any("hidden from the pipeline's role" in problem for problem in read_status().problems)
    assert event_log.count() == 5

    # And once it can be seen, it is stored as it is
    show_all()
    expire_leases()
    recover(store, should_stop=lambda: False)
    assert stored_emails(event_log) == [f"user{number}@example.com" for number in range(1, 6)]
    assert undelivered() == {}


@pytest.mark.usefixtures("as_subject_of_policies")
def test_when_every_row_is_hidden_nothing_is_stored_and_nothing_lost(store: Store, event_log: EventLog) -> None:
    create_users(30)
    hide("true")

    assert deliver(sealed(), store) is Delivery.ACKED

    assert event_log.count() == 0
    assert OutboxUser.objects.count() == 30
    assert sum(sum(window.rows.values()) for window in Window.objects.filter(acked_at=None)) == 30
    show_all()
    expire_leases()
    recover(store, should_stop=lambda: False)
    assert event_log.count() == 30


@pytest.mark.usefixtures("as_subject_of_policies")
def test_a_row_that_is_hidden_after_it_was_stored_is_not_stored_again(store: Store, event_log: EventLog) -> None:
    create_users(3)
    window = sealed()
    store.write(load(window, environment="test", max_bytes=None).rows, row_count=3, token=str(window.id))
    hide("email = 'user2@example.com'")

    expire_leases()
    recover(store, should_stop=lambda: False)
    expire_leases()
    recover(store, should_stop=lambda: False)

    assert (event_log.count(), event_log.distinct()) == (3, 3)
    assert undelivered() == {}


@pytest.mark.usefixtures("as_subject_of_policies")
def test_a_row_that_may_arrive_still_is_not_parted_from_its_window_when_it_is_hidden(
    store: Store, event_log: EventLog
) -> None:
    # Given an insert that is on its way for long, of the only row of its month
    create_users(1)
    window = sealed()
    rows = load(window, environment="test", max_bytes=None).rows
    assert deliver(window, LosesInserts(store)) is Delivery.POSTPONED
    hide("true")

    # When the next owner does not see the row, the insert arrives, and the row can be seen again
    expire_leases()
    recover(store, should_stop=lambda: False)
    assert any("hidden from the pipeline's role" in problem for problem in read_status().problems)
    store.write(rows, row_count=1, token=str(window.id))
    show_all()
    expire_leases()
    recover(store, should_stop=lambda: False)

    assert (event_log.count(), event_log.distinct()) == (1, 1)
    assert undelivered() == {}


def test_a_value_that_may_be_none_is_told_from_a_row_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event says `| None`, so that the text alone would not tell."""
    outbox = lean(Maybe, user=user_key(null=True), at=models.DateTimeField(), event_date_time="at")
    monkeypatch.setattr(loading, "all_outboxes", lambda: {"outbox_lean": outbox})
    now = datetime.now(UTC)
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(outbox)
        execute("SET CONSTRAINTS ALL IMMEDIATE")
        user = User.objects.create(email="ada@example.com", first_name="A", last_name="B")
        rows = [outbox.objects.create(user=one, at=now) for one in (user, None)]  # type: ignore[misc]
        window = Window.objects.create(
            id=uuid.uuid4(),
            lease_token=uuid.uuid4(),
            **dict.fromkeys(("lease_until", "sealed_at", "dispatched_from", "dispatched_to"), now),
            rows={"outbox_lean": 2},
            bytes=0,
        )
        Batch.objects.create(
            window=window, outbox="outbox_lean", ids=[row.pk for row in rows], rows=2, bytes=0, dispatched_at=now
        )
        whole = SealedWindow(window.id, window.lease_token, 30, 1, {"outbox_lean": 2})
        seen = load(whole, environment="test", max_bytes=None)
        execute("SET CONSTRAINTS ALL IMMEDIATE", "ALTER TABLE users ENABLE ROW LEVEL SECURITY", "CREATE ROLE subject")
        execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO subject", "SET LOCAL ROLE subject")
        not_seen = load(whole, environment="test", max_bytes=None)
        transaction.set_rollback(True)

    assert seen.hidden == frozenset()
    assert b'{"email":"ada@example.com"}' in seen.rows
    assert b'{"email":null}' in seen.rows
    assert not_seen.hidden == {("outbox_lean", rows[0].pk)}


# --- Settings that change what COPY writes -----------------------------------------------------------------------

#: A role, a database or a project may have any of them.
SETTINGS = {
    "TimeZone": "'Africa/Monrovia'",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "extra_float_digits": "-15",
    "bytea_output": "'escape'",
    "client_encoding": "'LATIN1'",
    "standard_conforming_strings": "off",
    "statement_timeout": "1",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "row_security": "off",
}


@pytest.mark.parametrize(
    "setting",
    # On a busy machine, a millisecond may be over before the limit is set aside.
    [pytest.param(name, marks=pytest.mark.timing if name == "statement_timeout" else ()) for name in SETTINGS],
)
def test_a_window_is_the_same_text_whatever_the_session_is_set_to(setting: str) -> None:
    create_users(2000, prefix="é\\\\")
    with transaction.atomic():
        publish(Paid(amount=1), at=datetime(1905, 6, 1, 1, 2, 3, tzinfo=UTC))
    window = sealed()
    as_usual = load(window, environment="test", max_bytes=None)

    with connection.cursor() as cursor:
        cursor.execute(f"SET {setting} = {SETTINGS[setting]}")
        if setting == "client_encoding" and not is_psycopg3:  # which does not look at what the server has
            connection.connection.set_client_encoding("LATIN1")
    try:
        assert load(window, environment="test", max_bytes=None) == as_usual
    finally:
        connection.close()
    assert b"1905-06-01 01:02:03+00" in as_usual.rows
