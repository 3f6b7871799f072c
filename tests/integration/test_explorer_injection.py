"""Whatever somebody writes into a parameter of any URL of the explorer stays a value, in front of either store."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.test import Client

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
_SOME = (_ATTACKS[0], _ATTACKS[10], _ATTACKS[13], _ATTACKS[15])
_URLS = [
    re.sub(r"<path:[^>]+>", "2026-11-25T21:42:00Z/outbox_user/7", str(each.pattern))
    for each in urlpatterns
    if isinstance(each, URLPattern)
]
#: They change what the explorer keeps of a person, and take a form.
_POSTED = {"columns", "views/save"}
AT = datetime(2026, 11, 25, 21, 42, tzinfo=UTC)


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
    yield used
    if used is not store:
        used.close()
        subject.close()


@pytest.fixture
def page() -> Client:
    return signed_in(reader("export_events", "share_views"))


@pytest.mark.parametrize("url", _URLS)
def test_no_value_of_a_parameter_is_more_than_a_value(url: str, page: Client, log: Store) -> None:
    for name in (*_PARAMETERS, *_MORE.get(url, ())):
        for attack in _ATTACKS if name in {"q", "before"} else _SOME:
            others = "since=2026-11-25&until=2026-11-26&" if name in {"q", "columns", "tz"} else ""
            needed = "format=ndjson&" if url.endswith("export") and name != "format" else ""
            if url in _POSTED:
                answer = page.post(f"/events/{url}", {"name": "a view", name: attack})
            else:
                answer = page.get(f"/events/{url}?{others}{needed}{name}={quote(attack, safe='')}")
            body = b"".join(answer.streaming_content) if answer.streaming else answer.content  # type: ignore[attr-defined]
            answer.close()

            assert answer.status_code in {200, 302, 400, 404, 422}, (name, attack)
            assert b"<script>alert" not in body or answer["Content-Type"] == "application/json", (name, attack)
            assert "Set-Cookie: x" not in str(answer.headers), (name, attack)
            if name == "q" and not url.startswith(("event/", "context/", "around/")):
                assert b"secret_mark" not in body, attack
    assert len(log.search(Query(), since=EARLIEST, until=TOO_LATE, rows=10, seconds=5)) == 1


@pytest.mark.parametrize("url", ["event", "context", "around"])
def test_no_place_of_an_event_is_more_than_a_place(url: str, page: Client, log: Store) -> None:
    del log
    for attack in _ATTACKS:
        for place in (attack, f"2026-11-25T21:42:00Z/{attack}/7", f"2026-11-25T21:42:00Z/outbox_user/{attack}"):
            answer = page.get(f"/events/{url}/{quote(place, safe='')}")

            assert answer.status_code in {200, 400, 404}, place
            assert b"secret_mark" not in answer.content
