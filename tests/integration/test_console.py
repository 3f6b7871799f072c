"""The console's page, as Django answers it: it says what `pipeline status` says, and costs no more."""

from __future__ import annotations

import html
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from backend.users.models import User
from tests.benchmarks.buffers import measuring
from tests.benchmarks.traffic import publish_events
from tests.integration.dispatching import EVENT
from tests.integration.manage import here, status
from tests.integration.readers import signed_in
from tests.integration.rows import create_users, write_events
from tests.integration.windows import expire_leases, sealed
from towpath.conf.current import config
from towpath.console import seen
from towpath.console.models import OPERATE, VIEW
from towpath.events import (
    DeadLetterDropped,
    DeadLettersReplayed,
    DispatchPaused,
    DispatchResumed,
    PipelineActionFailed,
    PipelineActionRefused,
    RecoveryRun,
)
from towpath.flow import deadletters, operating
from towpath.flow.pausing import pause_dispatch
from towpath.ledger.models import Batch, DeadLetter
from towpath.ledger.pauses import EVERY_OUTBOX, read_pauses
from towpath.pages.policy import POLICY
from towpath.watch.overview import read_overview
from towpath.watch.status import read_status
from towpath.watch.within import NoAnswerYet, Within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

    from towpath.ledger.deadletters import Letter
    from towpath.testing.published import Published

PAGES = ("/pipeline/", "/pipeline/live", "/pipeline/runbook", "/pipeline/dead-letters")
ACTIONS = ("/pipeline/pause", "/pipeline/resume", "/pipeline/recover")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the test before has seen."""
    monkeypatch.setattr(seen, "_shared", Within(seen._read, seconds=10))


def person(*permissions: str) -> User:
    user = User.objects.create(email="ada@example.com", first_name="Ada", last_name="L", is_staff=True)
    for permission in permissions:
        app, name = permission.split(".")
        user.user_permissions.add(Permission.objects.get(codename=name, content_type__app_label=app))
    return user


@pytest.fixture
def viewer() -> Client:
    return signed_in(person(VIEW))


@pytest.fixture
def operator() -> Client:
    return signed_in(person(VIEW, OPERATE))


def text(response: Answer) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode())))


# --- Who may see it ----------------------------------------------------------------------------------------------


def test_who_is_not_signed_in_is_led_to_where_one_signs_in() -> None:
    assert Client().get("/pipeline/")["Location"] == "/admin/login/?next=/pipeline/"
    assert Client().get("/pipeline/live", headers={"X-Part": "live"}).status_code == 401


@pytest.mark.parametrize("path", PAGES)
def test_who_lacks_the_permission_is_told_which(path: str) -> None:
    response = signed_in(person("towpath_explorer.view_events")).get(path)

    assert response.status_code == 403
    assert VIEW in text(response)


@pytest.mark.parametrize("path", [*PAGES, *ACTIONS])
def test_no_page_is_in_a_transaction_of_the_project_s(operator: Client, path: str) -> None:
    """With ATOMIC_REQUESTS, an action would be said to be done before it is committed."""

    def look(execute: Callable[..., object], sql: str, *more: object) -> object:
        if "auth_permission" in sql:  # the view asks for it first
            are_atomic.append(connection.in_atomic_block)
        return execute(sql, *more)

    are_atomic: list[bool] = []
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with connection.execute_wrapper(look):
            assert operator.get(path).status_code == 200
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    assert are_atomic
    assert not any(are_atomic)


@pytest.mark.parametrize("path", PAGES)
def test_a_viewer_sees_every_page_under_the_strict_policy(viewer: Client, path: str) -> None:
    response = viewer.get(path)

    assert (response.status_code, response["Content-Security-Policy"]) == (200, POLICY)
    assert "style=" not in response.content.decode()


@pytest.mark.parametrize("path", ACTIONS)
def test_a_viewer_has_no_button_and_is_refused_and_the_attempt_is_an_event(
    viewer: Client, path: str, published: Published
) -> None:
    page = viewer.get("/pipeline/").content.decode()
    assert path not in page

    assert viewer.get(path).status_code == 403
    assert viewer.post(path, {"outbox": EVENT, "reason": "mine"}).status_code == 403

    assert read_pauses() == []
    action = path.rpartition("/")[2]
    assert len(published.find(PipelineActionRefused, action=action, target=EVENT)) == 1


def test_the_permission_to_act_is_named_after_all_that_it_allows(viewer: Client) -> None:
    name = "Can pause, resume, recover, replay and drop"

    assert Permission.objects.get(codename=OPERATE.rpartition(".")[2]).name == name
    assert name in text(viewer.get("/pipeline/dead-letters/drop"))


# --- What it says ------------------------------------------------------------------------------------------------


def test_the_page_says_every_problem_of_the_status(viewer: Client) -> None:
    create_users(3)

    found = text(viewer.get("/pipeline/"))

    problems = status()["problems"]
    assert len(problems) >= 3
    for problem in problems:
        # Ages in seconds differ from one look to the next; backticks become code.
        for part in re.split(r"`[^`]*`|: |\. |\d+", problem):
            assert part.strip().lower() in found.lower(), problem


def test_the_numbers_are_those_of_the_status(viewer: Client) -> None:
    create_users(3)
    write_events(["{}"] * 5)
    sealed()
    write_events(["{}"] * 2)

    page = viewer.get("/pipeline/live").content.decode()

    for name, outbox in status()["outboxes"].items():
        row = re.search(rf'<tr><th scope="row" class="mono">{name}.*?</tr>', page, re.DOTALL)
        assert row is not None
        numbers = re.findall(r'<td class="num[^"]*" data-metric="[^>]*>([\d,]+)</td>', row[0])
        assert numbers == [str(outbox["pending"]), str(outbox["in_flight"]), str(outbox["dead_letters"])]


def test_an_open_window_is_shown_with_its_error(viewer: Client) -> None:
    write_events(["{}"] * 5)
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_window SET failed_at = now(), last_error = '<b>refused</b>', attempts = 3")

    page = viewer.get("/pipeline/live").content.decode()

    assert str(window.id)[-8:] in page
    assert "&lt;b&gt;refused&lt;/b&gt;" in page
    assert "<b>refused" not in page


def test_the_page_works_while_rabbitmq_and_the_event_store_are_away(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = replace(config(), event_store_url="clickhouse://127.0.0.1:9/default")
    monkeypatch.setattr(settings, "TOWPATH", away)
    monkeypatch.setattr("towpath.rabbitmq.queues.the_broker", _no_broker)

    found = text(viewer.get("/pipeline/"))

    assert "The event store is not reachable" in found
    assert "RabbitMQ is not reachable" in found
    assert "The event store is unavailable" in found  # the runbook's section


def _no_broker() -> None:
    raise ConnectionRefusedError


def test_old_numbers_are_shown_with_the_reason(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    create_users(3)
    viewer.get("/pipeline/")

    def fail() -> seen.Seen:
        raise NoAnswerYet

    monkeypatch.setattr(seen, "_shared", Within(fail, seconds=1))
    page = viewer.get("/pipeline/live").content.decode()

    assert 'data-trouble="PostgreSQL does not answer within 6 s"' in page
    assert "outbox_user" in page


def test_nothing_seen_yet_is_said(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> seen.Seen:
        raise NoAnswerYet

    monkeypatch.setattr(seen, "_shared", Within(fail, seconds=1))
    monkeypatch.setattr(seen, "_last", None)

    assert "PostgreSQL does not answer" in text(viewer.get("/pipeline/live"))


@pytest.mark.parametrize(
    ("url", "is_shown"),
    [
        ("https://rabbitmq.example.com/", True),
        ("", False),
        ("javascript:alert(1)", False),
        ("https://guest:guest@rabbitmq.example.com/", False),
        ("https://[rabbitmq", False),
    ],
)
def test_a_link_leads_to_rabbitmqs_own_pages_where_they_are(
    viewer: Client, monkeypatch: pytest.MonkeyPatch, *, url: str, is_shown: bool
) -> None:
    monkeypatch.setattr(settings, "TOWPATH", replace(config(), rabbitmq_management_url=url))

    page = viewer.get("/pipeline/live").content.decode()

    assert (f'<a href="{url}" rel="noreferrer">' in page) == is_shown
    assert ("management pages" in page) == is_shown


# --- What people do ----------------------------------------------------------------------------------------------


def test_an_operator_pauses_one_outbox_and_resumes_it(operator: Client, published: Published) -> None:
    asked = text(operator.get(f"/pipeline/pause?outbox={EVENT}"))
    assert f"Pause dispatch of {EVENT}?" in asked

    answer = operator.post("/pipeline/pause", {"outbox": EVENT, "reason": "repairing a column"})
    page = operator.get(answer["Location"])

    assert f"Dispatch of {EVENT} is paused." in text(page)
    assert "repairing a column" in text(page)
    assert f"/pipeline/resume?outbox={EVENT}" in page.content.decode()
    assert len(published.find(DispatchPaused, outbox=EVENT)) == 1

    operator.post("/pipeline/resume", {"outbox": EVENT})

    assert read_pauses() == []
    assert len(published.find(DispatchResumed, outbox=EVENT)) == 1


@pytest.mark.parametrize("data", [{"outbox": EVENT, "reason": " "}, {"outbox": "outbox_none", "reason": "repair"}])
def test_an_attempt_that_fails_says_why_and_is_an_event(
    operator: Client, published: Published, data: dict[str, str]
) -> None:
    response = operator.post("/pipeline/pause", data)

    assert response.status_code == 409
    assert len(published.find(PipelineActionFailed, action="pause", target=data["outbox"])) == 1
    assert published.find(DispatchPaused) == []


def test_a_request_from_another_site_does_nothing() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(person(VIEW, OPERATE), backend="django.contrib.auth.backends.ModelBackend")

    assert client.post("/pipeline/pause", {"outbox": "", "reason": "mine"}).status_code == 403
    assert read_pauses() == []


def test_while_all_is_paused_the_page_offers_to_resume_all(operator: Client) -> None:
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="the store moves")

    page = operator.get("/pipeline/").content.decode()

    assert 'href="/pipeline/resume">Resume dispatch</a>' in page
    assert 'href="/pipeline/pause" hidden>Pause dispatch</a>' in page


# --- What it costs -----------------------------------------------------------------------------------------------


def _two_hours_of_history() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_history
            SELECT date_trunc('minute', at), at, 60, 0, 1, 0, 0, 0, 0, 0.5, 0.2
            FROM (SELECT now() - n * interval '1 min' AS at FROM generate_series(0, 119) AS n) AS minutes
            """
        )


def test_a_look_is_a_status_and_once_a_minute_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    _two_hours_of_history()
    monkeypatch.setattr(seen, "_last", None)

    def statements(look: Callable[[], object]) -> int:
        with CaptureQueriesContext(connection) as captured:
            look()
        return len([query for query in captured if "pipeline_" in query["sql"]])

    of_status = statements(lambda: read_overview(config(), seconds=10))
    first, second = statements(seen.look), statements(seen.look)

    assert (first, second) == (of_status + 1, of_status)
    assert len(seen.look().minutes) == 120


@pytest.mark.slow
def test_the_page_costs_postgresql_no_more_than_a_status_whatever_waits(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages that are read, at a million rows that wait and two hours of history."""
    publish_events(1_000_000)
    _two_hours_of_history()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE outbox_event, pipeline_history")
    monkeypatch.setattr(seen, "_last", None)
    read_status()
    # In this thread: what another one reads is not measured.
    with CaptureQueriesContext(connection), measuring() as pages:
        with pages.during("status"):
            read_status()
        with pages.during("first page"):
            viewer.get("/pipeline/live")
        with pages.during("page"):
            viewer.get("/pipeline/live")

    of_visitors = {name: read for name, read in pages.totals.items() if ": console.views." in name}
    read = pages.by_doing()
    # Who asks, and what they may: Django's own tables, as on each of its pages.
    of_visitor = {doing: _sum(of_visitors, doing) for doing in read}
    assert 0 < read["page"] - of_visitor["page"] <= read["status"], pages.totals
    assert read["first page"] - of_visitor["first page"] <= read["status"] + 20, pages.totals
    assert 0 < of_visitor["page"] <= 40, of_visitors


def _sum(found: dict[str, int], doing: str) -> int:
    return sum(read for name, read in found.items() if name.startswith(f"{doing}: "))


# --- Dead letters, and recovery ----------------------------------------------------------------------------------


def test_dead_letters_are_listed_and_filtered(viewer: Client, letters: list[int]) -> None:
    page = viewer.get(f"/pipeline/dead-letters?outbox={EVENT}").content.decode()

    assert all(f">{number}</th>" in page for number in letters)
    assert "dead-letters/drop" not in page
    assert "No dead letter matches." in text(viewer.get("/pipeline/dead-letters?error=another+reason"))
    assert "No dead letter matches." in text(viewer.get("/pipeline/dead-letters?outbox=outbox_user"))


def test_selected_ones_are_replayed_with_their_number(
    operator: Client, letters: list[int], published: Published
) -> None:
    asked = operator.get(f"/pipeline/dead-letters/replay?id={letters[0]}&id={letters[1]}")
    assert "Send 2 events again?" in text(asked)

    operator.post("/pipeline/dead-letters/replay", form_of(asked))

    assert list(DeadLetter.objects.values_list("id", flat=True)) == letters[2:]
    assert sum(Batch.objects.values_list("rows", flat=True)) == 2
    assert len(published.find(DeadLettersReplayed, rows=2, numbers=letters[:2])) == 1


def test_all_that_match_are_dropped_after_they_were_counted(
    operator: Client, letters: list[int], published: Published
) -> None:
    asked = operator.get(f"/pipeline/dead-letters/drop?outbox={EVENT}")
    assert "Delete 3 events for good?" in text(asked)
    assert DeadLetter.objects.count() == len(letters)

    operator.post("/pipeline/dead-letters/drop", form_of(asked))

    assert not DeadLetter.objects.exists()
    assert len(published.find(DeadLetterDropped)) == 3


@pytest.mark.parametrize(
    ("asked", "left"),
    [("", 0), (f"outbox={EVENT}", 0), (f"outbox={EVENT}&error=it%27s", 2), ("error=it%27s", 2), ("id=all", 0)],
)
def test_the_command_that_the_page_names_does_the_same(
    operator: Client, letters: list[int], asked: str, left: int
) -> None:
    DeadLetter.objects.filter(id=letters[0]).update(error="it's too large")
    numbers = [*letters, *more_letters(12)] if asked == "id=all" else letters
    query = "&".join(f"id={number}" for number in numbers) if asked == "id=all" else asked

    page = operator.get(f"/pipeline/dead-letters/drop?{query}").content.decode()

    (command,) = re.findall(r'<p class="terminal">[^<]*<code>(.*?)</code>', page)
    assert here(*shlex.split(html.unescape(command))[2:], "--yes").returncode == 0
    assert DeadLetter.objects.count() == left


def test_without_a_confirmation_nothing_is_dropped(operator: Client, letters: list[int]) -> None:
    asked_again = operator.post("/pipeline/dead-letters/drop", {"outbox": EVENT, "number": "3"})

    assert asked_again.status_code == 409
    assert "no dead letter was confirmed" in text(asked_again)
    assert DeadLetter.objects.count() == len(letters)


@pytest.mark.parametrize("action", ["replay", "drop"])
def test_if_one_is_gone_and_another_has_come_the_page_asks_again(
    operator: Client, letters: list[int], published: Published, action: str
) -> None:
    asked = operator.get(f"/pipeline/dead-letters/{action}?outbox={EVENT}")
    operating.replay(deadletters.find(letters[:1]), by="eve", batch_ids=1000, enqueue=lambda _batches: None)
    (new,) = more_letters(1)

    asked_again = operator.post(f"/pipeline/dead-letters/{action}", form_of(asked))

    assert asked_again.status_code == 409
    assert "of the 3 that you confirmed, 1 is gone" in text(asked_again)
    assert "3 events" in text(asked_again)
    assert sorted(DeadLetter.objects.values_list("id", flat=True)) == [*letters[1:], new]
    assert (len(published.find(DeadLetterDropped)), len(published.find(DeadLettersReplayed))) == (0, 1)

    operator.post(f"/pipeline/dead-letters/{action}", form_of(asked_again))
    assert not DeadLetter.objects.exists()


def test_of_more_than_a_thousand_those_that_were_counted_are_dropped(operator: Client, letters: list[int]) -> None:
    before = [*letters, *more_letters(1000)]
    asked = operator.get("/pipeline/dead-letters/drop")
    assert "newest 1,000" in text(asked)
    after = more_letters(5)

    page = operator.get(operator.post("/pipeline/dead-letters/drop", form_of(asked))["Location"])

    assert "1,000 dead letters dropped." in text(page)
    assert sorted(DeadLetter.objects.values_list("id", flat=True)) == [*before[:3], *after]


def test_the_page_says_what_somebody_took_at_the_very_moment(
    operator: Client, letters: list[int], published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = operator.get(f"/pipeline/dead-letters/drop?outbox={EVENT}")
    read = deadletters.find

    def find(ids: Sequence[int] | None) -> list[Letter]:
        found = read(ids)
        operating.replay(found[:1], by="eve", batch_ids=1000, enqueue=lambda _batches: None)
        return found

    monkeypatch.setattr(deadletters, "find", find)
    page = text(operator.get(operator.post("/pipeline/dead-letters/drop", form_of(asked))["Location"]))

    assert f"2 dead letters dropped. No longer dead letters: {letters[0]} (replayed, and not stored yet)." in page
    assert len(published.find(DeadLetterDropped)) == 2
    assert len(published.find(PipelineActionFailed, action="drop", target=str(letters[0]))) == 1


def more_letters(number: int) -> list[int]:
    """Numbers of dead letters that have just arrived."""
    rows = write_events(["{}"] * number)
    found = DeadLetter.objects.bulk_create(
        DeadLetter(outbox=EVENT, row_id=row, error="refused", window_id=uuid4(), at=datetime.now(UTC)) for row in rows
    )
    return [letter.id for letter in found]


def form_of(page: Answer) -> dict[str, str]:
    """The fields of the form in which the page asks, as a browser sends them."""
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.content.decode())
    return {name: html.unescape(value) for name, value in fields}


@pytest.mark.parametrize("action", ["replay", "drop"])
def test_a_viewer_may_not_act_on_dead_letters(
    viewer: Client, letters: list[int], published: Published, action: str
) -> None:
    assert viewer.post(f"/pipeline/dead-letters/{action}", {"id": letters, "number": "3"}).status_code == 403

    assert DeadLetter.objects.count() == 3
    assert len(published.find(PipelineActionRefused, action=action)) == 1


def test_recover_now_delivers_what_is_stuck(operator: Client, published: Published) -> None:
    write_events(["{}"] * 5)
    sealed()
    expire_leases()
    assert "Deliver what is stuck now?" in text(operator.get("/pipeline/recover"))

    page = operator.get(operator.post("/pipeline/recover")["Location"])

    assert "Recovery delivered 1 window." in text(page)
    assert len(published.find(RecoveryRun, windows=1)) == 1


@pytest.mark.parametrize("path", ["/pipeline/dead-letters?before=x&id=-1", "/pipeline/dead-letters/drop?id=0&id=9e9"])
def test_a_damaged_link_is_no_error_and_means_nothing(operator: Client, letters: list[int], path: str) -> None:
    response = operator.get(path)

    assert response.status_code == 200
    assert ("There is nothing to drop" in text(response)) == ("drop" in path)
    assert DeadLetter.objects.count() == len(letters)
