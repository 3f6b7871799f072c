"""The search page in a real browser, by mouse and by keyboard alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import EVENTS
from tests.browser.visitor import NARROW, WIDE, Visitor, visitor

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

    from backend.users.models import User

pytestmark = pytest.mark.timing


def count(ada: Visitor) -> int:
    """What the histogram says that there is."""
    return int(ada.page.locator("[data-total]").inner_text().replace(",", ""))


def rows(ada: Visitor) -> Locator:
    return ada.page.locator("#rows .row")


def test_an_investigation_by_mouse(ada: Visitor) -> None:
    page = ada.page

    # Given the newest of all
    ada.go("/events/")
    assert count(ada) == EVENTS
    # Fewer than a page has room for, if the machine is so busy that the search's time is over before
    assert 0 < rows(ada).count() <= 100

    # When a value is chosen, another one is left out, and a period is brushed
    page.locator(".facet[data-field=outcome] a.pick", has_text="denied").click()
    page.wait_for_url("**q=outcome**")
    ada.wait()
    expect(page.locator("#q")).to_have_value("outcome:denied")
    denied = count(ada)
    page.locator(".facet[data-field=type] li", has_text="permission_granted").locator("a.not").click()
    page.wait_for_url("**permission_granted**")
    ada.wait()
    expect(page.locator("#q")).to_have_value("outcome:denied -type:permission_granted")
    assert 0 < count(ada) < denied
    plot = page.locator(".u-over").bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + 0.6 * plot["width"], plot["y"] + 30)
    page.mouse.down()
    page.mouse.move(plot["x"] + 0.75 * plot["width"], plot["y"] + 30, steps=4)
    brushed = count(ada)
    page.mouse.up()
    page.wait_for_url("**since=**")
    ada.wait()

    # Then what is shown is what was brushed, and everything is in the URL
    assert count(ada) == brushed
    assert rows(ada).count() == min(brushed, 100)
    page.reload()
    ada.wait()
    assert count(ada) == brushed

    # And a path of the context is a column
    page.locator("summary[aria-label=Columns]").click()
    page.locator("#path").fill("context.reason")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**context.reason**")
    ada.wait()
    assert page.locator("#rows .row td:last-child").first.inner_text() in {"bad_password", "unknown_user", "locked_out"}

    # And back leads to where one was
    page.go_back()
    ada.wait()
    assert "columns" not in page.url
    assert ada.complaints == []


def test_the_keyboard_alone(ada: Visitor) -> None:
    page = ada.page
    ada.go("/events/")

    # When a query is completed from fields and values
    page.keyboard.press("/")
    page.keyboard.type("out")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#q")).to_have_value("outcome:")
    page.keyboard.type("fail")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#q")).to_have_value("outcome:failure ")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=outcome**")
    ada.wait()

    # Then rows are walked through, and one is opened
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(rows(ada).first.locator("a.open")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#drawer #event-title")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#drawer")).to_be_hidden()

    # And the period, the zone and the help are a key away
    page.keyboard.press("t")
    expect(page.get_by_role("link", name="Last 15 minutes")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("details.range")).not_to_have_attribute("open", re.compile(".*"))
    page.keyboard.press("z")
    page.wait_for_url("**tz=Europe**")
    ada.wait()
    expect(page.locator("thead th").first).to_have_text("Time (Berlin)")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("z")
    page.wait_for_url(lambda url: "tz=" not in url)
    ada.wait()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_hidden()
    assert ada.complaints == []


def test_what_is_typed_after_quotations_is_completed_without_a_pause(ada: Visitor) -> None:
    page = ada.page
    ada.go("/events/")

    page.locator("#q").fill('"log in" ')
    page.keyboard.type("out")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#q")).to_have_value('"log in" outcome:')

    # Even many quotations that are not finished are typed without a pause
    page.locator("#q").fill("actor:" + '"a",' * 40 + '"C:')
    page.keyboard.type("\\")
    expect(page.locator("#q")).to_have_value(re.compile(r'"C:\\$'))
    assert ada.complaints == []


def test_older_events_follow_at_the_end_and_nothing_jumps(ada: Visitor) -> None:
    ada.page.goto(f"{ada.web_url}/events/")
    before = ada.page.locator(".found").bounding_box()
    ada.wait()
    assert ada.page.locator(".found").bounding_box() == before

    ada.page.locator("#rows [data-more]").scroll_into_view_if_needed()

    expect(rows(ada)).to_have_count(200)
    assert len(set(ada.page.locator("a.open").evaluate_all("links => links.map(link => link.href)"))) == 200
    assert ada.complaints == []


def test_a_brush_over_days_names_both_of_its_ends(ada: Visitor) -> None:
    page = ada.page
    ada.go("/events/?range=7d")
    plot = page.locator(".u-over").bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + 0.2 * plot["width"], plot["y"] + 30)
    page.mouse.down()
    page.mouse.move(plot["x"] + 0.8 * plot["width"], plot["y"] + 30, steps=4)

    one = r"\w{3} \d+ \w+, \d\d:\d\d"
    expect(page.locator("[data-told]")).to_have_text(re.compile(f"^{one} . {one}$"))
    page.mouse.up()
    assert ada.complaints == []


def test_a_type_may_be_called_like_a_property_of_every_object(ada: Visitor) -> None:
    ada.go("/events/")

    slots = ada.page.evaluate(
        """() => {
            Towpath.colours.assign(["constructor", "__proto__"]);
            return ["constructor", "__proto__", "toString"].map(Towpath.colours.slot);
        }"""
    )

    assert slots[0] != slots[1]
    assert all(slot in range(1, 9) for slot in slots[:2])
    assert slots[2] == 0


def test_an_error_of_the_query_points_at_its_place(ada: Visitor) -> None:
    ada.go("/events/?q=outcome:failure%20user:7")

    expect(ada.page.get_by_role("alert")).to_contain_text("There is no column user.")
    expect(ada.page.locator(".mirror .w")).to_have_text("user:")
    expect(ada.page.locator("#q")).to_have_attribute("aria-invalid", "true")
    assert ada.complaints == []


@pytest.mark.parametrize(("theme", "size"), [("light", WIDE), ("dark", NARROW)], ids=["light-wide", "dark-narrow"])
def test_nothing_keeps_anybody_from_using_the_page(
    theme: Literal["light", "dark"], size: tuple[int, int], ada: Visitor, browser: Browser, reader: User
) -> None:
    person = visitor(browser, reader, web_url=ada.web_url, size=size, theme=theme)

    # Few rows: each costs axe as much as the others, and is like them.
    person.go("/events/?q=type:permission_granted&columns=type,outcome,context.group,summary")
    assert person.page.evaluate("document.documentElement.scrollWidth") == size[0]
    if size == NARROW:
        person.page.get_by_role("button", name="Filters").click()
        expect(person.page.locator(".facet").first).to_be_visible()
    else:
        person.page.keyboard.press("t")
    assert person.grave_barriers() == []
    person.go("/events/?q=(")
    assert person.grave_barriers() == []
    assert person.complaints == []


def test_the_theme_that_somebody_chooses_is_remembered(ada: Visitor) -> None:
    ada.go("/events/")
    ada.page.locator(".person > summary").click()

    ada.page.get_by_label("Dark").check()
    ada.page.reload()

    assert ada.page.locator("html").get_attribute("data-theme") == "dark"
    assert ada.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 19, 21)"
