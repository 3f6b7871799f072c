"""Timelines: the events of a person or a request from their beginning, minute by minute."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.conformance.rows import write
from tests.integration.readers import reader, recorded, signed_in, text
from towpath.eventlog.columns import added_columns
from towpath.eventlog.stores.memory import StoredRow
from towpath.explorer.views import timeline

if TYPE_CHECKING:
    from django.test import Client

    from towpath.eventlog.store import Store

AT = datetime(2026, 11, 25, 21, 42, 7, tzinfo=UTC)


@pytest.fixture
def page(store: Store) -> Client:
    def row(number: int, event_type: str, seconds: int, actor: str) -> StoredRow:
        given = {"actor": actor, "request_id": f"r{seconds}"}
        added = tuple(given.get(column.name, "") for column in added_columns())
        at = AT + timedelta(seconds=seconds)
        return StoredRow("outbox_event", number, UUID(int=1), event_type, at, "test", 1, b'{"a":"<b>"}', added)

    write(
        store,
        row(1, "signed_in", 0, "user:7"),
        row(2, "looked", 20, "user:7"),
        row(3, "exported", 600, "user:7"),
        row(4, "other", 30, "user:8"),
    )
    return signed_in(reader())


def test_it_begins_with_the_oldest_and_says_how_long_nothing_happened(page: Client) -> None:
    answer = text(page.get("/events/timeline?q=actor:user:7&since=2026-11-25&until=2026-11-25"))

    assert re.findall(r'<i class="dot" data-type="(\w+)"', answer) == ["signed_in", "looked", "exported"]
    assert re.findall(r"<h2>([^<]+?) *<", answer)[:2] == ["Wed 25 Nov, 21:42", "Wed 25 Nov, 21:52"]
    assert "9 min later" in answer
    assert "<h1>Timeline of user:7</h1>" in answer
    assert "<b>" not in answer
    assert recorded("events_searched")[0]["shown_as"] == "timeline"


def test_an_event_leads_to_the_timelines_of_its_actor_and_its_request(page: Client) -> None:
    event = text(page.get("/events/event/2026-11-25T21:42:07Z/outbox_event/1"))
    links = [html.unescape(each) for each in re.findall(r'href="(/events/timeline[^"]+)"', event)]

    assert len(links) == 2
    assert "Timeline of the request r0" in text(page.get(links[0]))
    assert "Timeline of user:7" in text(page.get(links[1]))


def test_what_is_not_shown_of_a_long_story_is_said(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_EVENTS", 2)

    answer = text(page.get("/events/timeline?since=2026-11-25&until=2026-11-25"))

    assert re.findall(r'<i class="dot" data-type="(\w+)"', answer) == ["other", "exported"]
    assert "Only the newest 2 events, back to Wed 25 Nov, 21:42:37" in answer


def test_a_period_that_is_not_searched_to_its_start_is_not_called_empty(
    page: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "_SECONDS", 0)

    answer = text(page.get("/events/timeline?since=2026-11-25&until=2026-11-26"))

    assert re.search(r"Nothing happened since Thu 26 Nov(?: 2026)?, 23:45\. There was no time", answer)
    assert "in this period" not in answer


def test_a_wrong_query_and_an_empty_period_are_said(page: Client) -> None:
    assert "There is no column user." in text(page.get("/events/timeline?q=user:7"))
    assert "Nothing happened in this period." in text(page.get("/events/timeline?since=2020-01-01&until=2020-01-01"))
