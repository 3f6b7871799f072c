"""One event beside the table, by mouse and by keyboard, and events that arrive while somebody looks."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.contrib.sessions.models import Session
from django.db import transaction
from playwright.sync_api import Browser, expect

from backend.users.models import User
from tests.browser import demo
from tests.browser.visitor import NARROW, Visitor, visitor
from tests.conformance.rows import write
from tests.integration.rows import write_events
from tests.integration.windows import deliver_all
from tests.integration.workers import Workers
from towpath import publish
from towpath.eventlog.store import Store
from towpath.eventlog.stores.memory import StoredRow
from towpath.events import LogRead
from towpath.explorer.reading import TAIL_ROWS
from towpath.proof.sealing import seal_all

EVENTS = 4_000


@pytest.fixture
def ada(web_url: str, browser: Browser, reader: User, store: Store) -> Visitor:
    """A reader, who looks at a day of events."""
    demo.store_day(store, datetime.now(UTC), count=EVENTS)
    return visitor(browser, reader, web_url=web_url)


def test_an_event_is_read_and_leads_on(ada: Visitor) -> None:
    page, drawer = ada.page, ada.page.locator("#drawer")

    # When an event is opened, the URL says which, and the context is there to the digit
    ada.go("/events/?q=type:data_exported")
    page.locator("#rows .row").first.click()
    expect(drawer.locator("#event-title")).to_have_text("data_exported")
    expect(drawer.locator(".json .number", has_text="9007199254740993")).to_have_count(1)
    expect(drawer.locator(".chip", has_text="Same target").locator(".faint")).not_to_be_empty()
    assert not ada.grave_barriers()
    link = page.url

    # The next one opens by a key, and Escape leads back to its row
    first = drawer.locator("[data-copy-link]").get_attribute("href")
    page.keyboard.press("j")
    expect(drawer.locator("[data-copy-link]")).not_to_have_attribute("href", first or "")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(page.locator("#rows .row.on a.open")).to_be_focused()
    assert "event=" not in page.url

    # The link shows the same event again, beside the same table
    page.goto(link)
    expect(drawer.locator("[data-copy-link]")).to_have_attribute("href", first or "")

    # A value of the context becomes a condition, and a column
    line = drawer.locator(".j-line", has_text='"format"')
    line.hover()
    line.locator("a[title^=Only]").click()
    page.wait_for_url("**context.format**")
    ada.wait()
    expect(page.locator("#q")).to_have_value(re.compile(r"^type:data_exported context\.format:(csv|parquet)$"))
    page.locator("#rows .row").first.click()
    line.hover()
    line.locator("a[title^=Show]").click()
    page.wait_for_url("**columns**")
    expect(page.locator("th.path", has_text="format")).to_be_visible()
    assert ada.complaints == []


def test_an_event_has_a_page_of_its_own(ada: Visitor) -> None:
    ada.go("/events/?q=type:data_exported")
    place = ada.page.locator("#rows a.open").first.get_attribute("href") or ""

    ada.page.goto(f"{ada.web_url}{place}")

    expect(ada.page.locator("#event-title")).to_have_text("data_exported")
    expect(ada.page.locator(".chips .faint").first).not_to_be_empty()
    assert not ada.grave_barriers()
    raw = ada.page.request.get(f"{ada.web_url}{place.replace('/event/', '/context/')}")
    assert json.loads(raw.text())["request_bytes"] == 9_007_199_254_740_993
    assert ada.complaints == []


def test_an_event_leads_to_the_others_of_its_request(ada: Visitor, store: Store) -> None:
    # Given three events of one request, among those of a day
    at = datetime.now(UTC) - timedelta(minutes=5)
    kinds = ("request_begun", "request_changed", "request_ended")
    same = [
        StoredRow(
            *("outbox_event", EVENTS + number, UUID(int=number), kind, at + timedelta(seconds=number)),
            *("test", 1, b"{}", ("user:7", "the-same-request", "", "", "success")),
        )
        for number, kind in enumerate(kinds, start=1)
    ]
    write(store, *same, token="the same request")

    # When somebody opens one of them, and asks for those of its request
    ada.go("/events/?q=type:request_changed")
    ada.page.locator("#rows .row").first.click()
    chip = ada.page.locator("#drawer .chip", has_text="Same request")
    expect(chip.locator(".faint")).to_have_text("3")
    chip.click()
    ada.page.wait_for_url("**the-same-request**")
    ada.wait()

    # Then the table has all three and nothing else
    expect(ada.page.locator("#q")).to_have_value("request_id:the-same-request")
    expect(ada.page.locator("#rows .row .is-type")).to_have_text([*reversed(kinds)])
    assert ada.complaints == []


def test_a_narrow_screen_has_a_sheet(ada: Visitor, browser: Browser, reader: User) -> None:
    bob = visitor(browser, reader, web_url=ada.web_url, size=NARROW)
    bob.go("/events/")
    bob.page.locator("#rows .row").nth(2).click()

    expect(bob.page.locator("#drawer #event-title")).to_be_visible()
    assert not bob.grave_barriers()
    bob.page.locator("[data-event-close]").click()
    expect(bob.page.locator("#drawer")).to_be_hidden()
    assert bob.complaints == []


def test_a_live_tail_shows_what_is_published_meanwhile(ada: Visitor, workers: Workers) -> None:
    # Given a page that follows
    workers.dispatcher()
    workers.aggregator()
    workers.wait_until_ready()
    ada.go("/events/?q=type:log_read")
    ada.page.keyboard.press("l")
    expect(ada.page.locator("[data-live]")).to_have_attribute("aria-pressed", "true")

    # When an event is published, it comes on top by itself
    with transaction.atomic():
        publish(LogRead(tool="a test", rows=1, detail="", read_by="ada"))
    top = ada.page.locator("#rows .row").first
    expect(top.locator(".is-type")).to_have_text("log_read", timeout=15_000)

    # While somebody reads an event, new ones wait and are counted
    top.click()
    expect(ada.page.locator("#drawer #event-title")).to_have_text("log_read")
    with transaction.atomic():
        publish(LogRead(tool="a test", rows=2, detail="", read_by="ada"))
    fresh = ada.page.locator("[data-waiting]")
    expect(fresh).to_have_text("1 new event", timeout=15_000)

    # And the way of what the pipeline carried is known
    expect(ada.page.locator("#drawer .way .step")).to_have_text(["Published", "Dispatched", "Stored", "Verified"])
    assert not [*seal_all(key="")]  # nothing is verified yet
    fresh.click()
    expect(ada.page.locator("#rows .row .is-type", has_text="log_read")).to_have_count(2)
    assert ada.complaints == []


def test_a_live_tail_says_where_events_may_be_missing_and_why_it_gets_no_answer(ada: Visitor, store: Store) -> None:
    # Given a page that follows, and more events than one answer has
    page = ada.page
    ada.go("/events/")
    page.keyboard.press("l")
    write_events(["{}"] * (TAIL_ROWS + 50), at=f"{datetime.now(UTC)}")
    deliver_all(store)

    # Then a row between the new and the old says so, and leads to all of them
    gap = page.locator("#rows .gap")
    expect(gap).to_contain_text("Events may be missing here", timeout=15_000)
    expect(page.locator("#rows .row:has(~ .gap)")).to_have_count(TAIL_ROWS)
    expect(page.locator("#rows .gap ~ .row")).to_have_count(100)
    assert not ada.grave_barriers()
    gap.get_by_role("button").click()
    expect(gap).to_have_count(0)
    ada.wait()
    assert ada.complaints == []

    # And when the person is signed out, the page says that
    Session.objects.all().delete()
    expect(page.locator("[data-live-problem]")).to_contain_text("You are signed out.", timeout=15_000)
