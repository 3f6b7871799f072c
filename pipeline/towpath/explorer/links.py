"""The position of an event as part of a URL, and back: `2026-11-25T21:42:07.318204Z/outbox_user/1234`."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

from towpath.eventlog.search import Position
from towpath.pages.zones import as_utc


def event_path(position: Position) -> str:
    """Return the event's URL relative to the explorer's: `event/<time>/<outbox>/<id>`."""
    return f"event/{place(position)}"


def place(position: Position) -> str:
    """Return the position as part of a URL: `<time>/<outbox>/<id>`, with percent-encoding."""
    return f"{as_utc(position.at)}/{quote(position.outbox, safe='')}/{position.outbox_id}"


def position(text: str) -> Position:
    """Return the position from the text of `place`, already percent-decoded. Raises ValueError for any other text."""
    at, _, rest = text.partition("/")
    outbox, _, number = rest.rpartition("/")
    moment = datetime.fromisoformat(at)
    if not number.isascii() or not number.isdigit() or moment.tzinfo is None:
        raise ValueError("it is not the place of an event")
    return Position(moment, outbox, int(number))
