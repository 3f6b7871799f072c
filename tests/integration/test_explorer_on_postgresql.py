"""The explorer over an event store on PostgreSQL: every page and part, as on ClickHouse."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg2
import pytest
from django.test import Client
from pytest_django import Settings

from tests.browser import demo
from tests.integration.proving import OnPostgreSQL
from tests.integration.readers import reader, signed_in, text
from tests.services import Services
from towpath.conf.current import config
from towpath.explorer import reading
from towpath.explorer.reading import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS = 300


@pytest.fixture
def page(services: Services, settings: Settings) -> Iterator[Client]:
    """Somebody who may read and export, and a day of events."""
    log = OnPostgreSQL(services)
    demo.store_day(log.store, datetime.now(UTC), count=EVENTS)
    settings.TOWPATH = replace(config(), event_store_url=log.url)
    log.close()
    yield signed_in(reader("export_events"))
    connected().close()


def test_every_page_and_part_is_there(page: Client) -> None:
    found = text(page.get("/events/?q=type:invoice_paid"))
    (link, *_) = re.findall(r'href="(/events/event/[^"]+)"', found)
    bars = page.get("/events/histogram").json()
    facets = text(page.get("/events/facets"))
    event = text(page.get(link, headers={"HX-Request": "true"}))
    around = text(page.get(link.replace("/event/", "/around/")))
    raw = page.get(link.replace("/event/", "/context/"))

    assert found.count('<tr class="row"') > 10
    assert sum(events for _, _, events in bars["bars"]) == EVENTS
    assert 'data-field="outcome"' in facets
    assert "Where it came from" in event
    assert "Same target" in event
    # Each chip of the event has its count by its id.
    counts = dict(re.findall(r'<span id="(around-[^"]+)" hx-swap-oob="innerHTML">(\d+)<', around))
    assert list(counts) == re.findall(r'id="(around-[^"]+)"', event)
    assert all(int(count) > 0 for count in counts.values())
    assert json.loads(raw.content)["currency"]


def test_the_same_is_exported(page: Client) -> None:
    response = page.get("/events/export?format=ndjson&q=type:invoice_paid")
    content = b"".join(response.streaming_content)  # type: ignore[attr-defined]

    *rows, end = [json.loads(line) for line in content.splitlines()]
    assert len({row["outbox_id"] for row in rows}) == len(rows) > 10
    assert {row["event_type"] for row in rows} == {"invoice_paid"}
    assert "omplete" in str(end)


def test_a_tail_follows_windows(page: Client) -> None:
    (after,) = re.findall(r'data-after="([^"]+)"', text(page.get("/events/")))
    response = page.get("/events/tail", {"after": after})
    assert (response.status_code, '<tr class="row"' in text(response)) == (200, False)


def test_what_is_too_much_for_the_store_says_what_to_do(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that waits for a lock takes too long, as one that reads too much does."""
    for name in ("ROWS", "BARS", "SAMPLE", "NEWEST"):
        monkeypatch.setattr(reading, f"{name}_SECONDS", 0.5)
    with closing(psycopg2.connect(config().event_store_url)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE event_log")

        assert "This search takes too long" in text(page.get("/events/"))
        assert "Choose a shorter range" in page.get("/events/histogram").json()["problem"]
        assert "takes too long" in text(page.get("/events/facets"))
        answer = page.get("/events/api/search")
        assert (answer.status_code, "takes too long" in answer.json()["detail"]) == (503, True)
