"""What was loaded is what is stored: each store makes the text of a load again, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.any_rows import any_rows
from tests.conformance.bodies import EXACT, EXACT_ADDED, copied
from tests.conformance.rows import FIRST, MOMENT, TEXTS, WINDOW, row, write
from tests.conformance.subjects import AnyStore, SchemaSubject, can_be_edited
from towpath.eventlog.columns import Column, FromContext, Kind, added_columns
from towpath.eventlog.proof import covered
from towpath.eventlog.stores.memory import MemoryStore, StoredRow


def loaded(rows: Sequence[StoredRow], outboxes: Sequence[str]) -> list[StoredRow]:
    return sorted(rows, key=lambda one: (outboxes.index(one.outbox), one.outbox_id))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=any_rows(EXACT), data=st.data())
def test_what_was_loaded_is_what_is_stored(exact: AnyStore, rows: list[StoredRow], data: st.DataObject) -> None:
    window = uuid4()
    outboxes = data.draw(st.permutations(sorted({one.outbox for one in rows})))
    # Of rows with one identity, there is no order. No window has them.
    rows = list({one.identity: replace(one, window_id=window) for one in rows}.values())
    body = copied(loaded(rows, outboxes))

    exact.write(body, row_count=len(rows), token=f"{window}")

    assert exact.body_digests({window: outboxes}) == {window: sha256(body).hexdigest()}


def test_the_bodies_of_windows_with_other_outboxes_are_digested_in_one_query(exact: AnyStore) -> None:
    orders = {UUID(int=1): ["a", "b"], UUID(int=2): ["b", "a"], UUID(int=3): ["b"], UUID(int=4): ["c"]}
    bodies = {}
    for window, outboxes in list(orders.items())[:3]:
        rows = [
            replace(row(number, window=window, outbox=outbox, context=context), added=EXACT_ADDED)
            for outbox in outboxes
            for number, context in enumerate(map(str.encode, TEXTS))
        ]
        bodies[window] = copied(rows)
        exact.write(bodies[window], row_count=len(rows), token=f"{window}")

    assert exact.body_digests(orders) == {window: sha256(body).hexdigest() for window, body in bodies.items()}
    assert exact.body_digests({}) == {}


@pytest.mark.parametrize("change", ["a byte", "a row more", "a row twice", "an outbox that was not loaded"])
def test_what_is_stored_otherwise_has_another_digest(exact: AnyStore, change: str) -> None:
    def exact_row(number: int, **values: Any) -> StoredRow:
        return replace(row(number, **values), added=EXACT_ADDED)

    body = copied([exact_row(1, context=b"abc"), exact_row(2)])
    stored = {
        "a byte": [exact_row(1, context=b"abd"), exact_row(2)],
        "a row more": [exact_row(1, context=b"abc"), exact_row(2), exact_row(3)],
        "a row twice": [exact_row(1, context=b"abc"), exact_row(2), exact_row(2)],
        "an outbox that was not loaded": [exact_row(1, context=b"abc"), exact_row(2), exact_row(2, outbox="other")],
    }[change]

    exact.write(copied(stored), row_count=len(stored), token=FIRST)

    (digest,) = exact.body_digests({WINDOW: ["outbox_event"]}).values()
    assert digest != sha256(body).hexdigest()


@can_be_edited
@pytest.mark.usefixtures("store")
def test_a_projects_column_may_have_any_name_that_a_statement_uses(subject: SchemaSubject) -> None:
    names = ["id", "name", "place", "month", "digest", "one", "found", "line", "body", "outboxes", "w", "o", "e"]
    for name in names:
        subject.execute(f"ALTER TABLE event_log ADD COLUMN {name} text DEFAULT ''")
    columns = tuple(Column(name, Kind.TEXT, FromContext(name)) for name in names)
    read = [name for name in covered(columns) if name != "written_at"]
    rows = [
        replace(row(number), added=tuple(f"{number} {column.name}" for column in added_columns(columns)))
        for number in (1, 2)
    ]
    expected = MemoryStore(own_columns=columns)

    with closing(subject.with_columns(columns)) as store:
        for each in (store, expected):
            write(each, *rows)

        assert list(store.window_digests([WINDOW], columns=read)) == expected.window_digests([WINDOW], columns=read)
        assert list(store.row_digests(WINDOW, columns=read)) == expected.row_digests(WINDOW, columns=read)
        assert store.body_digests({WINDOW: ["outbox_event"]}) == expected.body_digests({WINDOW: ["outbox_event"]})
        assert list(store.months()) == [date(2024, 2, 1)]
        assert list(store.windows_of(MOMENT.date())) == [WINDOW]


def test_no_body_is_digested_where_a_column_is_a_float(store: AnyStore) -> None:
    write(store, row(1))

    assert store.body_digests({WINDOW: ["outbox_event"]}) == {}
