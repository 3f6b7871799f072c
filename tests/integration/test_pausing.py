"""Dispatch that a person pauses: rows wait, everybody sees why, and nothing is lost."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.dispatching import EVENT, USER, Sent, make_dispatcher
from tests.integration.manage import here, status
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, sealed
from towpath.errors import NotPausable
from towpath.events import DispatchPaused, DispatchResumed, PipelineActionFailed
from towpath.flow.pausing import pause_dispatch, resume_dispatch
from towpath.ledger import pauses
from towpath.ledger.pauses import EVERY_OUTBOX
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore
    from towpath.testing.published import Published


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_a_paused_outbox_waits_and_the_others_do_not(sent: Sent) -> None:
    dispatcher = make_dispatcher(sent)
    pause_dispatch(EVENT, by="ada", reason="repairing a column")
    write_events(["{}"] * 3)
    users = create_users(2)

    dispatcher.look()

    assert (sent.ids(EVENT), len(sent.ids(USER))) == ([], len(users))


def test_a_pause_of_all_holds_from_the_next_look_and_resuming_brings_every_row(sent: Sent) -> None:
    dispatcher = make_dispatcher(sent)
    ids = write_events(["{}"] * 3)
    dispatcher.look()
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="the store moves")
    later = write_events(["{}"] * 3)
    assert dispatcher.look() is False
    assert dispatcher.look() is False
    assert sent.ids(EVENT) == ids

    resume_dispatch(EVERY_OUTBOX, by="ada")
    dispatcher.look()

    # With the events of the pause itself.
    assert set(ids + later) < set(sent.ids(EVENT))
    assert not OutboxEvent.objects.exclude(id__in=sent.ids(EVENT)).exists()


def test_what_is_dispatched_already_is_delivered(store: EventStore) -> None:
    ids = write_events(["{}"] * 3)
    window = sealed()
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="the store moves")

    deliver(window, store)

    assert not OutboxEvent.objects.filter(id__in=ids).exists()


def test_pausing_and_resuming_twice_changes_nothing(published: Published) -> None:
    assert pause_dispatch(EVENT, by="ada", reason="repair") is True
    assert pause_dispatch(EVENT, by="eve", reason="mine") is False
    assert [pause["by"] for pause in status()["pauses"]] == ["ada"]
    assert resume_dispatch(EVENT, by="eve") == [EVENT]
    assert resume_dispatch(EVENT, by="eve") == []

    assert len(published.find(DispatchPaused, outbox=EVENT, reason="repair", paused_by="ada")) == 1
    assert len(published.find(DispatchResumed, outbox=EVENT, resumed_by="eve")) == 1
    assert len(published.all()) == 2


def test_resuming_all_ends_each_pause() -> None:
    pause_dispatch(EVENT, by="ada", reason="repair")
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="repair")

    assert resume_dispatch(EVERY_OUTBOX, by="ada") == [EVERY_OUTBOX, EVENT]


def test_one_outbox_cannot_be_resumed_while_all_are_paused() -> None:
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="repair")

    with pytest.raises(NotPausable, match="resume all"):
        resume_dispatch(EVENT, by="ada")


@pytest.mark.parametrize(
    ("outbox", "reason", "says"),
    [
        ("outbox_none", "repair", "No outbox class"),
        (EVENT, "  ", "Say why"),
        (EVENT, "x" * 301, "300 characters"),
        (EVENT, "a\x1b[2Kb", "control"),
    ],
)
def test_what_cannot_be_paused_is_said(outbox: str, reason: str, says: str) -> None:
    with pytest.raises(NotPausable, match=says):
        pause_dispatch(outbox, by="ada", reason=reason)


def test_a_reason_is_one_line_wherever_it_is_read() -> None:
    pause_dispatch(EVENT, by="ada", reason="repair\n! all is well")
    pauses.insert(USER, by="eve", reason="\x1b[1A\x1b[2K")  # as an earlier version let it in

    shown = here("pipeline", "status").stdout

    assert "(repair ! all is well): events wait" in shown
    assert "\x1b" not in shown


def test_the_command_says_that_all_are_still_paused() -> None:
    for outbox in (EVENT, EVERY_OUTBOX):
        pause_dispatch(outbox, by="ada", reason="repair")

    done = here("pipeline", "resume", EVENT)

    assert done.stdout == f"the pause of {EVENT} has ended, but dispatch of all outboxes is still paused\n"


def test_the_status_names_who_paused_and_how_to_end_it() -> None:
    pause_dispatch(EVENT, by="ada", reason="repairing a column")

    (problem,) = [problem for problem in status()["problems"] if "paused" in problem]

    assert re.match(r"dispatch of outbox_event was paused \d s ago by ada \(repairing a column\)", problem)
    assert problem.endswith("`python manage.py pipeline resume outbox_event`")


def test_the_commands_pause_and_resume() -> None:
    assert here("pipeline", "pause", "--reason", "repair").stdout == "dispatch of all outboxes is paused\n"
    assert json.loads(here("pipeline", "pause", "--reason", "again", "--json").stdout)["paused"] is False
    assert here("pipeline", "resume").stdout == "dispatch of all outboxes has resumed\n"
    assert here("pipeline", "resume").stdout == "nothing was paused\n"
    assert here("pipeline", "pause").returncode == 2


def test_an_attempt_that_fails_is_an_event(published: Published) -> None:
    done = here("pipeline", "pause", "outbox_none", "--reason", "repair")

    assert done.returncode == 1
    assert len(published.find(PipelineActionFailed, action="pause", target="outbox_none")) == 1
