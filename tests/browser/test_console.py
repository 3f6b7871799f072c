"""The console in a real browser, on a stack that is broken on purpose: it names what is wrong within ten seconds, and
what it tells people to do ends it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth.models import Permission
from playwright.sync_api import expect

from tests.browser.visitor import NARROW, WIDE, Visitor, visitor
from tests.integration.rows import write_events
from tests.waiting import eventually
from towpath.ledger import pauses
from towpath.ledger.models import DeadLetter
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from backend.users.models import User
    from tests.integration.workers import Workers
    from tests.services import Services

pytestmark = [pytest.mark.own_services, pytest.mark.timing]

#: What the issue promises, from the fault to the word on the page.
_NAMED_WITHIN = 10_000
_FIXED_WITHIN = 60_000


@pytest.fixture
def operator(reader: User) -> User:
    """Somebody who may look at the pipeline, and act."""
    reader.user_permissions.add(*Permission.objects.filter(content_type__app_label="towpath_console"))
    return reader


@pytest.fixture
def ada(web_url: str, browser: Browser, operator: User) -> Iterator[Visitor]:
    """She has the page open all the time, and never loads it again."""
    found = visitor(browser, operator, web_url=web_url)
    found.page.goto(f"{web_url}/pipeline/")
    yield found
    found.page.context.close()


def says(ada: Visitor, text: str, *, within: int = _NAMED_WITHIN) -> None:
    expect(ada.page.locator("#live .verdict")).to_contain_text(re.compile(text, re.IGNORECASE), timeout=within)


def is_well(ada: Visitor) -> None:
    expect(ada.page.locator("#live .verdict")).to_have_attribute("data-level", "ok", timeout=_FIXED_WITHIN)


def test_each_fault_is_named_within_ten_seconds_and_what_the_page_says_ends_it(
    ada: Visitor, workers: Workers, services: Services
) -> None:
    # Given nothing that runs: the page says what to start
    says(ada, "Start a dispatcher: python manage.py pipeline run dispatcher")
    workers.dispatcher()
    workers.scheduler()
    aggregator = workers.aggregator()
    workers.wait_until_ready()
    is_well(ada)

    # When the aggregators are killed
    aggregator.kill()
    says(ada, "no worker consumes the queues towpath.aggregate, towpath.aggregate_backlog")
    says(ada, "Start an aggregator: python manage.py pipeline run aggregator")
    expect(ada.page.locator(".flow li.bad h2", has_text="Aggregators")).to_be_visible()
    aggregator.start()
    is_well(ada)

    # When the event store is stopped, with no event on its way
    services.clickhouse.kill()
    says(ada, "the event store (is not reachable|does not answer)")
    expect(ada.page.locator(".flow li.bad h2", has_text="Event store")).to_be_visible()
    services.clickhouse.start()
    services.clickhouse.wait_until_ready()
    is_well(ada)

    # When RabbitMQ is stopped
    services.rabbitmq.kill()
    says(ada, "RabbitMQ (is not reachable|does not answer)")
    services.rabbitmq.start()
    services.rabbitmq.wait_until_ready()
    is_well(ada)

    # When there are dead letters
    write_events(["{}"] * 20)
    write_events(["{}"], at="infinity")
    says(ada, "1 dead letter", within=_FIXED_WITHIN)
    ada.page.locator("#dead-outbox_event").click()
    ada.page.get_by_role("button", name="Drop…").click()
    ada.page.get_by_role("button", name="Drop 1 event").click()
    expect(ada.page.locator(".said")).to_have_text("1 dead letter dropped.")
    assert not DeadLetter.objects.exists()
    ada.page.get_by_role("link", name="Back to the pipeline").click()
    is_well(ada)

    # When somebody pauses, by keyboard alone
    ada.page.locator("#pause-all").focus()
    ada.page.keyboard.press("Enter")
    ada.page.locator("#reason").wait_for()
    ada.page.keyboard.type("the store moves")
    ada.page.keyboard.press("Enter")
    says(ada, "dispatch of all outboxes was paused")
    says(ada, "the store moves")
    (row,) = write_events(["{}"])
    # Beside the event that says who has paused.
    pending = ada.page.locator(".flow li", has_text="Outboxes").locator("b")
    expect(pending).to_have_text(re.compile("^[2-9]$"), timeout=_NAMED_WITHIN)
    ada.page.get_by_role("link", name="Resume dispatch").click()
    ada.page.get_by_role("button", name="Resume all outboxes").click()
    is_well(ada)
    eventually(
        lambda: not OutboxEvent.objects.filter(id=row).exists(), seconds=_FIXED_WITHIN / 1000, what="it is delivered"
    )

    # A page that was not answered says so in the console, which is as it should be; it never broke a rule of its own
    assert [one for one in ada.complaints if "CSP" in one] == []


def test_what_somebody_has_open_and_focused_stays_so(ada: Visitor) -> None:
    says(ada, "no worker consumes|no dispatch shift")
    book = ada.page.locator("details.book").first
    book.locator("summary").focus()
    ada.page.keyboard.press("Enter")
    read_at = ada.page.locator(".seen").get_attribute("data-read-at") or ""

    ada.page.keyboard.press("r")

    expect(ada.page.locator(".seen")).not_to_have_attribute("data-read-at", read_at, timeout=_NAMED_WITHIN)
    expect(book).to_have_attribute("open", "")
    expect(book.locator("summary")).to_be_focused()


def test_old_numbers_are_called_old(ada: Visitor) -> None:
    ada.page.route("**/pipeline/live", lambda route: route.abort())
    began = time.monotonic()

    expect(ada.page.locator("#old")).to_be_visible(timeout=30_000)

    assert time.monotonic() - began < 25
    expect(ada.page.locator("#old")).to_contain_text("The web process does not answer")


def test_the_page_says_that_it_waits_while_somebody_copies_from_it(ada: Visitor) -> None:
    ada.page.evaluate("getSelection().selectAllChildren(document.querySelector('#live .headline'))")

    expect(ada.page.locator("#old")).to_contain_text("waits while text is selected", timeout=30_000)

    ada.page.evaluate("getSelection().empty()")
    expect(ada.page.locator("#old")).to_be_hidden(timeout=_NAMED_WITHIN)


def refreshed(ada: Visitor) -> None:
    """Return when the page has shown a new answer."""
    read_at = ada.page.locator(".seen").get_attribute("data-read-at") or ""
    ada.page.keyboard.press("r")
    expect(ada.page.locator(".seen")).not_to_have_attribute("data-read-at", read_at, timeout=_NAMED_WITHIN)


def test_an_error_of_the_web_process_is_not_called_silence(ada: Visitor) -> None:
    ada.page.route("**/pipeline/live", lambda route: route.fulfill(status=503, body="away"))

    expect(ada.page.locator("#old")).to_contain_text("answers with an error (503)", timeout=30_000)


def test_a_table_that_is_scrolled_and_a_link_with_the_focus_stay_so(
    browser: Browser, operator: User, web_url: str
) -> None:
    eve = visitor(browser, operator, web_url=web_url, size=NARROW)
    eve.page.goto(f"{web_url}/pipeline/")
    table = eve.page.locator('.scroll[aria-label="Outboxes"]')
    table.evaluate("one => (one.scrollLeft = 60)")
    book = eve.page.locator("details.book", has=eve.page.locator(".section a")).first
    book.locator("summary").click()
    link = book.locator(".section a").first
    link.focus()

    refreshed(eve)

    expect(link).to_be_focused()
    assert table.evaluate("one => one.scrollLeft") == 60


def test_what_had_the_focus_and_is_gone_gives_it_to_what_is_around_it(ada: Visitor) -> None:
    ada.page.evaluate(
        """() => {
            const row = document.querySelector('.scroll[aria-label="Outboxes"] tbody td');
            row.innerHTML = '<a id="dead-none" href="#none">1</a>';
            row.firstChild.focus();
        }"""
    )

    refreshed(ada)

    expect(ada.page.locator('.scroll[aria-label="Outboxes"]')).to_be_focused()


def test_a_click_is_not_lost_to_a_refresh(ada: Visitor) -> None:
    link = ada.page.locator("#act-outbox_event")
    box = link.bounding_box()
    assert box is not None
    ada.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    ada.page.mouse.down()
    with ada.page.expect_response("**/pipeline/live") as answer:
        ada.page.keyboard.press("r")
    answer.value.finished()
    ada.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    ada.page.mouse.up()

    ada.page.wait_for_url("**/pipeline/pause?outbox=outbox_event")


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_long_word_of_somebody_s_does_not_widen_a_page(
    browser: Browser, operator: User, web_url: str, size: tuple[int, int]
) -> None:
    name = f"outbox_{'q' * 50}"
    pauses.insert(name, by="u" * 150, reason="r" * 300)
    eve = visitor(browser, operator, web_url=web_url, size=size)

    for path, shown in (("/pipeline/", "#live"), (f"/pipeline/resume?outbox={name}", "h1")):
        eve.page.goto(f"{web_url}{path}")
        # What the test before has seen is shown for two seconds.
        expect(eve.page.locator(shown)).to_contain_text(name, timeout=_NAMED_WITHIN)
        assert eve.page.evaluate("document.documentElement.scrollWidth") <= size[0], path
        assert eve.grave_barriers() == [], path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_nothing_keeps_anybody_from_using_it(
    browser: Browser, operator: User, web_url: str, theme: str, size: tuple[int, int]
) -> None:
    write_events(["{}"] * 3)
    eve = visitor(browser, operator, web_url=web_url, size=size, theme="dark" if theme == "dark" else "light")

    for path in ("/pipeline/", "/pipeline/pause", "/pipeline/runbook", "/pipeline/dead-letters"):
        eve.page.goto(f"{web_url}{path}")
        if path == "/pipeline/":
            eve.page.locator("details.book summary").first.click()
        assert eve.grave_barriers() == [], path
        width = eve.page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0], path

    assert eve.complaints == []
