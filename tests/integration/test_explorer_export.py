"""Exports: exactly what the page finds, with an end that says what it is, for people who may take events away."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow.parquet
import pytest
from django.db import ProgrammingError, connection

from tests.browser import demo
from tests.conformance.rows import write
from tests.integration.readers import reader, recorded, signed_in, text
from towpath.eventlog.columns import added_columns
from towpath.eventlog.errors import LimitReached, StoreUnavailable
from towpath.eventlog.query import Query
from towpath.eventlog.stores.memory import MemoryStore, StoredRow
from towpath.explorer import export, reading
from towpath.explorer.export import End, Progress
from towpath.explorer.state import Between

if TYPE_CHECKING:
    from django.http import HttpResponseBase
    from django.test import Client

    from towpath.eventlog.search import FoundEvents
    from towpath.eventlog.store import Store

AT = datetime(2026, 11, 25, 21, 42, 7, 318204, tzinfo=UTC)
PERIOD = "since=2026-11-25&until=2026-11-25"


@pytest.fixture
def page() -> Client:
    return signed_in(reader("export_events"))


def content(response: HttpResponseBase) -> bytes:
    return b"".join(response.streaming_content)  # type: ignore[attr-defined]


def ndjson(response: HttpResponseBase) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content(response).splitlines()]


def row(number: int, context: str, **added: str) -> StoredRow:
    moment = AT + timedelta(seconds=number)
    values = tuple(added.get(column.name, "") for column in added_columns())
    return StoredRow("outbox_user", number, UUID(int=1), "login", moment, "test", 1, context.encode(), values)


# --- What is in it -----------------------------------------------------------------------------------------------


def test_a_file_has_what_the_page_finds_newest_first_and_says_that_it_is_all(page: Client, store: Store) -> None:
    now = datetime.now(UTC)
    demo.store_day(store, now, count=1_500)
    wanted = [one for one in demo.rows(now, count=1_500) if one.event_type in {"login", "user_updated"}]
    wanted.sort(key=lambda one: (one.event_date_time, one.outbox, one.outbox_id), reverse=True)

    *lines, end = ndjson(page.get("/events/export?format=ndjson&q=type:login,user_updated&range=48h"))

    assert [(one["outbox"], one["outbox_id"]) for one in lines] == [(one.outbox, one.outbox_id) for one in wanted]
    assert end["towpath_export"] == {
        "rows": len(wanted),
        "end": "complete",
        "text": f"Complete: {len(wanted):,} events.",
    }


def test_values_are_those_that_are_stored_to_the_last_digit(page: Client, store: Store) -> None:
    write(store, row(1, '{"n":12345678901234567890,"f":1.10,\n"t":"a\\nb"}'), row(2, "no JSON\n{"))

    answer = page.get(f"/events/export?format=ndjson&{PERIOD}")
    not_json, exact, _ = content(answer).decode().splitlines()

    assert '"event_context":{"n":12345678901234567890,"f":1.10, "t":"a\\nb"}}' in exact
    assert json.loads(not_json)["event_context"] == "no JSON\n{"
    assert json.loads(exact)["event_date_time"] == "2026-11-25T21:42:08.318204Z"


def test_csv_has_every_column_or_those_that_are_shown(page: Client, store: Store) -> None:
    write(store, row(1, '{"user":{"id":12345678901234567890},"note":"a, \\"b\\""}'))

    every = list(csv.reader(io.StringIO(content(page.get(f"/events/export?format=csv&{PERIOD}")).decode())))
    shown = content(
        page.get(f"/events/export?format=csv&columns=type,context.user.id,context.user,summary&{PERIOD}")
    ).decode()

    assert every[0][0] == "event_date_time"
    assert every[0][-1] == "event_context"
    assert (
        dict(zip(*every[:2], strict=True))["event_context"]
        == '{"user":{"id":12345678901234567890},"note":"a, \\"b\\""}'
    )
    assert every[2] == ["# Complete: 1 events."]
    assert list(csv.reader(io.StringIO(shown)))[:2] == [
        ["event_date_time", "event_type", "context.user.id", "context.user", "event_context"],
        [
            "2026-11-25T21:42:08.318204Z",
            "login",
            "12345678901234567890",
            '{"id":12345678901234567890}',
            every[1][-1],
        ],
    ]


@pytest.mark.parametrize("text_of_cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_no_cell_is_a_formula(page: Client, store: Store, text_of_cell: str) -> None:
    write(store, row(1, json.dumps({"note": text_of_cell, "number": -1})))
    columns = "context.note,context.number"

    answer = content(page.get(f"/events/export?format=csv&columns={columns}&{PERIOD}")).decode()
    _, cells, _ = csv.reader(io.StringIO(answer, newline=""))

    assert cells[1:] == [f"'{text_of_cell}", "-1"]


def test_cloudevents_have_their_attributes_and_the_context_as_data(page: Client, store: Store) -> None:
    write(store, row(7, '{"n":12345678901234567890}', target="user:7", outcome="denied"))

    one, end = ndjson(page.get(f"/events/export?format=ndjson&as=cloudevents&{PERIOD}"))

    assert one == {
        "specversion": "1.0",
        "id": "7",
        "source": "urn:towpath:test:outbox_user",
        "type": "login",
        "time": "2026-11-25T21:42:14.318204Z",
        "datacontenttype": "application/json",
        "subject": "user:7",
        "outcome": "denied",
        "data": {"n": 12345678901234567890},
    }
    assert end["type"] == "towpath.export.ended"
    assert all(re.fullmatch("[a-z0-9]+", name) for name in one)


def test_parquet_has_every_column_with_its_type_and_its_end_in_the_metadata(page: Client, store: Store) -> None:
    write(store, row(1, '{"a":1}'), row(2, "{}"))

    file = pyarrow.parquet.ParquetFile(io.BytesIO(content(page.get(f"/events/export?format=parquet&{PERIOD}"))))
    table = file.read()

    assert table.column("outbox_id").to_pylist() == [2, 1]
    assert table.column("event_date_time").to_pylist() == [AT + timedelta(seconds=2), AT + timedelta(seconds=1)]
    assert table.column("event_context").to_pylist() == ["{}", '{"a":1}']
    assert file.metadata.metadata[b"towpath_export"] == b"Complete: 2 events."


def test_parquet_without_pyarrow_says_what_to_install(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    answer = page.get("/events/export?format=parquet")

    assert answer.status_code == 501
    assert "pip install 'towpath[parquet]'" in answer.json()["detail"]


# --- Its limits --------------------------------------------------------------------------------------------------


def test_a_file_at_its_limit_says_so(page: Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.explorer.views.export.MOST_ROWS", 700)
    demo.store_day(store, datetime.now(UTC), count=1_000)

    *lines, end = ndjson(page.get("/events/export?format=ndjson&range=48h"))

    assert len(lines) == 700
    assert end["towpath_export"]["end"] == "limit"
    assert "Not complete: only the newest 700 events" in end["towpath_export"]["text"]


def test_contexts_of_any_size_are_whole(page: Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PAGE_CHARACTERS", 50_000)
    write(store, *(row(number, json.dumps({"x": "y" * (number * 300)})) for number in range(60)))

    *lines, _ = ndjson(page.get(f"/events/export?format=ndjson&{PERIOD}"))

    assert [len(one["event_context"]["x"]) for one in lines] == [number * 300 for number in reversed(range(60))]


class _Failing(MemoryStore):
    """A store that fails when it has given so many rows."""

    given, most = 0, 500
    error: type[StoreUnavailable] = StoreUnavailable

    def search(self, *args: Any, **values: Any) -> FoundEvents:
        if self.given >= self.most:
            raise self.error("away")
        found = super().search(*args, **values)
        self.given += len(found)
        return found


@pytest.mark.parametrize(
    ("error", "reason"),
    [(StoreUnavailable, "the event store does not answer"), (LimitReached, "finding older events takes longer")],
)
def test_an_export_that_is_stopped_says_so_in_the_file(
    page: Client, monkeypatch: pytest.MonkeyPatch, error: type[StoreUnavailable], reason: str
) -> None:
    store = _Failing()
    write(store, *(row(number, "{}") for number in range(800)))
    store.error = error
    monkeypatch.setattr(reading, "connected", lambda: store)

    *lines, end = ndjson(page.get("/events/export?format=ndjson&since=2026-11-25T21:40&until=2026-11-25T22:00"))

    assert len(lines) == 500
    assert end["towpath_export"]["end"] == "stopped"
    assert f"stopped after 500 events, because {reason}" in end["towpath_export"]["text"]
    assert recorded("events_export_ended")[0]["end"] == "stopped"


def test_an_export_that_cannot_begin_is_an_error_and_no_file(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Failing()
    store.most = 0
    monkeypatch.setattr(reading, "connected", lambda: store)

    answer = page.get("/events/export?format=csv")

    assert answer.status_code == 503
    assert "Nothing is lost" in answer.json()["detail"]


def test_an_export_that_takes_too_long_is_stopped() -> None:
    store, now = MemoryStore(), 0.0
    write(store, *(row(number // 10, "{}") for number in range(12_000)))
    progress = Progress(most_rows=20_000)
    period = Between(AT - timedelta(hours=1), AT + timedelta(hours=1))

    for batch in export.batches(store, Query(), period, most_rows=progress.most_rows, clock=lambda: now):
        progress.add(batch)
        now = export.MOST_SECONDS + 1

    assert progress.in_words == "Not complete: stopped after 10,500 events, because it has taken too long."


# --- Who may -----------------------------------------------------------------------------------------------------


def test_without_the_permission_there_is_no_file_and_no_button(store: Store) -> None:
    demo.store_day(store, datetime.now(UTC), count=10)
    client = signed_in(reader())

    answer = client.get("/events/export?format=csv")

    assert answer.status_code == 403
    assert "towpath_explorer.export_events" in text(answer)
    assert "/events/export" not in text(client.get("/events/"))
    assert [one["what"] for one in recorded("events_access_refused")] == ["towpath_explorer.export_events"]


def test_with_it_the_dialog_says_the_limit_and_exports_the_same_period_as_the_page(page: Client, store: Store) -> None:
    demo.store_day(store, datetime.now(UTC), count=10)

    answer = text(page.get("/events/?q=type:login&tz=Europe/Berlin"))
    (form,) = re.findall(r'<form[^>]*action="/events/export".*?</form>', answer, re.DOTALL)

    assert "1,000,000" in form
    assert 'name="q" value="type:login"' in form
    assert 'name="now"' in form


def test_it_is_recorded_before_the_first_byte_and_when_it_ends(page: Client, store: Store) -> None:
    write(store, row(1, "{}"))

    answer = page.get(f"/events/export?format=csv&q=type:login&{PERIOD}")
    (began,) = recorded("events_exported")
    assert recorded("events_export_ended") == []
    content(answer)
    answer.close()
    (ended,) = recorded("events_export_ended")

    assert (began["query"], began["format"]) == ("event_type:login", "csv")
    assert (began["since"], began["until"]) == ("2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z")
    assert (ended["export"], ended["rows"], ended["end"]) == (began["export"], 1, End.COMPLETE)


def test_an_end_that_cannot_be_recorded_breaks_the_download_off(
    page: Client, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    write(store, row(1, "{}"))
    answer = page.get(f"/events/export?format=csv&{PERIOD}")

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_event RENAME TO outbox_event_away")
        try:
            with pytest.raises(ProgrammingError):
                content(answer)
        finally:
            cursor.execute("ALTER TABLE outbox_event_away RENAME TO outbox_event")

    assert "export_end_not_recorded" in caplog.text


def test_a_reader_who_goes_away_is_recorded(page: Client, store: Store) -> None:
    write(store, row(1, "{}"))

    page.get(f"/events/export?format=csv&{PERIOD}").close()

    assert [one["end"] for one in recorded("events_export_ended")] == ["complete"]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("format=xlsx", 422, "format=csv"),
        ("", 422, "format=csv"),
        ("format=csv&as=cloudevents", 422, "as=cloudevents goes with ndjson"),
        ("format=csv&q=user:7", 400, "There is no column user."),
        ("format=csv&columns=nothing", 422, "There is no column nothing."),
        ("format=csv&since=soon", 422, "This is not a time."),
    ],
)
def test_what_is_wrong_is_said_instead_of_a_file(page: Client, query: str, status: int, message: str) -> None:
    answer = page.get(f"/events/export?{query}")

    assert answer.status_code == status
    assert message in answer.json()["detail"]
    assert recorded("events_exported") == []
