"""Context: who and what an event was caused by, bound once and published with every event.

    with bind(actor="user:7", request_id=..., ip=...):
        publish(...)

The values are fixed at publish, with the event; columns of the OBT are filled from them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextvars import ContextVar

#: As JSON, because that is what each row takes: many events are published under one context.
_bound: ContextVar[str | None] = ContextVar("event_context", default=None)


@contextlib.contextmanager
def bind(**values: str | int | None) -> Iterator[None]:
    """While inside, also in threads and tasks that copy this context, events carry these values; None removes one.

    Raises ValueError, which names the value, for text that PostgreSQL cannot hold.
    """
    for name, value in values.items():
        _check_storable(name, value)
    merged: dict[str, str | int | None] = {**(bound() or {}), **values}
    kept = {name: str(value) for name, value in merged.items() if value is not None}
    token = _bound.set(json.dumps(kept) if kept else None)
    try:
        yield
    finally:
        _bound.reset(token)


def bound() -> dict[str, str] | None:
    """What is bound here and now; None when nothing is."""
    text = _bound.get()
    if text is None:
        return None
    values: dict[str, str] = json.loads(text)
    return values


def bound_json() -> str | None:
    """What is bound, as the JSON that a row takes."""
    return _bound.get()


def _check_storable(name: str, value: object) -> None:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"bind({name}=...) contains a lone surrogate: bind text that is valid Unicode") from error
    if "\x00" in text:
        raise ValueError(f"bind({name}=...) contains a NUL character: remove it")
