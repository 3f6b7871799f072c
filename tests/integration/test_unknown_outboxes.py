"""Names in the ledger that no outbox class has: they harm nobody, `status` names them, and a command resolves them."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from structlog.testing import capture_logs

from backend.users.models import OutboxUserChange
from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.manage import here, status
from tests.integration.rows import undelivered, write_events
from tests.integration.windows import claim_expired, deliver, expire_leases, has_room, recover, seal
from towpath import actors
from towpath.conf.current import config
from towpath.flow import load as load_module
from towpath.flow.delivery import Delivery
from towpath.flow.load import load
from towpath.flow.verify import verify_receipts
from towpath.ledger.ack import ack
from towpath.ledger.foreign import ledger_id
from towpath.ledger.models import Batch, Cursor, DeadLetter, Window
from towpath.ledger.windows import begin_write
from towpath.outbox.models import OutboxEvent
from towpath.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.event_log import EventLog
    from tests.knobs import Knobs
    from towpath.eventlog.store import Store

OLD, NEW, EVENT = "outbox_old", "outbox_user_change", "outbox_event"


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@contextlib.contextmanager
def before_the_rename() -> Iterator[None]:
    """Inside, the table of OutboxUserChange has its old name; what is left inside is renamed at the end."""
    _rename(NEW, OLD)
    try:
        yield
    finally:
        _rename(OLD, NEW)


def _rename(old: str, new: str) -> None:
    run(f"ALTER TABLE {old} RENAME TO {new}")
    OutboxUserChange._meta.db_table = new
    # A process has one name for a table; what Django and the load keep of it goes with the process.
    for field in OutboxUserChange._meta.concrete_fields:
        vars(field).pop("cached_col", None)
    load_module._rows_sql_of_any_window.cache_clear()


def change_users(count: int) -> None:
    run(
        f"INSERT INTO {OutboxUserChange._meta.db_table} (event_type, event_date_time, event_context, metadata_version,"
        f" user_id) SELECT 'changed', now(), json_build_object('n', n), 1, n FROM generate_series(1, {count}) AS n"
    )


def dispatched() -> list[int]:
    dispatch_all(make_dispatcher(sent := Sent(), batch_ids=100))
    return [batch.id for batch in sent.batches]


def written_and_not_acked(batch_ids: list[int], store: Store) -> None:
    window = seal(batch_ids)
    assert window is not None
    loaded = load(window, environment="test", max_bytes=None)
    begin_write(window)
    store.write(loaded.rows, row_count=loaded.row_count, token=str(window.id))


def overdue(knobs: Knobs) -> None:
    knobs(unsealed_seconds=0)
    expire_leases()


def recover_all(store: Store) -> None:
    while recover(store, should_stop=lambda: False):
        expire_leases()


def problems() -> list[str]:
    return [problem for problem in status()["problems"] if "no outbox class has the name" in problem]


def stored(event_log: EventLog) -> list[int]:
    return sorted(json.loads(one.event_context)["n"] for one in event_log.events() if one.event_type == "changed")


def test_an_outbox_that_is_renamed_with_events_under_way_stores_each_once(
    store: Store, event_log: EventLog, knobs: Knobs
) -> None:
    # Given 500 events in batches of 100: one window sealed, one written and not acked, the other batches unsealed
    with before_the_rename():
        change_users(500)
        batches = dispatched()
        seal(batches[:1])
        written_and_not_acked(batches[1:2], store)
    overdue(knobs)
    assert event_log.count() == 100

    # When its table is renamed, then nothing is dispatched again, nobody touches the old name's windows and batches,
    # and the other outbox's events are delivered
    assert dispatched() == []
    write_events(["{}"] * 3)
    seal([*dispatched(), *batches])
    expire_leases()
    recover_all(store)
    assert event_log.count() == 103
    assert undelivered() == {NEW: 500, "batches": 5, "open windows": 2}

    # And status says what to do
    (problem,) = problems()
    assert f"no outbox class has the name {OLD}, but the ledger has 5 batch(es) with 500 row(s)" in problem
    assert f"Its table is now {NEW}: run `python manage.py pipeline outboxes rename {OLD} {NEW}`" in problem
    assert here("pipeline", "status").returncode == 1

    # And that command does it
    call_command("pipeline", "outboxes", "rename", OLD, NEW)
    assert problems() == []
    expire_leases()
    change_users(1)
    dispatched()
    recover_all(store)
    assert undelivered() == {}
    assert stored(event_log) == [1, *range(1, 501)]
    assert verify_receipts(store, should_stop=lambda: False) == 0
    assert not Cursor.objects.filter(outbox=OLD).exists()
    with pytest.raises(CommandError, match="has nothing under outbox_old"):
        call_command("pipeline", "outboxes", "rename", OLD, NEW)


def test_a_late_insert_of_the_renamed_outbox_stores_nothing_twice(store: Store, event_log: EventLog) -> None:
    # Given a window that was begun, and whose insert has not arrived yet
    with before_the_rename():
        change_users(10)
        window = seal(dispatched())
        assert window is not None
        late = load(window, environment="test", max_bytes=None)
        begin_write(window)
    expire_leases()

    call_command("pipeline", "outboxes", "rename", OLD, NEW)
    store.write(late.rows, row_count=late.row_count, token=str(window.id))

    assert stored(event_log) == [*range(1, 11)]
    assert undelivered() == {}


def test_what_was_dispatched_again_under_the_new_name_is_stored_once(
    store: Store, event_log: EventLog, knobs: Knobs
) -> None:
    # Given a table that was renamed while nothing told that it is the same one
    with before_the_rename():
        change_users(500)
        batches = dispatched()
        written_and_not_acked(batches[1:2], store)
    run("UPDATE pipeline_cursor SET table_oid = NULL")
    again = dispatched()
    assert len(again) == 5
    seal(again[:2])

    with pytest.raises(CommandError, match="Add --yes"):
        call_command("pipeline", "outboxes", "rename", OLD, NEW)
    expire_leases()
    call_command("pipeline", "outboxes", "rename", OLD, NEW, "--yes")
    overdue(knobs)
    recover_all(store)

    assert stored(event_log) == [*range(1, 501)]
    assert undelivered() == {}
    assert status()["vanished_rows"] == 0


def test_dead_letters_of_a_renamed_outbox_are_replayed_under_the_new_name(store: Store, event_log: EventLog) -> None:
    with before_the_rename():
        change_users(2)
        window = seal(dispatched())
        assert window is not None
        refused = OutboxUserChange.objects.order_by("id").first()
        assert refused is not None
    run("DELETE FROM pipeline_batch; DELETE FROM pipeline_window")
    run(
        "INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)"
        f" SELECT '{OLD}', id, 'refused', gen_random_uuid(), now() FROM {NEW}"
    )

    # When nobody has the name, then the commands say so, or do without
    letter = DeadLetter.objects.latest("id")
    assert json.loads(here("pipeline", "deadletters", "show", str(letter.id), "--json").stdout)[0]["outbox"] == OLD
    with pytest.raises(CommandError, match="pipeline outboxes list"):
        call_command("pipeline", "deadletters", "replay", str(letter.id))
    assert DeadLetter.objects.count() == 2

    call_command("pipeline", "outboxes", "rename", OLD, NEW)
    call_command("pipeline", "deadletters", "replay", "--all")
    window = seal([*Batch.objects.values_list("id", flat=True)])
    assert window is not None
    assert deliver(window, store) is Delivery.ACKED
    assert stored(event_log) == [1, 2]


def test_a_name_that_is_gone_is_discarded_and_what_shared_its_windows_is_delivered(
    store: Store, event_log: EventLog, knobs: Knobs
) -> None:
    # Given windows that both outboxes share, of which one was begun, a batch and a dead letter of the one that is gone
    def fill() -> list[int]:
        change_users(5)
        write_events(['{"n": 0}'] * 5)
        return dispatched()

    with before_the_rename():
        begun, not_begun = (seal(fill()) for _ in range(2))
        assert begun is not None
        assert not_begun is not None
        begin_write(begun)
        change_users(2)
        dispatched()
        run(f"DELETE FROM {OLD}")
    DeadLetter.objects.create(
        outbox=OLD, row_id=99, error="", window_id="11111111-2222-3333-4444-555555555555", at="2026-01-01T00:00:00Z"
    )
    run("UPDATE pipeline_cursor SET table_oid = 1 WHERE outbox = 'outbox_old'")
    overdue(knobs)

    # Then the others of the window that was not begun are delivered, and those of the other one wait
    recover_all(store)
    assert event_log.count() == 5
    (problem,) = problems()
    assert (
        "3 batch(es) with 12 row(s) and 1 dead letter(s) under it. Its table is gone. If it was renamed, run" in problem
    )

    # When it is discarded
    call_command("pipeline", "outboxes", "discard", OLD, "--yes")

    # Then nothing of it is left but an event that says so, and the others are delivered
    assert problems() == []
    assert not Batch.objects.filter(outbox=OLD).exists()
    assert not DeadLetter.objects.exists()
    dispatched()
    recover_all(store)
    assert undelivered() == {}
    (event,) = [one for one in event_log.events() if one.event_type == "outbox_discarded"]
    told = json.loads(event.event_context)
    assert (told["outbox"], told["rows"], told["dead_letters"]) == (OLD, 12, 1)
    assert told["discarded_by"]
    assert event_log.count() == 11


def _nobody_is_there(_question: str) -> str:
    raise EOFError


def test_nothing_is_discarded_without_a_yes_nor_of_an_outbox_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    Cursor.objects.create(outbox=OLD, cluster="", seen="1:1:")
    monkeypatch.setattr("builtins.input", lambda _: "no")
    with pytest.raises(CommandError, match=r"^Nothing was changed\.$"):
        call_command("pipeline", "outboxes", "discard", OLD)
    monkeypatch.setattr("builtins.input", _nobody_is_there)
    with pytest.raises(CommandError, match="there is no terminal"):
        call_command("pipeline", "outboxes", "discard", OLD)
    for arguments, why in {
        ("discard", EVENT, "--yes"): "is the outbox of OutboxEvent",
        ("discard", "outbox_never", "--yes"): "has nothing under outbox_never",
        ("rename", EVENT, NEW): "is the outbox of OutboxEvent",
        ("rename", OLD, "outbox_never"): "No outbox class has the name outbox_never",
        ("rename", "outbox_never", NEW): "has nothing under outbox_never",
    }.items():
        with pytest.raises(CommandError, match=why):
            call_command("pipeline", "outboxes", *arguments)
    assert Cursor.objects.filter(outbox=OLD).exists()


def test_a_rename_waits_for_a_worker_that_has_a_window_of_it(store: Store) -> None:
    with before_the_rename():
        change_users(3)
        written_and_not_acked(dispatched(), store)

    with pytest.raises(CommandError, match="A worker has a window of outbox_old"):
        call_command("pipeline", "outboxes", "rename", OLD, NEW)
    assert len(problems()) == 1
    expire_leases()
    call_command("pipeline", "outboxes", "rename", OLD, NEW)
    assert problems() == []
    assert undelivered() == {}


def test_a_table_that_is_still_there_is_not_renamed() -> None:
    Batch.objects.create(outbox="users", ids=[1], rows=1, bytes=1, dispatched_at="2026-01-01T00:00:00Z")

    with pytest.raises(CommandError, match="The table users still exists"):
        call_command("pipeline", "outboxes", "rename", "users", NEW)


def test_a_drained_outbox_keeps_its_cursor_when_it_is_renamed(store: Store) -> None:
    with before_the_rename():
        change_users(3)
        window = seal(dispatched())
        assert window is not None
        assert deliver(window, store) is Delivery.ACKED
        change_users(2)

    assert len(dispatched()) == 1
    assert problems() == []
    assert Batch.objects.get().rows == 2


@pytest.mark.parametrize("place", ["cursor", "batch", "window", "dead letter"])
def test_a_name_anywhere_in_the_ledger_is_named_and_takes_nobodys_room(place: str, knobs: Knobs) -> None:
    knobs(max_open_windows=1)
    if place == "cursor":
        Cursor.objects.create(outbox=OLD, cluster="", seen="1:1:")
    elif place == "dead letter":
        DeadLetter.objects.create(
            outbox=OLD, row_id=1, error="", window_id="11111111-2222-3333-4444-555555555555", at="2026-01-01T00:00:00Z"
        )
    else:
        with before_the_rename():
            change_users(100_000 if place == "batch" else 1)
            batches = dispatched()
            if place == "window":
                seal(batches)
                Window.objects.update(last_error="KeyError", failed_at=Now())
        expire_leases()

    (problem,) = problems()
    assert OLD in problem
    assert json.loads(here("pipeline", "outboxes", "list", "--json").stdout)["unknown"][0]["outbox"] == OLD
    assert claim_expired() is None
    assert has_room()
    write_events(["{}"])
    make_dispatcher(sent := Sent(), in_flight_rows=1000).look()
    assert len(sent.batches) == 1


def test_rows_without_a_class_are_named_though_no_dispatcher_has_ever_seen_them() -> None:
    # Given an outbox that was rolled back with rows in it, and a copy of a table, which is nobody's
    run("CREATE TABLE outbox_gone (LIKE outbox_event INCLUDING ALL)")
    run("CREATE TABLE outbox_copied AS SELECT * FROM outbox_event")
    try:
        assert problems() == []
        row = "(event_type, event_date_time, event_context, metadata_version) VALUES ('a', now(), '{}', 1)"
        run(f"INSERT INTO outbox_gone {row}")
        run(f"INSERT INTO outbox_copied {row}")

        (problem,) = problems()

        assert problem.startswith("no outbox class has the name outbox_gone, but this table has undelivered rows")
    finally:
        run("DROP TABLE outbox_gone, outbox_copied")


def test_an_aggregator_lets_go_what_it_does_not_know_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "process", Process(config(), enqueue=lambda _: None))
    with capture_logs() as logs:
        for batch in range(1, 50):
            actors.aggregate.fn(ledger=ledger_id(), batch=batch, outbox=OLD, ids=[1], bytes=1)

    assert [line["event"] for line in logs] == ["unknown_outbox_left"]


def test_a_window_never_takes_a_batch_of_an_unknown_outbox_whatever_its_message_says() -> None:
    with before_the_rename():
        change_users(3)
        unknown = dispatched()
    write_events(["{}"] * 2)
    known = dispatched()

    window = seal([*unknown, *known])

    assert window is not None
    assert window.rows == {EVENT: 2}
    assert seal(unknown) is None
    ack(window, delivered=window.rows)
    assert OutboxEvent.objects.count() == 0
