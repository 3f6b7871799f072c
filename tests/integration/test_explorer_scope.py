"""A scope: which events a person may see in the explorer. All others are as if they were not there."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import demo
from tests.integration.readers import reader, signed_in, text
from towpath.eventlog.search import Position
from towpath.explorer.checks import check_scope
from towpath.explorer.links import event_path

if TYPE_CHECKING:
    from django.test import Client

    from backend.users.models import User
    from tests.knobs import Knobs
    from towpath.eventlog.store import Store

SCOPE = f"{__name__}.only_sign_ins"
_TYPES = {"login", "login_failed"}


def only_sign_ins(user: User) -> str:
    return "type:login,login_failed" if user.email == "ada@example.com" else ""


def fails(_user: User) -> str:
    raise RuntimeError("no tenant")


def is_no_query(_user: User) -> str:
    return "tenant:7"


def is_nothing(_user: User) -> Any:
    return None


@pytest.fixture
def page() -> Client:
    return signed_in(reader())


@pytest.fixture
def now(store: Store) -> datetime:
    now = datetime.now(UTC)
    demo.store_day(store, now, count=400)
    return now


def test_an_event_outside_of_the_scope_is_as_if_it_were_not_there(page: Client, now: datetime, knobs: Knobs) -> None:
    knobs(explorer_scope=SCOPE)

    shown = re.findall(r'data-event-type="(\w+)"', text(page.get("/events/?q=type:invoice_paid OR type:login")))
    bars = page.get("/events/histogram").json()
    facets = text(page.get("/events/facets"))
    events = {
        row.event_type: event_path(Position(row.event_date_time, row.outbox, row.outbox_id))
        for row in demo.rows(now, count=400)
    }

    assert set(shown) == {"login"}
    assert set(bars["types"]) == _TYPES
    assert "invoice" not in facets
    assert page.get(f"/events/{events['login']}").status_code == 200
    assert page.get(f"/events/{events['invoice_paid']}").status_code == 404


def test_each_person_has_their_own(now: datetime, knobs: Knobs) -> None:
    assert now
    knobs(explorer_scope=SCOPE)

    types = signed_in(reader(email="all@example.com")).get("/events/histogram").json()["types"]

    assert set(types) > _TYPES


@pytest.mark.parametrize("function", ["fails", "is_no_query", "is_nothing", "missing"])
def test_a_scope_that_cannot_be_determined_shows_nothing(
    function: str, page: Client, now: datetime, knobs: Knobs
) -> None:
    assert now
    knobs(explorer_scope=f"{__name__}.{function}")

    for part in ("", "rows?before=2026-11-25T00:00:00Z/a/1", "histogram", "facets", "event/2026-11-25T00:00:00Z/a/1"):
        answer = page.get(f"/events/{part}")

        assert answer.status_code == 500
        assert "explorer_scope_failed" in text(answer)
        assert "invoice_paid" not in text(answer)


def test_check_names_a_scope_that_is_no_function(knobs: Knobs) -> None:
    for path in ("nowhere.at_all", f"{__name__}._TYPES"):
        knobs(explorer_scope=path)

        (error,) = check_scope(None)

        assert error.id == "explorer.E002"
        assert path in str(error)

    knobs(explorer_scope=SCOPE)
    assert check_scope(None) == []
