"""Commands for somebody who looks on: `status --watch`, `tail`; and the examples in every help."""

from __future__ import annotations

import json
import shlex
import threading
from typing import TYPE_CHECKING

import pytest
from django.core.management import load_command_class
from django.db import connection

from tests.integration.manage import here
from tests.integration.rows import write_events
from tests.integration.windows import deliver, sealed
from towpath.ledger.models import DeadLetter
from towpath.management.examples import PIPELINE

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore


def test_the_status_is_shown_again_and_again() -> None:
    done = here("pipeline", "status", "--watch", "--looks", "2")

    assert done.returncode == 0
    assert done.stdout.count("problem(s)") == 2
    assert done.stdout.count("! no worker consumes the queue towpath.dispatch") == 2
    assert "\x1b" not in done.stdout


def test_the_tail_shows_each_window_once_as_it_finishes(store: EventStore) -> None:
    write_events(["{}"] * 2)
    deliver(sealed(), store)
    is_seen = threading.Event()

    def publish() -> None:
        while not is_seen.is_set():
            write_events(["{}"])
            deliver(sealed(), store)
        connection.close()

    writer = threading.Thread(target=publish)
    writer.start()
    done = here("pipeline", "tail", "--json", "--windows", "5")
    is_seen.set()
    writer.join()

    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [window["delivered"] for window in shown] == [{"outbox_event": 1}] * 5
    assert len({window["window"] for window in shown}) == 5


def test_no_dead_letters_is_said() -> None:
    done = here("pipeline", "deadletters", "list")

    assert (done.returncode, done.stdout) == (0, "no dead letters\n")
    assert here("pipeline", "deadletters", "list", "--json").stdout.strip() == "[]"


def test_a_filter_that_finds_nothing_is_not_the_answer_for_all(letters: list[int]) -> None:
    assert letters
    assert here("pipeline", "deadletters", "list", "--error", "other").stdout == "no dead letter matches\n"

    done = here("pipeline", "deadletters", "list", "--outbox", "outbox_evnet")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No outbox, and no dead letter, has the name outbox_evnet" in done.stderr


def test_an_error_is_one_line_and_moves_no_cursor(letters: list[int]) -> None:
    DeadLetter.objects.filter(id=letters[0]).update(error="a\x1b[2K\nno dead letters")

    shown = here("pipeline", "deadletters", "list").stdout

    assert len(shown.splitlines()) == len(letters)
    assert "\x1b" not in shown


def test_a_screen_is_not_json() -> None:
    assert here("pipeline", "status", "--watch", "--json", "--looks", "1").returncode == 2


@pytest.mark.parametrize("action", PIPELINE)
def test_every_action_has_examples_that_are_understood(action: str) -> None:
    command = load_command_class("towpath", "pipeline")
    parser = command.create_parser("manage.py", "pipeline")

    for example in PIPELINE[action]:
        assert parser.parse_args(shlex.split(example)).action == action
