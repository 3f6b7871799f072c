"""A project's own columns of the event log, from the setting to the store: what does not fit harms its own row only."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from django.db import connection, transaction
from django.db.models import TextField, Value

from backend.users.events import UserDeleted
from backend.users.models import OutboxUserChange
from tests.clickhouse import client_of, url_of
from tests.integration.rows import undelivered
from tests.integration.windows import deliver, sealed
from tests.unit.test_columns import DOES_NOT_FIT, FITS, TENANT
from towpath import Event, publish
from towpath.eventlog import schema
from towpath.eventlog.columns import SIGNED_NUMBER, WHOLE_NUMBER, Column, FromContext, FromEvent, Kind
from towpath.eventlog.connect import connect
from towpath.eventlog.reserved import WORDS_OF_SQL
from towpath.eventlog.schema import SchemaConflictError
from towpath.eventlog.stores.memory import MemoryStore
from towpath.eventlog.values import DEFAULTS, as_text, parse
from towpath.flow.delivery import Delivery
from towpath.flow.fitting import fitting
from towpath.flow.load import load
from towpath.ledger import deadletters
from towpath.outbox.context import bind
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.knobs import Knobs
    from tests.services import Services
    from towpath.eventlog.store import Store

#: A column of each kind, filled by what is bound under the kind's name.
OF_EACH_KIND = tuple(Column(f"own_{kind.name.lower()}", kind, FromContext(kind.name)) for kind in Kind)


class Happened(Event):
    n: int


def publish_from_elsewhere(bound: object) -> None:
    """As another program does, whose values nobody has looked at."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version, bound)"
            " VALUES ('happened', now(), '{\"n\":2}', 1, %s)",
            [json.dumps(bound)],
        )


def test_a_row_has_the_values_of_its_own_columns_or_the_defaults_of_their_kinds(knobs: Knobs) -> None:
    knobs(columns=OF_EACH_KIND)
    store = MemoryStore(own_columns=OF_EACH_KIND)
    fits = {kind: given for kind, given, _ in FITS}
    with transaction.atomic(), bind(**{kind.name: given for kind, given in fits.items()}):  # type: ignore[arg-type]
        publish(Happened(n=1))
    publish_from_elsewhere(None)

    assert deliver(sealed(), store) is Delivery.ACKED

    filled, empty = store.rows
    held = {kind: value for kind, _, value in FITS}
    of_each_kind = zip(Kind, filled.added[-len(OF_EACH_KIND) :], empty.added[-len(OF_EACH_KIND) :], strict=True)
    for kind, value, default in of_each_kind:
        assert default == parse(kind, DEFAULTS[kind])
        assert value == held.get(kind, default)


@pytest.fixture
def store_with_own_columns(services: Services) -> Iterator[Store]:
    """ClickHouse's, in a database of its own."""
    with closing(client_of(services.clickhouse)) as client:
        client.command("DROP DATABASE IF EXISTS own_columns SYNC")
        client.command("CREATE DATABASE own_columns")
        url = url_of(services.clickhouse, database="own_columns")
        with closing(connect(url, timeout_seconds=20, own_columns=OF_EACH_KIND)) as store:
            yield store
        client.command("DROP DATABASE own_columns SYNC")


def test_an_event_store_gives_back_what_was_bound(store_with_own_columns: Store, knobs: Knobs) -> None:
    knobs(columns=OF_EACH_KIND)
    schema.migrate(store_with_own_columns)
    assert store_with_own_columns.problems() == []
    for kind, given, _ in FITS:
        with transaction.atomic(), bind(**{kind.name: given}):  # type: ignore[arg-type]
            publish(Happened(n=1))

    assert deliver(sealed(), store_with_own_columns) is Delivery.ACKED

    stored = sorted(store_with_own_columns.stream("happened"), key=lambda event: event.outbox_id)
    assert [event.added[f"own_{kind.name.lower()}"] for event, (kind, *_) in zip(stored, FITS, strict=True)] == [
        held for _, _, held in FITS
    ]


def test_a_store_digests_the_text_that_was_loaded(
    store_with_own_columns: Store, services: Services, knobs: Knobs
) -> None:
    exact = tuple(column for column in OF_EACH_KIND if column.kind is not Kind.FLOAT)
    knobs(columns=exact)
    schema.migrate(store_with_own_columns)
    for kind, given, _ in FITS:
        if kind is not Kind.FLOAT:
            with transaction.atomic(), bind(**{kind.name: given}):  # type: ignore[arg-type]
                publish(Happened(n=1))
    with transaction.atomic():
        publish(UserDeleted(user_id=7, email="a\tb@c.co", first_name="\\A\n'", last_name="é\v\b"))
    publish_from_elsewhere(None)
    window = sealed()
    assert len(window.rows) == 2

    loaded = load(window, environment="test", max_bytes=None, own_columns=exact)

    url = url_of(services.clickhouse, database="own_columns")
    with closing(connect(url, timeout_seconds=20, own_columns=exact)) as store:
        for each in (store, MemoryStore(own_columns=exact)):
            each.write(loaded.rows, row_count=loaded.row_count, token="first")
            assert each.body_digests({window.id: list(loaded.counts)}) == {window.id: loaded.digest}


def test_a_column_that_is_declared_no_more_or_not_applied_yet_is_named(
    store_with_own_columns: Store, services: Services
) -> None:
    schema.migrate(store_with_own_columns)
    url = url_of(services.clickhouse, database="own_columns")

    with closing(connect(url, timeout_seconds=20, own_columns=OF_EACH_KIND[:-1])) as store:
        (conflict,) = schema.conflicts(store)
        assert "(column own_uuid) was applied but is no longer declared" in conflict
        assert "in the setting TOWPATH" in conflict
        with pytest.raises(SchemaConflictError, match="Nothing was changed"):
            schema.migrate(store)
    with closing(connect(url, timeout_seconds=20, own_columns=(TENANT, *OF_EACH_KIND))) as store:
        conflict, *_ = schema.conflicts(store)
        assert "was applied as 'column own_text', but is declared as 'column tenant'" in conflict
        assert "in its old place" in conflict
    with closing(connect(url, timeout_seconds=20, own_columns=(*OF_EACH_KIND, TENANT))) as store:
        assert not [*schema.conflicts(store)]
        (problem,) = store.problems()
        assert problem == "column tenant is missing (it must be String): run `python manage.py eventlog migrate`"


@pytest.mark.parametrize(("kind", "given"), DOES_NOT_FIT)
def test_a_value_that_does_not_fit_is_a_dead_letter_of_its_own(kind: Kind, given: object, knobs: Knobs) -> None:
    """Of a row that another program has inserted: `bind` and `publish` would have refused it."""
    own = (replace(TENANT, kind=kind),)
    knobs(columns=own)
    store = MemoryStore(own_columns=own)
    with transaction.atomic():
        publish(Happened(n=1))
    publish_from_elsewhere({"tenant": as_text(given)})

    assert deliver(sealed(), store) is Delivery.ACKED

    assert [row.event_context for row in store.rows] == [b'{"n":1}']
    (letter,) = deadletters.read(None)
    assert "the column 'tenant' of the event log cannot hold the row's value: it is not" in letter.error
    assert undelivered() == {"outbox_event": 1}


@pytest.mark.parametrize("kind", Kind)
def test_postgresql_judges_as_publish_does(kind: Kind) -> None:
    """Each text that is tried with any kind, with this one."""
    publish_from_elsewhere(None)
    texts = {as_text(given) for _, given, *_ in [*FITS, *DOES_NOT_FIT]} | {"-0", "-0.0", "00", "1.", ".5", "+1", "t\n"}
    for text in sorted(texts):
        (judged,) = OutboxEvent._base_manager.values_list(
            fitting(Value(text, output_field=TextField()), kind), flat=True
        )
        try:
            expected = parse(kind, text)
        except ValueError:
            assert judged is None, text
        else:
            assert judged is not None, text
            assert parse(kind, judged) == expected, text


@pytest.mark.parametrize(("kind", "text"), [(Kind.DECIMAL, "1x5"), (Kind.FLOAT, "1x5"), (Kind.WHOLE_NUMBER, "5x0")])
def test_a_session_in_which_backslashes_escape_judges_alike(kind: Kind, text: str) -> None:
    """A text that passed would fail its cast, and with it every row of the window."""
    publish_from_elsewhere(None)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL standard_conforming_strings = off")
        value = fitting(Value(text, output_field=TextField()), kind)
        assert list(OutboxEvent._base_manager.values_list(value, flat=True)) == [None]


def test_publish_refuses_what_the_outbox_holds_and_the_event_log_does_not(knobs: Knobs) -> None:
    knobs(columns=(Column("user_id", WHOLE_NUMBER, FromEvent()),))
    gone = {"email": "a@b.co", "first_name": "A", "last_name": "B"}
    with transaction.atomic():
        with pytest.raises(EventNotStorable, match=r"'user_id' of OutboxUserChange .* event log's column .* from 0 to"):
            publish(UserDeleted(user_id=-7, **gone))
        publish(UserDeleted(user_id=7, **gone))
        assert OutboxUserChange.objects.count() == 1

    knobs(columns=(Column("user_id", SIGNED_NUMBER, FromEvent()),))
    with transaction.atomic():
        publish(UserDeleted(user_id=-7, **gone))


def test_publish_names_the_event_whose_context_does_not_fit(knobs: Knobs) -> None:
    knobs(columns=(replace(TENANT, kind=WHOLE_NUMBER),))
    with (
        transaction.atomic(),
        bind(tenant=lambda: "none"),
        pytest.raises(EventNotStorable, match=r"Happened cannot be stored: .*'tenant'"),
    ):
        publish(Happened(n=1))


def test_every_word_that_postgresql_does_not_take_for_a_column_is_known() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'")
        words = {word for (word,) in cursor.fetchall()}
        cursor.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'outbox_event'::regclass AND attnum < 0")
        words |= {name for (name,) in cursor.fetchall()}

    assert words <= WORDS_OF_SQL
