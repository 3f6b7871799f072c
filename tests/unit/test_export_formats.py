"""The files of an export, read back by Python's own readers."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from towpath.eventlog.columns import added_columns
from towpath.eventlog.search import FoundEvent, FoundEvents
from towpath.eventlog.stored import StoredEvent
from towpath.explorer.formats import CloudEvents, Csv, NdJson, exported_columns

_AT = datetime(2026, 11, 25, 21, 42, 7, 318204, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ['"', ",", "\r\n", "=1+1", "-", "\t", "a;b", '","', "\x00", "%s", "{", "\u2028"]
)
contexts = st.one_of(
    texts,
    st.dictionaries(texts, texts, max_size=2).map(json.dumps),
    st.sampled_from(['{"a": 12345678901234567890.10}', '{"a": NaN}', "[" * 300 + "]" * 300, '"\\ud800"', "1],[1", ""]),
)


@st.composite
def _events(draw: st.DrawFn) -> FoundEvents:
    added = {column.name: draw(texts) for column in added_columns()}
    event = StoredEvent(draw(texts), _AT, draw(texts), draw(contexts), 3, draw(texts), 7, UUID(int=9), _AT, added)
    others = [StoredEvent("login", _AT, "test", "{}", 1, "outbox_event", 8, UUID(int=9), _AT, dict.fromkeys(added, ""))]
    return FoundEvents.of([FoundEvent(one, len(one.event_context)) for one in [event, *others]])


@given(_events())
def test_every_cell_of_a_csv_is_what_is_stored_but_for_formulas(found: FoundEvents) -> None:
    rows = list(csv.reader(io.StringIO(Csv(None, ()).events(found).decode(), newline="")))

    assert len(rows) == len(found)
    for name, cell in zip(exported_columns(()), rows[0], strict=True):
        value = found.column(name)[0]
        if isinstance(value, str):
            assert cell == (f"'{value}" if value[:1] in {"=", "+", "-", "@", "\t", "\r", "\n"} else value)


@given(_events())
def test_a_line_of_ndjson_is_an_object_with_the_stored_context(found: FoundEvents) -> None:
    first, second, end = NdJson(()).events(found).decode().split("\n")
    event = found[0].event

    assert (json.loads(second)["outbox_id"], end) == (8, "")
    stored = json.loads(first)
    assert {name: stored[name] for name in event.added} == event.added
    assert stored["event_date_time"] == "2026-11-25T21:42:07.318204Z"
    is_text = stored["event_context"] == event.event_context
    assert is_text or event.event_context.replace("\r", " ").replace("\n", " ") in first


@given(_events())
def test_a_cloud_event_has_the_context_as_its_data(found: FoundEvents) -> None:
    lines = CloudEvents(()).events(found).decode().split("\n")[:-1]

    assert [json.loads(line)["id"] for line in lines] == ["7", "8"]
    assert json.loads(lines[1])["data"] == {}
