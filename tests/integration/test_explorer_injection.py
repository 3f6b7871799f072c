"""Whatever somebody writes into a parameter of any URL of the explorer stays a value, in front of either store, and no
URL shows what is outside of a person's scope."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import UUID

import pytest
from django.urls import URLPattern

from tests.conformance.rows import write
from tests.conformance.subjects import PostgreSQLSubject
from tests.integration.proving import EACH_STORE
from tests.integration.readers import reader, signed_in
from towpath.eventlog.query import Query
from towpath.eventlog.stores.memory import StoredRow
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.explorer import reading
from towpath.explorer.urls import urlpatterns
from towpath.ledger.models import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.test import Client
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

    from backend.users.models import User
    from tests.knobs import Knobs
    from tests.services import Services
    from towpath.eventlog.store import Store

#: What every page reads, and what some URLs do besides.
_PARAMETERS = ("q", "range", "since", "until", "tz", "columns", "now")
_MORE = {
    "rows": ("before",),
    "histogram": ("back_to",),
    "tail": ("after",),
    "export": ("format", "as"),
    "api/search": ("before", "rows"),
    "api/histogram": ("back_to",),
    "api/export": ("format", "as"),
    "event": ("row",),
    "context": ("row",),
    "around": ("row",),
}
#: Without these, no request gets as far as the store.
_NEEDED = {
    "rows": ("before", "2026-11-26T00:00:00Z/outbox_user/8"),
    "tail": ("after", "2026-11-25T00:00:00Z,0"),
    "export": ("format", "ndjson"),
    "api/export": ("format", "ndjson"),
}
_ATTACKS = (
    "'; DROP TABLE event_log; --",
    "') OR 1=1 --",
    "\\' UNION ALL SELECT password FROM users_user --",
    "x' || sleep(3) || '",
    "%' OR event_context LIKE '%",
    "actor:\"\\\\') OR sleep(3) = ('\"",
    'context."a\'] OR 1=1 --":1',
    "context.a:*'*",
    "%(since)s {since:String} $1 $$ ;",
    "\N{NULL}",
    '"><script>alert(1)</script>',
    "{{ 7*7 }}{% debug %}",
    "../../../../etc/passwd",
    "9" * 400,
    "\r\nSet-Cookie: x=1",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)
#: For the parameters that are not a query.
_SOME = (_ATTACKS[0], _ATTACKS[10], _ATTACKS[13], _ATTACKS[15], "9" * 5_000)
_DAY = "since=2026-11-25&until=2026-11-26"
_URLS = [
    re.sub(r"<path:[^>]+>", "2026-11-25T21:42:00Z/outbox_user/7", str(each.pattern))
    for each in urlpatterns
    if isinstance(each, URLPattern)
]
#: They change what the explorer keeps of a person, and take a form.
_POSTED = {"columns", "views/save"}
#: They show nothing that is stored.
_WITHOUT_EVENTS = {*_POSTED, "views/", "views/<int:number>"}
AT = datetime(2026, 11, 25, 21, 42, tzinfo=UTC)


def only_others(_user: User) -> str:
    return "-type:secret_type"


def _needed(url: str, *, but: str = "") -> str:
    name, value = _NEEDED.get(url, ("", ""))
    return f"{name}={quote(value, safe='')}&" if name not in {"", but} else ""


def _body(answer: Answer) -> bytes:
    found = b"".join(answer.streaming_content) if answer.streaming else answer.content  # type: ignore[attr-defined]
    answer.close()
    return bytes(found)


@pytest.fixture(params=EACH_STORE)
def log(
    request: pytest.FixtureRequest, services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """The log, with one event that no attack may find by a condition of its own."""
    used = store
    if request.param == "postgresql":
        subject = PostgreSQLSubject(services)
        subject.migrate()
        used = subject.with_columns(())
        monkeypatch.setattr(reading, "connected", lambda: used)
    write(used, StoredRow("outbox_user", 7, UUID(int=1), "secret_type", AT, "test", 1, b'{"a":"secret_mark"}'))
    # Its window, which a tail finds.
    Window.objects.create(
        id=UUID(int=1),
        lease_token=UUID(int=1),
        **dict.fromkeys(("lease_until", "sealed_at", "dispatched_from", "dispatched_to", "acked_at"), AT),
        rows={"outbox_user": 1},
        bytes=0,
    )
    yield used
    if used is not store:
        used.close()
        subject.close()


@pytest.fixture
def page() -> Client:
    return signed_in(reader("export_events", "share_views"))


@pytest.mark.parametrize("url", _URLS)
def test_no_value_of_a_parameter_is_more_than_a_value(url: str, page: Client, log: Store) -> None:
    for name in (*_PARAMETERS, *_MORE.get(url, _MORE.get(url.partition("/")[0], ()))):
        for attack in _ATTACKS if name in {"q", "before"} else _SOME:
            others = f"{_DAY}&" if name in {"q", "columns", "tz"} else ""
            if url in _POSTED:
                answer = page.post(f"/events/{url}", {"name": "a view", name: attack})
            else:
                answer = page.get(f"/events/{url}?{others}{_needed(url, but=name)}{name}={quote(attack, safe='')}")
            body = _body(answer)

            assert answer.status_code in {200, 302, 400, 404, 422}, (name, attack)
            assert b"<script>alert" not in body or answer["Content-Type"] == "application/json", (name, attack)
            assert "Set-Cookie: x" not in str(answer.headers), (name, attack)
            if name == "q" and not url.startswith(("event/", "context/", "around/")):
                assert b"secret_mark" not in body, attack
    assert len(log.search(Query(), since=EARLIEST, until=TOO_LATE, rows=10, seconds=5)) == 1


@pytest.mark.parametrize("url", [url for url in _URLS if url not in _WITHOUT_EVENTS])
def test_every_url_shows_the_event_but_not_to_a_person_whose_scope_leaves_it_out(
    url: str, page: Client, log: Store, knobs: Knobs
) -> None:
    del log
    seen = _body(page.get(f"/events/{url}?{_DAY}&{_needed(url)}"))
    knobs(explorer_scope=f"{__name__}.only_others")
    not_seen = _body(page.get(f"/events/{url}?{_DAY}&{_needed(url)}"))

    secret = re.compile(b'secret_|hx-swap-oob="innerHTML">1')
    assert secret.search(seen)
    assert not secret.search(not_seen)


@pytest.mark.parametrize("url", ["event", "context", "around"])
def test_no_place_of_an_event_is_more_than_a_place(url: str, page: Client, log: Store) -> None:
    del log
    for attack in _ATTACKS:
        for place in (attack, f"2026-11-25T21:42:00Z/{attack}/7", f"2026-11-25T21:42:00Z/outbox_user/{attack}"):
            answer = page.get(f"/events/{url}/{quote(place, safe='')}")

            assert answer.status_code in {200, 400, 404}, place
            assert b"secret_mark" not in answer.content
