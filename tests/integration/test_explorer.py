"""The explorer's pages, as Django answers them."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from django.test import Client

from backend.users.models import User
from tests.browser import demo
from tests.conformance.rows import write
from tests.integration.readers import reader, signed_in, text
from tests.ports import any_free_port
from towpath import publish
from towpath.eventlog.stores.memory import StoredRow
from towpath.events import LogRead
from towpath.pages.policy import POLICY

if TYPE_CHECKING:
    from tests.knobs import Knobs
    from towpath.eventlog.store import Store


def test_who_is_not_signed_in_is_led_to_where_one_signs_in() -> None:
    response = Client().get("/events/?q=type:login")

    assert (response.status_code, response["Location"]) == (302, "/admin/login/?next=/events/%3Fq%3Dtype%3Alogin")


def test_a_part_of_a_page_cannot_lead_there() -> None:
    response = Client().get("/events/", headers={"HX-Request": "true"})

    assert response.status_code == 401


def test_who_lacks_the_permission_is_told_which_and_whom_to_ask() -> None:
    user = User.objects.create(email="eve@example.com", first_name="E", last_name="E", is_staff=True)

    response = signed_in(user).get("/events/")

    assert response.status_code == 403
    assert "towpath_explorer.view_events" in text(response)
    assert "Ask an administrator" in text(response)
    assert response["Content-Security-Policy"] == POLICY


def test_a_reader_sees_the_page_in_its_frame(page: Client) -> None:
    response = page.get("/events/")

    assert response.status_code == 200
    assert 'aria-current="page">Events</a>' in text(response)
    assert "ada@example.com" in text(response)
    assert response["Content-Security-Policy"] == POLICY


# --- What the page finds -----------------------------------------------------------------------------------------


@pytest.fixture
def day(store: Store) -> list[StoredRow]:
    """A day of events in the log."""
    now = datetime.now(UTC)
    demo.store_day(store, now, count=400)
    return list(demo.rows(now, count=400))


@pytest.fixture
def page() -> Client:
    return signed_in(reader())


def shown_types(html: str) -> list[str]:
    return re.findall(r'data-event-type="(\w+)"', html)


def test_the_first_page_has_the_newest_events_and_leads_to_older_ones(page: Client, day: list[StoredRow]) -> None:
    newest = sorted(day, key=lambda row: row.event_date_time, reverse=True)

    first = text(page.get("/events/"))
    (more,) = re.findall(r'hx-get="(/events/rows[^"]+)"', first)
    second = text(page.get(html.unescape(more), headers={"HX-Request": "true"}))

    assert shown_types(first) == [row.event_type for row in newest[:100]]
    assert shown_types(second) == [row.event_type for row in newest[100:200]]


def test_the_query_of_the_url_is_what_is_found(page: Client, day: list[StoredRow]) -> None:
    expected = [row.event_type for row in day if row.event_type == "login_failed"]

    answer = text(page.get("/events/?q=type:login_failed"))

    assert shown_types(answer) == expected
    assert "That is all" in answer


def test_bars_add_up_to_what_there_is_whatever_time_each_answer_had(page: Client, day: list[StoredRow]) -> None:
    url, events, back_to = "/events/histogram?range=24h", 0, ""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    is_complete = False
    while not is_complete:
        answer = page.get(url, {"now": now} | ({"back_to": back_to} if back_to else {})).json()
        events += sum(count for *_, count in answer["bars"])
        is_complete, back_to = answer["is_complete"], datetime.fromtimestamp(answer["back_to"], UTC).isoformat()

    assert events == len([row for row in day if row.event_date_time < datetime.fromisoformat(now)])


def test_facets_are_links_to_narrower_pages(page: Client, day: list[StoredRow]) -> None:
    assert day

    answer = text(page.get("/events/facets"))

    assert 'href="?q=outcome%3Adenied"' in answer
    assert 'href="?q=-outcome%3Adenied"' in answer
    assert "From all" in answer


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("?q=user:7", "There is no column user."),
        ("?range=never", "This is not a range."),
        ("?since=soon", "This is not a time."),
        ("?tz=Nowhere", "There is no such time zone."),
        ("?columns=nothing", "There is no column nothing."),
    ],
)
def test_what_is_wrong_with_a_url_is_said_beside_its_field(
    url: str, message: str, page: Client, day: list[StoredRow]
) -> None:
    assert day

    answer = page.get(f"/events/{url}")

    assert answer.status_code == 200
    assert message in text(answer)
    assert 'role="alert"' in text(answer)


def test_a_context_is_text_on_the_page(page: Client, store: Store) -> None:
    row = StoredRow(
        "outbox_event", 1, UUID(int=1), "<b>bold</b>", datetime.now(UTC), "test", 1, b'{"<i>key</i>":"<script>"}'
    )
    write(store, row)

    for part in ("", "facets", "histogram"):
        answer = text(page.get(f"/events/{part}"))

        assert "<script>" not in answer.replace("<script src", "").replace("<script id", "")
        assert "<i>key" not in answer
        assert part == "histogram" or "<b>bold" not in answer


def test_columns_are_those_of_the_url_with_paths_into_the_context(page: Client, day: list[StoredRow]) -> None:
    assert day

    answer = text(page.get("/events/?q=type:invoice_paid&columns=actor&columns=context.currency"))

    assert re.findall(r'<th scope="col"[^>]*title="([^"]+)"><span>', answer) == ["actor", "context.currency"]
    assert re.search(r'<td class="is-value"><span class="value">(EUR|USD|CHF)</span>', answer)


def test_an_empty_log_shows_how_to_publish_an_event(page: Client) -> None:
    answer = text(page.get("/events/"))

    assert "No events yet" in answer
    assert "publish(UserCreated(email=email))" in answer


def test_an_empty_period_leads_to_the_newest_event(page: Client, day: list[StoredRow]) -> None:
    assert day

    answer = text(page.get("/events/?since=2020-01-01&until=2020-01-02"))
    (jump,) = re.findall(r'href="([^"]+)" data-jump', answer)

    assert "Nothing in this period" in answer
    assert shown_types(text(page.get(f"/events/{html.unescape(jump)}")))


def test_a_search_without_any_result_leads_back(page: Client, day: list[StoredRow]) -> None:
    assert day

    answer = text(page.get("/events/?q=type:never"))

    assert "No event matches" in answer
    assert "Clear the search" in answer


@pytest.fixture
def away(knobs: Knobs) -> None:
    """Nobody listens where the event store should be."""
    knobs(event_store_explorer_url=f"http://127.0.0.1:{any_free_port()}/default")


@pytest.mark.usefixtures("away")
def test_without_the_store_the_page_says_what_waits(page: Client) -> None:
    with transaction.atomic():
        publish(LogRead(tool="a test", rows=1, detail="", read_by="nobody"))

    answer = page.get("/events/")

    assert answer.status_code == 200
    assert "Nothing is lost." in text(answer)
    assert re.search(
        r"3 events wait\s+in PostgreSQL and are delivered", text(answer)
    )  # two more: to sign in, to search
    assert "outbox_event" in text(answer)
    assert page.get("/events/histogram").status_code == 503


@pytest.mark.usefixtures("away")
def test_without_the_store_a_person_with_a_scope_is_not_told_what_waits_of_others(page: Client, knobs: Knobs) -> None:
    knobs(explorer_scope="tests.integration.test_explorer_scope.only_sign_ins")
    with transaction.atomic():
        publish(LogRead(tool="a test", rows=1, detail="", read_by="nobody"))

    answer = text(page.get("/events/"))

    assert "Nothing is lost." in answer
    assert "outbox_event" not in answer


def test_a_link_to_an_event_shows_it(page: Client, day: list[StoredRow]) -> None:
    (path,) = re.findall(r'class="open" href="([^"]+)"', text(page.get("/events/")))[:1]

    answer = page.get(path)

    assert answer.status_code == 200
    assert max(day, key=lambda row: row.event_date_time).event_type in text(answer)
    assert page.get("/events/event/2001-01-01T00:00:00Z/outbox_event/1").status_code == 404


def test_each_time_around_an_event_has_its_zone_and_a_step_of_another_day_its_day(page: Client, store: Store) -> None:
    at = datetime(2026, 7, 1, 22, 30, 5, tzinfo=UTC)
    write(store, StoredRow("outbox_user", 7, UUID(int=1), "login", at, "test", 1, b"{}"))
    path = "2026-07-01T22:30:05Z/outbox_user/7?tz=Asia/Tokyo"

    event = text(page.get(f"/events/event/{path}"))

    assert "Times are in the zone Asia/Tokyo" in event
    published, _, stored = re.findall(r'<span class="mono at">([^<]+)</span>', event)
    assert published == "07:30:05.000"
    today = datetime.now(ZoneInfo("Asia/Tokyo"))
    assert re.fullmatch(rf"{today:%a} {today.day} {today:%b}, \d\d:\d\d:\d\d\.\d\d\d", stored)
    # The year is named from the next one on.
    assert re.search('title="Thu 2 Jul(?: 2026)?, 07:30 Asia/Tokyo"', event)


def test_no_period_leads_to_one_that_is_refused(page: Client, store: Store) -> None:
    # A log without any event has no histogram, and no link that widens its period.
    write(store, StoredRow("outbox_user", 7, UUID(int=1), "login", datetime(2026, 7, 1, tzinfo=UTC), "test", 1, b"{}"))
    for url in ("/events/?since=1900-01-01&until=2299-12-31", "/events/timeline?since=1900-01-01&until=2299-12-31"):
        shown = text(page.get(url))
        links = re.findall(r'href="([^"]*since=[^"]+)"', shown)

        assert links
        for link in links:
            path = html.unescape(link)
            assert "No event has this time" not in text(page.get(path if path[0] == "/" else f"/events/{path}"))
