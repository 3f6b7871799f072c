"""Who has read the log in the explorer: an event before anything is shown, and one for what is repeated."""

from __future__ import annotations

import html
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test import Client

from backend.users.models import User
from tests.conformance.rows import write
from tests.integration.readers import reader, recorded, signed_in, text
from towpath.eventlog.stores.memory import StoredRow
from towpath.explorer import access
from towpath.explorer.models import Access
from towpath.explorer.state import read
from towpath.outbox.errors import OutboxError

if TYPE_CHECKING:
    from towpath.eventlog.store import Store

AT = datetime(2026, 11, 25, 21, 42, tzinfo=UTC)
EVENT = "/events/event/2026-11-25T21:42:00Z/outbox_user/7"
AROUND = EVENT.replace("/event/", "/around/")


@pytest.fixture
def user() -> User:
    return reader()


@pytest.fixture
def page(user: User) -> Client:
    return signed_in(user)


@pytest.fixture
def event(store: Store) -> None:
    write(store, StoredRow("outbox_user", 7, UUID(int=1), "login", AT, "test", 1, b'{"mark":"shown"}'))


def test_a_search_is_recorded_with_its_query_and_period_once_for_all_parts_of_its_page(
    page: Client, user: User
) -> None:
    for part in ("", "histogram", "facets", ""):
        page.get(f"/events/{part}?q=type:login  mark&since=2026-11-25&until=2026-11-26")

    (search,) = recorded("events_searched")

    assert search["query"] == "event_type:login mark"
    assert (search["since"], search["until"]) == ("2026-11-25T00:00:00Z", "2026-11-27T00:00:00Z")
    assert search["actor"] == f"user:{user.pk}"


def test_another_search_of_the_same_person_is_another_event(page: Client) -> None:
    for url in ("?q=a", "?q=b", "?q=a&range=7d", "histogram?q=a&now=2020-01-01T00:00:00Z", "?q=a"):
        page.get(f"/events/{url}")

    assert len(recorded("events_searched")) == 4


def test_who_opens_an_event_is_recorded_with_which(page: Client, user: User, event: None) -> None:
    del event
    for _ in range(2):
        assert "shown" in text(page.get(EVENT))
    page.get("/events/event/2026-11-25T21:42:00Z/outbox_user/8")

    (opened,) = recorded("event_opened")

    assert (opened["outbox"], opened["outbox_id"], opened["opened_type"]) == ("outbox_user", 7, "login")
    assert (opened["target"], opened["actor"]) == ("outbox_user:7", f"user:{user.pk}")


def test_each_of_several_events_at_one_position_is_recorded(page: Client, store: Store) -> None:
    """After a restore of the application's database, two different events may share a position."""
    for window, event_type in ((1, "login"), (2, "logout")):
        row = StoredRow("outbox_user", 7, UUID(int=window), event_type, AT, "test", 1, b"{}")
        write(store, row, token=event_type)

    for _ in range(2):
        for number in (1, 2):
            page.get(f"{EVENT}?row={number}")
    page.get(f"{EVENT.replace('/event/', '/context/')}?row=2")
    page.get(f"{AROUND}?row=2")

    assert sorted(one["opened_type"] for one in recorded("event_opened")) == ["login", "logout"]


def test_the_page_of_the_second_event_at_a_position_links_to_its_own_context(page: Client, store: Store) -> None:
    for window in (1, 2):
        row = StoredRow("outbox_user", 7, UUID(int=window), "login", AT, "test", 1, b'{"window":%d}' % window)
        write(store, row, token=str(window))

    shown = page.get(f"{EVENT}?row=2").content.decode()

    (context_url,) = re.findall(r'href="(/events/context/[^"]+)"', shown)
    (around_url,) = re.findall(r'hx-get="(/events/around/[^"]+)"', html.unescape(shown))
    assert page.get(context_url).content != page.get(EVENT.replace("/event/", "/context/")).content
    assert (context_url[-6:], around_url[-6:]) == ("?row=2", "&row=2")
    # Beside the table, too, the link to the other one leads there.
    part = page.get(EVENT, headers={"HX-Request": "true"}).content.decode()
    (other_url,) = re.findall(r'href="([^"]+)" hx-boost="false">row 2', part)
    assert "You see number 2" in " ".join(page.get(other_url).content.decode().split())


def test_what_is_around_an_event_is_recorded_as_opening_it(page: Client, user: User, event: None) -> None:
    del event
    for _ in range(2):
        assert "hx-swap-oob" in text(page.get(AROUND))

    (opened,) = recorded("event_opened")

    assert (opened["target"], opened["actor"]) == ("outbox_user:7", f"user:{user.pk}")


def test_who_opens_an_event_and_is_shown_what_is_around_it_is_recorded_once(page: Client, event: None) -> None:
    del event
    for url in (EVENT, AROUND):
        page.get(url)

    assert len(recorded("event_opened")) == 1


def test_who_is_refused_is_recorded_as_denied() -> None:
    stranger = User.objects.create(email="eve@example.com", first_name="E", last_name="E", is_staff=True)
    for _ in range(3):
        assert signed_in(stranger).get("/events/").status_code == 403
    assert Client().get("/events/").status_code == 302

    (refused,) = recorded("events_access_refused")

    assert (refused["what"], refused["outcome"]) == ("towpath_explorer.view_events", "denied")
    assert refused["actor"] == f"user:{stranger.pk}"


def test_what_cannot_be_recorded_is_not_shown(page: Client, event: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del event

    def fail(*_: object, **__: object) -> None:
        raise OutboxError("the outbox takes nothing")

    monkeypatch.setattr(access, "publish", fail)
    page.raise_request_exception = False

    for url in (EVENT, AROUND, "/events/?range=30d", "/events/facets?range=30d", "/events/histogram?range=30d"):
        answer = page.get(url)

        assert answer.status_code == 500
        assert "shown" not in text(answer)
    # Nor does the next attempt count as a repetition.
    assert not Access.objects.exists()


def test_ten_minutes_later_it_is_recorded_again(user: User) -> None:
    access.refused(user, "a")
    Access.objects.update(at=datetime.now(UTC) - access.JOINED + timedelta(seconds=30))
    access.refused(user, "a")
    assert len(recorded("events_access_refused")) == 1

    Access.objects.update(at=datetime.now(UTC) - access.JOINED)
    access.refused(user, "a")
    assert len(recorded("events_access_refused")) == 2


def test_what_is_over_is_forgotten(user: User) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    Access.objects.bulk_create(Access(digest=str(number), at=long_ago) for number in range(150))

    access.refused(user, "a")
    assert Access.objects.count() == 51
    access.refused(user, "b")
    assert Access.objects.count() == 2


def test_of_many_processes_that_answer_at_the_same_moment_one_records(user: User) -> None:
    state, _ = read({"q": "type:login"})
    start = threading.Barrier(6)
    errors: list[BaseException] = []

    def answer() -> None:
        try:
            start.wait()
            for _ in range(10):
                access.searched(user, state, now=datetime.now(UTC), shown_as="page")
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=answer) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(recorded("events_searched")) == 1


def test_one_that_waits_for_another_records_when_that_one_fails(user: User) -> None:
    done = threading.Event()

    def second() -> None:
        access.refused(user, "a")
        connection.close()
        done.set()

    def first() -> None:
        with transaction.atomic():
            access.refused(user, "a")
            thread = threading.Thread(target=second)
            thread.start()
            assert not done.wait(0.3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first()

    assert done.wait(10)
    assert len(recorded("events_access_refused")) == 1


def test_a_request_in_a_transaction_of_the_project_s_records_by_itself(page: Client) -> None:
    """With ATOMIC_REQUESTS an answer would be made before what it shows is recorded for good."""
    settings: dict[str, Any] = connection.settings_dict
    settings["ATOMIC_REQUESTS"] = True
    try:
        assert page.get("/events/").status_code == 200
    finally:
        settings["ATOMIC_REQUESTS"] = False

    assert len(recorded("events_searched")) == 1
