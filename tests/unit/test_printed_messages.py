"""What Towpath says to a person, as `python -m tests.messages` prints it: all of it, in short sentences."""

from __future__ import annotations

import re

import pytest

from tests.messages import Message, messages
from tests.prose import RULES


@pytest.fixture(scope="module")
def printed() -> list[Message]:
    return list(messages())


@pytest.mark.parametrize(
    ("place", "kind", "text"),
    [
        ("pipeline/towpath/outbox/errors.py", "WrongDatabase", "An outbox row would be written into another database"),
        ("pipeline/towpath/flow/outboxes.py", "raise OutboxInUse", "The ledger has nothing under"),
        ("pipeline/towpath/checks.py", "Error", "Set USE_TZ = True."),
        ("pipeline/towpath/watch/standstill.py", "yield", "no {name} shift has ever run: start the dispatcher"),
        ("pipeline/towpath/lifecycle.py", "log.info", "worker_stopped_undrained"),
        ("manage.py pipeline verify", "--since", "only rows dispatched from then on"),
        ("manage.py eventlog retain", "help", "drop whole months"),
        ("settings", "WINDOW_ROWS", "A window closes at this many rows."),
        ("pipeline/towpath/console/templates", "text", "Deliver what is stuck now?"),
        ("pipeline/towpath/explorer/static", "script", "The rest cannot be counted."),
        ("deploy/prometheus/alerts.yml", "TowpathUnmeasured", "No web process serves the ledger's metrics"),
        ("docs/runbook.md", "title", "Dispatch is paused"),
        ("deploy/local/debian_package.py", "remedy", "{package} is not installed."),
        ("backend/users/use_cases.py", "EMAIL_TAKEN", "User with this email already exists"),
    ],
)
def test_messages_of_every_kind_are_printed(printed: list[Message], place: str, kind: str, text: str) -> None:
    assert any(one.place.startswith(place) and one.kind == kind and one.text.startswith(text) for one in printed)


def test_statements_and_docstrings_are_left_out(printed: list[Message]) -> None:
    shown = "\n".join(one.text for one in printed)

    assert "SELECT pg_backend_pid()" not in shown
    assert "Keep committed events in their outbox." not in shown


def test_no_sentence_of_a_message_is_too_long(printed: list[Message]) -> None:
    long = [
        f"{one.place}: {sentence}"
        for one in printed
        for sentence in re.split(r"(?<=[.!?:;])[)*_]*\s+", re.sub(r"`[^`]*`|\{[^{}]*\}", "x", one.text))
        if one.kind != "--help" and len(sentence.split()) > RULES["words_in_a_sentence"]
    ]

    assert long == []
