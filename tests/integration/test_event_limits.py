"""How large an event may be: what is larger is refused with the change that it reports."""

from __future__ import annotations

import pytest
from django.db import transaction

from tests.knobs import Knobs
from towpath import Event, publish, publish_many
from towpath.outbox.errors import EventTooLarge
from towpath.outbox.models import OutboxEvent


class Note(Event):
    """An event of the tests."""

    text: str


def test_an_event_that_is_too_large_is_refused_before_any_row_is_written(knobs: Knobs) -> None:
    knobs(event_context_max_bytes=len('{"text":""}') + 10)

    with transaction.atomic():
        publish(Note(text="x" * 10))
        # Bytes count, not characters.
        for text in ("x" * 11, "\N{SNOWMAN}" * 4):
            with pytest.raises(EventTooLarge, match="EVENT_CONTEXT_MAX_BYTES"):
                publish_many([Note(text="x"), Note(text=text)])

    assert OutboxEvent.objects.count() == 1
