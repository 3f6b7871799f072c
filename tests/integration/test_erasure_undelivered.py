"""Erasure of events that are not stored yet: they are masked in their outboxes, dead letters included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.test.utils import isolate_apps

from tests.integration.erasing import JANE, JOHN, MAIL, ODD, contexts, deliver_and_verify, erase, run, stored, write_as
from tests.integration.proving import Tampered, audited
from tests.integration.rows import create_users
from tests.integration.windows import deliver, dispatched, seal, taken_over
from towpath.conf.current import config
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import DeadLetter, Proof
from towpath.outbox.models import FrozenOutbox, OutboxEvent, all_outboxes
from towpath.proof import undelivered

with isolate_apps("backend.users"):

    class OutboxOwn(FrozenOutbox):
        email = models.TextField()
        note = models.TextField()

        class Meta(FrozenOutbox.Meta):
            app_label = "users"
            db_table = "outbox_own"


@pytest.fixture
def own_outbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An outbox with columns of its own."""
    with connection.schema_editor() as editor:
        editor.create_model(OutboxOwn)
    monkeypatch.setattr(undelivered, "all_outboxes", lambda: {**all_outboxes(), "outbox_own": OutboxOwn})
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(OutboxOwn)


def test_what_is_not_delivered_yet_is_masked_in_its_outbox(erased: Tampered) -> None:
    mine, odd, others = write_as(JANE, [json.dumps({"email": MAIL}), ODD, '{"n": 5}'])
    (johns,) = write_as(JOHN, [json.dumps({"email": MAIL})])
    before = {row["id"]: row for row in OutboxEvent.objects.values()}

    answer = erase("--actor", JANE, fields=("context.email", "ip"))

    assert (answer["rows"], answer["undelivered"], answer["on_their_way"], answer["exit"]) == (4, 3, 0, 0)
    after = {row["id"]: row for row in OutboxEvent.objects.values()}
    assert after[johns] == before[johns]
    assert after[mine]["event_context"] == '{"email": "***"}'
    assert after[odd]["event_context"] == ODD.replace('"j\\u0061ne.doe@example.com"', '"***"')
    assert after[others]["bound"] == (before[others]["bound"] or {}) | {"ip": "***"}
    assert after[mine]["xid"] == before[mine]["xid"]

    # And it is delivered as that
    deliver_and_verify(erased)
    assert '{"email": "***"}' in contexts(erased, JANE)
    assert audited()["exit"] == 0
    assert erase("--actor", JANE, fields=("context.email", "ip"))["rows"] == 0


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("context.email:*@x.example OR context.n>=5", 2),
        (f"-context.n:5 actor:{JANE}", 2),
        ('"N\\": 5"', 1),
        (
            f"outbox:outbox_event environment:{config().environment} type:tested metadata_version:1 -has:context.email",
            2,
        ),
        ("time>=2026-04-03 time<2026-04-04 target:user:* has:ip -has:outcome", 3),
        (f"actor:{JOHN},{JANE} actor:{JANE},x request_id:*4711", 3),
        ("time<2026-04-03 OR outbox:outbox_user OR actor:user:* actor:x", 0),
    ],
)
def test_a_query_finds_the_same_events_before_and_after_they_are_stored(
    erased: Tampered, query: str, count: int
) -> None:
    first, *_ = write_as(JANE, ['{"email": "j\\u0061ne@x.example"}', '{"n": 5}', '{"n": [1, 4]}'])
    condition = ("--where", f"outbox_id>={first} ({query})", "--dry-run")

    before = erase(*condition, fields=("context",))
    deliver_and_verify(erased)
    after = erase(*condition, fields=("context",))

    assert (before["rows"], before["undelivered"]) == (0, count)
    assert (after["rows"], after["undelivered"]) == (count, 0)


@pytest.mark.usefixtures("erased")
def test_a_dead_letter_is_masked_where_it_waits() -> None:
    (row_id,) = write_as(JANE, [json.dumps({"email": MAIL})])
    batch = dispatched()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_batch WHERE id = ANY(%s)", [batch])
        cursor.execute(
            "INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)"
            " VALUES ('outbox_event', %s, 'refused', gen_random_uuid(), now())",
            [row_id],
        )

    answer = erase("--actor", JANE)

    assert (answer["undelivered"], answer["on_their_way"], answer["exit"]) == (1, 0, 0)
    assert OutboxEvent.objects.get(id=row_id).event_context == '{"email": "***"}'
    assert DeadLetter.objects.count() == 1


def test_an_event_that_a_worker_has_loaded_is_told_of_and_found_by_the_next_run(erased: Tampered) -> None:
    # Given a window that a worker has written as it was, and not acked
    write_as(JANE, [json.dumps({"email": MAIL, "n": 6})])
    window = seal(dispatched())
    assert window is not None

    # When its event is erased
    done = run("--actor", JANE)

    # Then that is said, and the same command is good for what is stored by then
    assert done.returncode == 1
    assert "1 of these events may be stored unmasked: run the same command again" in done.stdout
    assert deliver(taken_over(window), erased.store) is Delivery.ACKED
    assert verify_receipts(erased.store, should_stop=lambda: False) == 0
    assert erase("--actor", JANE)["exit"] == 0
    assert MAIL not in "".join(contexts(erased, JANE))


def test_an_event_of_a_lean_outbox_is_erased_once_it_is_stored(erased: Tampered) -> None:
    create_users(1, prefix="jane")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE outbox_user SET bound = %s::jsonb", [json.dumps({"actor": JANE, "ip": "192.0.2.7"})])

    for query, count in (("context.email:jane1@*", 1), ("jane1 type:user_created", 1), ("context.email:x", 0)):
        assert erase("--where", query, "--dry-run", fields=("context.email", "ip"))["undelivered"] == count
    answer = erase("--actor", JANE, fields=("context.email", "ip"))

    assert (answer["undelivered"], answer["on_their_way"], answer["exit"]) == (1, 1, 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT bound FROM outbox_user")
        assert json.loads(cursor.fetchone()[0]) == {"actor": JANE, "ip": "***"}
    deliver_and_verify(erased)
    assert erase("--actor", JANE, fields=("context.email", "ip"))["exit"] == 0
    assert "jane1@example.com" not in "".join(contexts(erased, JANE))
    assert audited()["exit"] == 0


@pytest.mark.usefixtures("erased")
def test_a_row_that_was_delivered_while_the_outboxes_were_masked_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    (row_id,) = write_as(JANE, [json.dumps({"email": MAIL, "n": 7})])
    mask = undelivered.mask

    def delivered_meanwhile(*arguments: Any) -> Any:
        with transaction.atomic():
            OutboxEvent.objects.filter(id=row_id).delete()
        return mask(*arguments)

    monkeypatch.setattr(undelivered, "mask", delivered_meanwhile)

    answer = erase("--actor", JANE)

    assert (answer["on_their_way"], answer["exit"]) == (1, 1)


@pytest.mark.usefixtures("erased", "own_outbox")
def test_own_columns_of_an_outbox_are_masked_with_the_context_that_they_come_from() -> None:
    columns = "event_type, event_date_time, event_context, metadata_version, bound, email, note"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO outbox_own ({columns}) VALUES ('tested', now(), %s, 1, %s::jsonb, %s, 'n')",
            [json.dumps({"email": MAIL, "note": "n"}), json.dumps({"actor": JANE}), MAIL],
        )

    assert erase("--actor", JANE)["undelivered"] == 1

    with connection.cursor() as cursor:
        cursor.execute("SELECT event_context, email, note FROM outbox_own")
        assert cursor.fetchall() == [('{"email": "***", "note": "n"}', "***", "n")]


@pytest.mark.parametrize(
    ("index", "fields", "column"),
    [
        ("(email)", ("context.email",), "email"),
        ("(lower(email), event_type)", ("context",), "email"),
        ("(id) WHERE email <> ''", ("context.email",), "email"),
    ],
)
@pytest.mark.usefixtures("own_outbox")
def test_a_column_that_takes_each_value_once_is_named_before_anything_is_changed(
    erased: Tampered, index: str, fields: tuple[str, ...], column: str
) -> None:
    columns = "event_type, event_date_time, event_context, metadata_version, bound, email, note"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE UNIQUE INDEX once ON outbox_own {index}")
        cursor.execute(
            f"INSERT INTO outbox_own ({columns}) VALUES ('tested', now(), %s, 1, %s::jsonb, %s, 'n')",
            [json.dumps({"email": MAIL, "note": "n"}), json.dumps({"actor": JANE}), MAIL],
        )
    before = stored(erased)

    done = run("--actor", JANE, fields=fields)

    assert done.returncode == 1
    assert f"the column {column} must be unique (index once)" in done.stderr
    assert MAIL not in done.stderr
    assert stored(erased) == before
    assert not Proof.objects.filter(kind="erased").exists()
    # What changes none of it can be erased
    assert erase("--actor", JANE, fields=("context.note",))["undelivered"] == 1
