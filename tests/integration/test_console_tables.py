"""Dead letters, windows and outboxes in the admin: read only, nothing counted, and an event for who may read it."""

from __future__ import annotations

import re

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.integration.readers import signed_in
from tests.integration.rows import create_users, write_events
from tests.integration.test_console import person
from tests.integration.windows import sealed
from towpath.console import tables
from towpath.console.models import VIEW
from towpath.events import LogRead
from towpath.ledger.models import DeadLetter
from towpath.outbox.models import OutboxEvent, all_outboxes
from towpath.testing.published import Published

LISTS = ("towpath/deadletter", "towpath/window", "towpath/outboxevent", "users/outboxuser", "users/outboxuserchange")


@pytest.fixture
def viewer() -> Client:
    return signed_in(person(VIEW))


@pytest.fixture
def rows() -> list[int]:
    """Rows of each list; the ids of the events."""
    create_users(2)
    ids = write_events(['{"secret":"payload"}'] * 3)
    window = sealed()
    DeadLetter.objects.create(
        outbox="outbox_event", row_id=ids[0], error="no\nmore", window_id=window.id, at="2026-11-27T00:00Z"
    )
    return ids


def test_every_outbox_has_a_page_and_django_dramatiqs_tasks_have_none() -> None:
    assert all(admin.site.is_registered(outbox) for outbox in all_outboxes().values())
    assert not [model for model in admin.site._registry if model._meta.label == "django_dramatiq.Task"]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_shown_and_nothing_is_counted_or_read_that_is_not_shown(
    viewer: Client, rows: list[int], name: str
) -> None:
    with CaptureQueriesContext(connection) as queries:
        response = viewer.get(f"/admin/{name}/")

    assert response.status_code == 200
    assert len(rows) == 3
    assert not [query["sql"] for query in queries if re.search(r"count\(", query["sql"], re.IGNORECASE)]
    assert not [query["sql"] for query in queries if "event_context" in query["sql"]]
    assert "Add" not in re.findall(r'class="addlink">(\w+)', response.content.decode())


@pytest.mark.parametrize("asked", ["event_context__contains=secret", "id__gt=1", "user__email__startswith=a", "o=3.2"])
@pytest.mark.parametrize("name", LISTS)
def test_an_address_neither_selects_nor_sorts_rows(viewer: Client, rows: list[int], name: str, asked: str) -> None:
    """What an undelivered event says could be found out by conditions, and a sort would read the whole table."""
    assert rows
    table = apps.get_model(name.replace("/", "."))._meta.db_table
    with CaptureQueriesContext(connection) as queries:
        response = viewer.get(f"/admin/{name}/?{asked}")

    assert response.status_code == (200 if asked.startswith("o=") else 400)
    read = [query["sql"] for query in queries if f'FROM "{table}"' in query["sql"]]
    assert not [sql for sql in read if "WHERE" in sql]
    assert {sql.partition("ORDER BY ")[2].partition(" ")[0].rpartition(".")[2] for sql in read} <= {'"id"', '"number"'}


@pytest.mark.parametrize("name", LISTS)
def test_nobody_adds_changes_or_deletes(viewer: Client, rows: list[int], name: str) -> None:
    assert viewer.get(f"/admin/{name}/add/").status_code == 403
    assert viewer.post(f"/admin/{name}/{rows[0]}/delete/", {"post": "yes"}).status_code in {302, 403}
    assert OutboxEvent.objects.filter(id__in=rows).count() == len(rows)


@pytest.mark.parametrize("name", LISTS)
def test_who_may_not_see_the_pipeline_sees_no_list(rows: list[int], name: str) -> None:
    assert signed_in(person()).get(f"/admin/{name}/").status_code == 403
    assert len(rows) == 3


def test_an_event_is_shown_as_it_would_be_stored_and_that_is_recorded(rows: list[int], published: Published) -> None:
    reader = signed_in(person(VIEW, "towpath_explorer.view_events"))

    page = reader.get(f"/admin/towpath/outboxevent/{rows[0]}/change/").content.decode()

    assert "secret" in page
    assert len(published.find(LogRead, tool="admin", rows=1, detail=f"outbox_event {rows[0]}")) == 1


def test_who_may_not_read_events_reads_none_there(viewer: Client, rows: list[int], published: Published) -> None:
    assert viewer.get(f"/admin/towpath/outboxevent/{rows[0]}/change/").status_code == 403
    assert f"/{rows[0]}/change/" not in viewer.get("/admin/towpath/outboxevent/").content.decode()
    assert published.find(LogRead) == []


def test_paging_is_bounded(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 60)
    write_events(["{}"] * 100)

    assert viewer.get("/admin/towpath/outboxevent/?p=2").status_code == 200
    assert "60 undelivered events" in re.sub(r"\s+", " ", viewer.get("/admin/towpath/outboxevent/").content.decode())
