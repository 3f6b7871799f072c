"""Exports, saved views and timelines in a real browser: the file is what the page shows, and a view comes back."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth.models import Permission
from playwright.sync_api import expect

from tests.browser import demo
from tests.browser.visitor import Visitor, visitor

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from backend.users.models import User
    from towpath.eventlog.store import Store

pytestmark = pytest.mark.timing


@pytest.fixture
def auditor(web_url: str, browser: Browser, reader: User, store: Store) -> Visitor:
    """A reader who may also export and share."""
    reader.user_permissions.add(*Permission.objects.filter(codename__in=("export_events", "share_views")))
    demo.store_day(store, datetime.now(UTC), count=1_000)
    return visitor(browser, reader, web_url=web_url)


def test_an_export_by_keyboard_has_what_the_page_counts(auditor: Visitor) -> None:
    page = auditor.page
    auditor.go("/events/?q=outcome:denied")
    counted = page.locator("[data-total]").inner_text()

    page.keyboard.press("e")
    expect(page.locator("[data-export-total]")).to_have_text(f"{counted} events")
    assert auditor.grave_barriers() == []
    with page.expect_download() as download:
        page.locator(".export button").press("Enter")

    with Path(download.value.path()).open(newline="") as file:
        _, *rows, end = csv.reader(file)
    assert len(rows) == int(counted.replace(",", ""))
    assert end == [f"# Complete: {counted} events."]
    assert auditor.complaints == []


def test_who_may_not_export_sees_no_button_and_is_refused(
    web_url: str, browser: Browser, reader: User, store: Store
) -> None:
    demo.store_day(store, datetime.now(UTC), count=50)
    bob = visitor(browser, reader, web_url=web_url)

    bob.go("/events/")
    expect(bob.page.locator(".views > summary")).to_be_visible()
    expect(bob.page.locator(".export")).to_have_count(0)
    refused = bob.page.request.get(f"{web_url}/events/export?format=csv")

    assert refused.status == 403
    assert "Can export events" in refused.text()
    assert bob.complaints == []


def test_a_view_is_saved_shared_and_found_again_and_columns_are_remembered(auditor: Visitor) -> None:
    page = auditor.page
    auditor.go("/events/?q=outcome:denied&range=7d")
    page.keyboard.press("v")
    page.locator("#view-name").fill("Denied this week")
    page.locator(".views [name=is_shared]").check()
    page.locator("#view-name").press("Enter")
    page.wait_for_url("**/events/?q=outcome%3Adenied&range=7d")

    auditor.go("/events/")
    page.keyboard.press("c")
    page.locator(".columns input[value=ip]").check()
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**/events/?columns=**")
    page.keyboard.press("v")
    page.locator(".views .item", has_text="Denied this week").click()
    page.wait_for_url("**q=outcome%3Adenied&range=7d")
    auditor.wait()

    expect(page.locator("#q")).to_have_value("outcome:denied")
    expect(page.locator("thead th[title=ip]")).to_be_visible()
    assert auditor.complaints == []


def test_an_event_leads_to_the_story_of_its_actor(auditor: Visitor) -> None:
    page = auditor.page
    auditor.go("/events/?q=type:user_updated")
    page.locator("#rows .row").first.click()
    # The counts arrive later, with new links.
    expect(page.locator("#drawer .chips .faint").first).not_to_be_empty()
    page.locator("#drawer .chip", has_text="Timeline of the actor").click()
    page.wait_for_url("**/events/timeline?**")

    expect(page.locator("h1")).to_contain_text("Timeline of user:")
    expect(page.locator(".minute li").first).to_be_visible()
    assert auditor.grave_barriers() == []
    assert auditor.complaints == []
