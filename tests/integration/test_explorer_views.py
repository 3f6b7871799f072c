"""Saved views, private and shared, and the columns that a person has chosen."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from django.test import Client

from tests.conformance.rows import write
from tests.integration.readers import reader, recorded, signed_in, text
from towpath.eventlog.stores.memory import StoredRow
from towpath.explorer.models import Preference, SavedView
from towpath.explorer.saved import AUDITS, MOST_VIEWS

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

    from towpath.eventlog.store import Store


@pytest.fixture
def page() -> Client:
    return signed_in(reader("share_views"))


def saved(client: Client, name: str, **more: str) -> Answer:
    return client.post("/events/views/save", {"name": name, **more})


def test_a_view_is_saved_as_the_page_shows_it_and_is_one_s_own(page: Client) -> None:
    answer = saved(page, "Denied  today", q="outcome:denied", range="7d", tz="Europe/Berlin")

    assert answer["Location"] == "/events/?q=outcome%3Adenied&range=7d&tz=Europe%2FBerlin"
    assert "Denied today" in text(page.get("/events/"))
    assert "Denied today" not in text(signed_in(reader(email="bob@example.com")).get("/events/"))
    assert recorded("events_view_shared") == []


def test_a_shared_view_is_everybody_s_to_see_and_its_owner_s_to_change(page: Client) -> None:
    saved(page, "Shared one", q="outcome:denied", is_shared="on")
    other = signed_in(reader("share_views", email="bob@example.com"))
    view = SavedView.objects.get()

    assert "Shared one" in text(other.get("/events/"))
    assert "ada@example.com" in text(other.get("/events/views/"))
    for action in ("rename", "share", "unshare", "delete"):
        assert other.post(f"/events/views/{view.pk}", {"action": action, "name": "Mine"}).status_code == 404
    (told,) = recorded("events_view_shared")
    assert (told["name"], told["query"], told["is_shared"]) == ("Shared one", "outcome:denied", True)


def test_views_are_renamed_shared_and_deleted(page: Client) -> None:
    saved(page, "First", q="a")
    saved(page, "Second", q="b")
    first = SavedView.objects.get(name="First").pk

    def change(action: str, name: str = "") -> int:
        return page.post(f"/events/views/{first}", {"action": action, "name": name}).status_code

    assert change("rename", "Renamed") == 302
    assert change("rename", "Second") == 422
    assert change("rename", " ") == 422
    assert change("else") == 422
    assert change("share") == change("share") == change("unshare") == change("share") == change("delete") == 302
    assert change("delete") == 404
    assert [view.name for view in SavedView.objects.all()] == ["Second"]
    assert [one["is_shared"] for one in recorded("events_view_shared")] == [True, False, True, False]


def test_sharing_takes_the_permission(page: Client) -> None:
    assert 'name="is_shared"' in text(page.get("/events/"))
    client = signed_in(reader(email="bob@example.com"))
    saved(client, "Private")
    number = SavedView.objects.get().pk

    assert saved(client, "Public", is_shared="on").status_code == 403
    assert client.post(f"/events/views/{number}", {"action": "share"}).status_code == 403
    assert 'name="is_shared"' not in text(client.get("/events/"))
    assert [one["what"] for one in recorded("events_access_refused")] == ["towpath_explorer.share_views"]
    assert not SavedView.objects.filter(is_shared=True).exists()


def test_who_may_no_longer_share_changes_nothing_that_everybody_sees() -> None:
    user = reader("share_views")
    client = signed_in(user)
    saved(client, "Shared one", q="outcome:denied", is_shared="on")
    number = SavedView.objects.get().pk
    user.user_permissions.remove(*user.user_permissions.filter(codename="share_views"))

    def change(action: str) -> int:
        return client.post(f"/events/views/{number}", {"action": action, "name": "Renamed"}).status_code

    assert change("rename") == 403
    assert SavedView.objects.get().name == "Shared one"
    assert change("unshare") == change("rename") == 302


@pytest.mark.parametrize("name", ["", "x" * 81, "a\0b", "a\u202eb"])
def test_a_name_that_is_none_is_not_saved(page: Client, name: str) -> None:
    answer = saved(page, name)

    assert answer.status_code == 422
    assert "80 characters" in text(answer)


def test_what_cannot_be_searched_for_is_not_saved(page: Client) -> None:
    assert "There is no column user." in text(saved(page, "Wrong", q="user:7"))
    assert not SavedView.objects.exists()


def test_there_is_a_limit_and_a_name_is_saved_anew(page: Client) -> None:
    for number in range(MOST_VIEWS):
        saved(page, f"View {number}")

    assert saved(page, "One more").status_code == 422
    assert saved(page, "View 1", q="new").status_code == 302
    assert SavedView.objects.get(name="View 1").parameters == "q=new"


def test_a_page_of_another_site_saves_nothing() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(reader(), backend="django.contrib.auth.backends.ModelBackend")

    assert client.post("/events/views/save", {"name": "Forged"}).status_code == 403
    assert client.get("/events/views/save").status_code == 405


def test_audits_are_queries_that_find_what_they_say(page: Client, store: Store) -> None:
    now = datetime.now(UTC)
    types = ("user_login_failed", "user_updated", "events_exported", "user_deleted", "log_read")
    changes = b'{"changes":{"is_staff":{"old":false,"new":true}}}'
    rows = [
        StoredRow("outbox_event", number, UUID(int=1), each, now, "test", 1, changes if number == 2 else b"{}")
        for number, each in enumerate(types, 1)
    ]
    write(store, *rows)

    for wanted, audit in zip(types, AUDITS, strict=True):
        found = re.findall(r'data-event-type="(\w+)"', text(page.get(f"/events/{audit.url}")))

        assert wanted in found, audit
        assert len(found) <= 2, audit


def test_columns_are_remembered_of_the_person_who_chose_them(page: Client, store: Store) -> None:
    write(store, StoredRow("outbox_event", 1, UUID(int=1), "login", datetime.now(UTC), "test", 1, b"{}"))

    def heads(client: Client, url: str) -> list[str]:
        return re.findall(r'<th scope="col"[^>]*title="([^"]+)"><span>', text(client.get(url)))

    usual = heads(page, "/events/")
    answer = page.post("/events/columns", {"columns": ["actor", "context.amount", ""], "q": "type:login"})
    assert answer["Location"] == "/events/?q=type%3Alogin&columns=actor%2Ccontext.amount"
    assert heads(page, "/events/") == ["actor", "context.amount"]
    assert heads(page, "/events/?columns=type") == ["type"]
    assert heads(page, "/events/") == ["actor", "context.amount"]
    assert heads(signed_in(reader(email="bob@example.com")), "/events/") == usual

    assert page.post("/events/columns", {"q": "type:login"})["Location"] == "/events/?q=type%3Alogin"
    assert heads(page, "/events/") == usual


def test_wrong_columns_are_not_remembered_and_the_page_says_what_is_wrong(page: Client, store: Store) -> None:
    write(store, StoredRow("outbox_event", 1, UUID(int=1), "login", datetime.now(UTC), "test", 1, b"{}"))

    answer = page.post("/events/columns", {"columns": ["actor", "nothing"], "range": "7d"})

    assert answer["Location"] == "/events/?range=7d&columns=actor%2Cnothing"
    assert "There is no column nothing." in text(page.get(answer["Location"]))
    assert not Preference.objects.exists()


def test_no_link_or_form_of_another_site_changes_the_columns() -> None:
    page = Client(enforce_csrf_checks=True)
    page.force_login(reader(), backend="django.contrib.auth.backends.ModelBackend")

    page.get("/events/?remember=columns&columns=actor")
    assert page.get("/events/columns?columns=actor").status_code == 405
    assert page.post("/events/columns", {"columns": "actor"}).status_code == 403

    assert not Preference.objects.exists()
