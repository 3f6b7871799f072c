"""The explorer's API: the page's search, histogram and export for programs, as the document says it."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import schemathesis
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from backend.users.models import User
from tests.browser import demo
from tests.conformance.rows import write
from tests.integration.readers import reader, recorded, signed_in
from tests.ports import any_free_port
from towpath.eventlog.stores.memory import StoredRow

if TYPE_CHECKING:
    from tests.knobs import Knobs
    from towpath.eventlog.store import Store

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PATHS = ("search", "histogram", "export?format=ndjson")


@pytest.fixture
def programs() -> Client:
    return signed_in(reader("export_events"))


def test_pages_follow_each_other_to_the_end(programs: Client, store: Store) -> None:
    now = datetime.now(UTC)
    demo.store_day(store, now, count=400)
    wanted = sorted(demo.rows(now, count=400), key=lambda row: (row.event_date_time, row.outbox_id), reverse=True)
    found: list[int] = []
    parameters = {"range": "48h", "rows": "150", "now": now.isoformat().replace("+00:00", "Z")}
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        page = programs.get(
            "/events/api/search", parameters | ({"before": page["next"]} if page["next"] else {})
        ).json()
        found += [one["outbox_id"] for one in page["events"]]

    assert page["is_complete"]
    assert found == [row.outbox_id for row in wanted if row.event_date_time < now]
    read = recorded("events_page_read")
    assert [one["rows"] for one in read] == [150, 150, len(found) - 300]
    assert read[0]["before"] == ""
    assert len({one["before"] for one in read}) == 3


def test_what_is_read_again_is_recorded_again(programs: Client, store: Store) -> None:
    demo.store_day(store, datetime.now(UTC), count=10)

    for _ in range(2):
        programs.get("/events/api/search?range=48h&rows=4")

    assert [one["rows"] for one in recorded("events_page_read")] == [4, 4]


def test_a_page_with_whole_contexts_takes_the_permission_to_export(store: Store) -> None:
    demo.store_day(store, datetime.now(UTC), count=10)
    ada = signed_in(reader())

    answer = ada.get("/events/api/search?range=48h")

    assert answer.status_code == 403
    assert "towpath_explorer.export_events" in answer.json()["detail"]
    assert ada.get("/events/api/histogram?range=48h").status_code == 200


def test_a_context_is_json_to_the_last_digit(programs: Client, store: Store) -> None:
    context = b'{"n":12345678901234567890.10}'
    write(store, StoredRow("outbox_user", 7, UUID(int=1), "login", datetime.now(UTC), "test", 1, context))

    answer = programs.get("/events/api/search")

    assert b'"event_context":{"n":12345678901234567890.10}' in answer.content
    assert answer["Content-Type"] == "application/json"


def test_bars_are_those_of_the_page(programs: Client, store: Store) -> None:
    demo.store_day(store, datetime.now(UTC), count=100)

    answer = programs.get("/events/api/histogram?q=type:login&range=48h").json()

    assert {bar["event_type"] for bar in answer["bars"]} == {"login"}


@pytest.mark.parametrize("path", PATHS)
def test_each_refusal_is_json_and_says_why(path: str, programs: Client, knobs: Knobs) -> None:
    stranger = User.objects.create(email="eve@example.com", first_name="E", last_name="E", is_staff=True)
    url = f"/events/api/{path}{'&' if '?' in path else '?'}"

    def asked(client: Client, query: str = "") -> tuple[int, dict[str, Any]]:
        answer = client.get(url + query)
        return answer.status_code, answer.json()

    assert asked(Client()) == (401, {"detail": "Sign in first."})
    assert asked(signed_in(stranger))[0] == 403
    assert asked(programs, "q=outcome:failure user:7") == (
        400,
        {
            "detail": "There is no column user. Write context.user for a path in the context, or put the text in quotes"
            " to search for it.",
            "field": "q",
            "position": 16,
        },
    )
    assert asked(programs, "since=soon")[0] == 422
    assert asked(programs, "range=never")[1]["field"] == "range"
    assert programs.post(url).status_code == 405
    # Nobody listens where the event store should be.
    knobs(event_store_explorer_url=f"http://127.0.0.1:{any_free_port()}/default")
    assert asked(programs)[0] == 503


@pytest.mark.parametrize(
    "query",
    [
        "rows=0",
        "rows=501",
        "rows=x",
        "before=x",
        "before=2026-01-01T00:00:00/a/1",
        "now=yesterday",
        "now=2026-11-26T00:00:00",
        "now=0001-01-01T00:00:00+01:00",
    ],
)
def test_a_wrong_parameter_of_a_page_is_422(query: str, programs: Client) -> None:
    assert programs.get(f"/events/api/search?{query}").status_code == 422


def test_a_scope_holds_for_programs_too(programs: Client, store: Store, knobs: Knobs) -> None:
    demo.store_day(store, datetime.now(UTC), count=100)
    knobs(explorer_scope="tests.integration.test_explorer_scope.only_sign_ins")

    types = {one["event_type"] for one in programs.get("/events/api/search?range=48h").json()["events"]}
    lines = b"".join(programs.get("/events/api/export?format=ndjson&range=48h").streaming_content).splitlines()  # type: ignore[attr-defined]

    assert types <= {"login", "login_failed"}
    assert {json.loads(line).get("event_type") for line in lines[:-1]} == types
    knobs(explorer_scope="tests.integration.test_explorer_scope.fails")
    assert programs.get("/events/api/search").status_code == 500


def test_the_document_of_the_sample_has_the_api() -> None:
    document = Client().get("/api/openapi.json").json()

    for path in ("/events/api/search", "/events/api/histogram", "/events/api/export"):
        assert {"200", "400", "401", "403", "422", "503"} <= document["paths"][path]["get"]["responses"].keys()


@pytest.mark.slow
def test_whatever_the_document_allows_is_answered_as_it_says(programs: Client, store: Store) -> None:
    """Schemathesis makes requests of the document, right and wrong ones, and compares the answers with it."""
    demo.store_day(store, datetime.now(UTC), count=20)
    cookie = {"sessionid": programs.cookies["sessionid"].value}
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", get_wsgi_application())
    seen: dict[str, set[int]] = defaultdict(set)
    for found in schema.include(path_regex="^/events/").get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answer = case.call(cookies=cookie)
            case.validate_response(answer, checks=CHECKS)
            seen[case.path].add(answer.status_code)

        ask()

    assert set(seen) == {"/events/api/search", "/events/api/histogram", "/events/api/export"}
    assert all(200 in statuses for statuses in seen.values())
