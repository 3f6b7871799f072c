"""The console where something is away, cannot be read, or is unknown to this program: it does not call that empty."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from tests.integration.dispatching import EVENT
from tests.integration.readers import signed_in
from tests.integration.rows import write_events
from tests.integration.test_console import form_of, person, text
from tests.integration.test_locked_tables import locked
from towpath.console import seen
from towpath.console.models import OPERATE, VIEW
from towpath.console.views import recovery
from towpath.eventlog.values import NO_WINDOW
from towpath.events import PipelineActionFailed
from towpath.flow.pausing import pause_dispatch
from towpath.ledger import history, pauses
from towpath.ledger.models import DeadLetter
from towpath.ledger.pauses import EVERY_OUTBOX, read_pauses
from towpath.watch.history import add_minute_if_due
from towpath.watch.within import Within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

    from towpath.testing.published import Published

LATE = datetime(2026, 1, 2, 23, 30, tzinfo=UTC).replace(year=datetime.now(UTC).year)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the test before has seen."""
    monkeypatch.setattr(seen, "_shared", Within(seen._read, seconds=10))
    monkeypatch.setattr(seen, "_last", None)


@pytest.fixture
def operator() -> Client:
    return signed_in(person(VIEW, OPERATE))


@pytest.fixture
def away() -> Iterator[None]:
    """PostgreSQL, to this thread."""
    connection.close()
    before, connection.settings_dict["PORT"] = connection.settings_dict["PORT"], "1"
    yield
    connection.close()
    connection.settings_dict["PORT"] = before


def stage(page: Answer, name: str) -> str:
    """What the picture says of a stage."""
    (found,) = re.findall(rf"<h2>{name}</h2>(.*?)</li>", page.content.decode(), re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found)).strip()


# --- Parts that PostgreSQL does not show in time -----------------------------------------------------------------


@pytest.mark.timing
def test_a_ledger_that_cannot_be_read_is_not_called_empty(operator: Client) -> None:
    with locked("pipeline_window"):
        page = operator.get("/pipeline/live")

    said = text(page)
    assert "The ledger could not be read" in said
    for claim in ("nothing differs", "all verified", "all sealed", "every sealed window is stored", "ever run"):
        assert claim not in said
    assert stage(page, "Aggregators") == "? windows being written could not be read in time"
    assert "?" in stage(page, "Dispatcher")


@pytest.mark.timing
def test_an_outbox_that_cannot_be_read_is_not_called_empty(operator: Client) -> None:
    write_events(["{}"])
    with locked(EVENT):
        page = operator.get("/pipeline/live")
        assert add_minute_if_due() is False

    said = text(page)
    assert "no event waits" not in said
    assert "not all could be read" in said
    assert f"{EVENT} could not be read in time" in said
    assert stage(page, "Outboxes") == "? pending not all could be read"
    assert re.search(r'class="age (warn|bad)"', page.content.decode())
    assert history.read_history(minutes=5) == []


# --- PostgreSQL itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/pipeline/", "/pipeline/live", "/pipeline/dead-letters", "/pipeline/recover"])
def test_that_postgresql_is_away_is_said_in_words(operator: Client, request: pytest.FixtureRequest, path: str) -> None:
    request.getfixturevalue("away")
    operator.raise_request_exception = False

    answer = operator.get(path)

    assert (answer.status_code, "Content-Security-Policy" in answer) == (503, True)
    assert "PostgreSQL does not answer" in text(answer)
    assert "127.0.0.1" not in answer.content.decode()  # anyone may see this


# --- Times -------------------------------------------------------------------------------------------------------


def test_times_are_utc_as_the_page_says_whatever_the_project_s_zone(operator: Client) -> None:
    DeadLetter.objects.create(outbox=EVENT, row_id=1, error="refused", window_id=NO_WINDOW, at=LATE)

    with timezone.override(ZoneInfo("Asia/Tokyo")):
        letters = operator.get("/pipeline/dead-letters")
        page = operator.get("/pipeline/live").content.decode()

    assert "2 Jan, 23:30:00" in text(letters)
    (read_at,) = re.findall(r'data-read-at="([\d.]+)"', page)
    assert f'data-clock="{datetime.fromtimestamp(float(read_at), UTC):%H:%M:%S}"' in page


@pytest.mark.parametrize("minutes", [-10, 10])
def test_the_lines_end_now_although_the_clock_of_the_web_process_is_wrong(minutes: int) -> None:
    add_minute_if_due()
    now = datetime.now(UTC) + timedelta(minutes=minutes)

    (minute,) = seen._minutes(now)

    assert abs(now - minute.measured_at) < timedelta(seconds=10)


# --- Who may what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/pipeline/pause", "/pipeline/dead-letters/drop"])
def test_who_may_act_but_not_see_is_told_what_is_missing(path: str) -> None:
    refused = signed_in(person(OPERATE)).get(path)

    assert refused.status_code == 403
    assert VIEW in text(refused)
    assert OPERATE not in text(refused)


# --- Pauses ------------------------------------------------------------------------------------------------------


def test_resuming_one_while_all_are_paused_does_not_say_that_it_is_dispatched(operator: Client) -> None:
    pause_dispatch(EVENT, by="ada", reason="repair")
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="the store moves")

    page = operator.get(operator.post("/pipeline/resume", {"outbox": EVENT})["Location"])

    assert f"The pause of {EVENT} has ended, but dispatch of all outboxes is still paused." in text(page)
    assert [pause.outbox for pause in read_pauses()] == [EVERY_OUTBOX]


def test_the_pause_of_an_outbox_without_a_class_can_be_ended(operator: Client) -> None:
    pauses.insert("outbox_removed", by="ada", reason="repair")
    page = operator.get("/pipeline/live").content.decode()
    assert '/pipeline/resume?outbox=outbox_removed"' in page

    assert "Resume dispatch of outbox_removed?" in text(operator.get("/pipeline/resume?outbox=outbox_removed"))
    operator.post("/pipeline/resume", {"outbox": "outbox_removed"})

    assert read_pauses() == []


# --- Recovery ----------------------------------------------------------------------------------------------------


def test_a_recovery_that_runs_out_of_time_says_so(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_STRANDED_SECONDS", 0.0)

    page = operator.get(operator.post("/pipeline/recover")["Location"])

    assert "There may be more stranded rows: recover again." in text(page)


# --- Dead letters ------------------------------------------------------------------------------------------------


def test_a_filter_for_an_outbox_without_a_class_is_shown(operator: Client) -> None:
    page = operator.get("/pipeline/dead-letters?outbox=outbox_removed").content.decode()

    assert "<option selected>outbox_removed</option>" in page


def test_an_action_that_came_too_late_is_an_event(operator: Client, letters: list[int], published: Published) -> None:
    asked = operator.get(f"/pipeline/dead-letters/drop?id={letters[0]}")
    operator.post("/pipeline/dead-letters/drop", form_of(asked))

    again = operator.post("/pipeline/dead-letters/drop", form_of(asked))

    assert again.status_code == 409
    (failed,) = published.find(PipelineActionFailed, action="drop", target=str(letters[0]))
    assert "is gone" in failed.context["reason"]
