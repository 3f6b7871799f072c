"""Context: who and what an event was caused by, bound once and published with every event.

    with bind(actor="user:7", request_id=..., ip=...):
        publish(...)

The values are fixed at publish, with the event; columns of the OBT are filled from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType

_bound: ContextVar[Mapping[str, str]] = ContextVar("event_context", default=MappingProxyType({}))


@contextlib.contextmanager
def bind(**values: str | int | None) -> Iterator[None]:
    """While inside, also in threads and tasks that copy this context, events carry these values; None removes one."""
    merged: dict[str, str | int | None] = {**_bound.get(), **values}
    token = _bound.set({name: str(value) for name, value in merged.items() if value is not None})
    try:
        yield
    finally:
        _bound.reset(token)


def bound() -> dict[str, str] | None:
    """What is bound here and now; None when nothing is."""
    return dict(_bound.get()) or None
