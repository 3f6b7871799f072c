"""One event beside the table, by mouse and by keyboard, and events that arrive while somebody looks."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from django.contrib.sessions.models import Session
from django.db import transaction
from playwright.sync_api import Browser, Route, expect

from backend.users.models import User
from tests.browser.conftest import EVENTS
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


def held(ada: Visitor, urls: str) -> list[Route]:
    """The requests for such URLs, which get no answer until the test continues them."""
    found: list[Route] = []

    def hold(route: Route) -> None:
        found.append(route)

    ada.page.route(urls, hold)
    return found


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

    # Its link is copied and its context is saved, while the event stays open
    drawer.locator("[data-copy-link]").click()
    expect(page.locator("#said")).to_have_text("Copied")
    with page.expect_download() as download:
        drawer.get_by_text("Download").click()
    assert json.loads(Path(download.value.path()).read_text())["request_bytes"] == 9_007_199_254_740_993
    expect(drawer.locator("#event-title")).to_have_text("data_exported")
    assert page.url == link

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
            "outbox_event",
            EVENTS + number,
            UUID(int=number),
            kind,
            at + timedelta(seconds=number),
            "test",
            1,
            b"{}",
            ("user:7", "the-same-request", "", "", "success"),
        )
        for number, kind in enumerate(kinds, start=1)
    ]
    write(store, *same, token="the same request")

    # When somebody opens one of them, and asks for those of its request, which are counted during the click
    counts = held(ada, "**/events/around/**")
    ada.go("/events/?q=type:request_changed")
    with ada.page.expect_request("**/events/around/**"):
        ada.page.locator("#rows .row").first.click()
    chip = ada.page.locator("#drawer .chip", has_text="Same request")
    chip.hover()
    ada.page.mouse.down()
    counts[0].continue_()
    expect(chip.locator(".faint")).to_have_text("3")
    ada.page.mouse.up()
    ada.page.wait_for_url("**the-same-request**")
    ada.wait()

    # Then the table has all three and nothing else
    expect(ada.page.locator("#q")).to_have_value("request_id:the-same-request")
    expect(ada.page.locator("#rows .row .is-type")).to_have_text([*reversed(kinds)])
    assert ada.complaints == []


def test_a_link_opens_nothing_but_an_event(ada: Visitor, store: Store) -> None:
    # Given an event whose context is HTML, which htmx would run requests from
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    context = b'{"a":"<b id=planted>x</b>"}'
    write(store, StoredRow("outbox_event", EVENTS + 1, UUID(int=1), "planted", at, "test", 1, context), token="planted")
    place = f"{at:%Y-%m-%dT%H:%M:%SZ}/outbox_event/{EVENTS + 1}"
    asked: list[str] = []
    ada.page.on("request", lambda request: asked.append(request.url))

    # When a link names the context as the event that is open, in any spelling
    for way in ("event/../context", "event/%2e%2e/context", "event/..\\context", "event/..%2fcontext"):
        ada.go(f"/events/?q=type:planted&event={quote(f'/events/{way}/{place}')}")

        # Then nobody asks for it
        assert not [url for url in asked if place in url], way
        expect(ada.page.locator("#drawer")).to_be_hidden()

    # And what is not HTML is never put into a page
    swap = "path => htmx.ajax('GET', path, {target: '#drawer', swap: 'innerHTML', select: 'unset'})"
    ada.page.evaluate(swap, f"/events/context/{place}")
    assert [url for url in asked if place in url]
    expect(ada.page.locator("#planted")).to_have_count(0)
    assert ada.complaints == []


def test_an_event_that_is_closed_before_it_is_there_stays_closed(ada: Visitor) -> None:
    page, events = ada.page, held(ada, "**/events/event/**")
    ada.go("/events/")
    with page.expect_request("**/events/event/**"):
        page.locator("#rows .row").first.click()
    page.keyboard.press("Escape")
    expect(page.locator("#drawer")).to_be_hidden()

    page.evaluate(
        "() => { window.over = new Promise((done) => document.addEventListener('htmx:afterRequest',"
        " () => setTimeout(done), {once: true})); }"
    )
    events[0].continue_()
    page.evaluate("() => window.over")

    # Otherwise Live would wait for somebody to close it.
    expect(page.locator("[data-event]")).to_have_count(0)
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


def test_a_live_tail_names_the_day_of_what_is_new(ada: Visitor, store: Store) -> None:
    # Given a page whose newest event is of the day before yesterday
    now = datetime.now(UTC)
    early = StoredRow("outbox_event", EVENTS + 1, UUID(int=1), "early", now - timedelta(days=2), "test", 1, b"{}")
    write(store, early, token="early")
    ada.go("/events/?q=type:early,tested&range=7d")
    days = ada.page.locator("#rows .day")
    expect(days).to_have_count(1)

    # When an event of today comes
    ada.page.keyboard.press("l")
    write_events(["{}"], at=f"{now}")
    deliver_all(store)

    # Then it is below its own day
    expect(days).to_have_count(2, timeout=15_000)
    below = ada.page.locator("#rows .day + .row .is-type")
    expect(below).to_have_text(["tested", "early"])
    assert ada.complaints == []


def test_live_leads_from_a_period_that_is_over_to_now(ada: Visitor) -> None:
    ada.go("/events/?q=type:login&since=2026-01-01&until=2026-01-02")
    ada.page.keyboard.press("l")
    ada.page.wait_for_url("**/events/?q=type%3Alogin#live")
    ada.wait()

    expect(ada.page.locator("[data-live]")).to_have_attribute("aria-pressed", "true")
    assert ada.complaints == []


def test_a_live_tail_says_where_events_are_missing_and_why_it_gets_no_answer(ada: Visitor, store: Store) -> None:
    # Given a page that follows, and more events than one answer has
    page = ada.page
    ada.go("/events/")
    page.keyboard.press("l")
    write_events(["{}"] * (TAIL_ROWS + 50), at=f"{datetime.now(UTC)}")
    deliver_all(store)

    # Then a row between the new and the old says so, and leads to all of them
    gap = page.locator("#rows .gap")
    expect(gap).to_contain_text(re.compile(r"^\d+ events are not shown here"), timeout=15_000)
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
