"""Context: who and what an event was caused by, bound once and published with every event.

    with bind(actor="user:7", request_id=..., ip=...):
        publish(...)

The values are fixed at publish, with the event; columns of the OBT are filled from them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from towpath.conf.current import config
from towpath.eventlog.columns import OUTCOMES, FromContext, FromEventOrContext
from towpath.eventlog.values import as_text, parse

_Value = str | int | float | Decimal | datetime | UUID
#: What may be bound; a function is asked for the value when something is published, and may answer None.
Bindable = _Value | Callable[[], _Value | None] | None

#: All that is bound takes as many bytes of each row, at most.
MOST_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class _Bound:
    values: Mapping[str, str]
    asked: Mapping[str, Callable[[], _Value | None]]
    #: `values` as JSON, because that is what each row takes: many events are published under one context.
    text: str


_bound: ContextVar[_Bound | None] = ContextVar("event_context", default=None)


@contextlib.contextmanager
def bind(**values: Bindable) -> Iterator[None]:
    """While inside, also in threads and tasks that copy this context, events carry these values; None removes one.

    Raises ValueError, which names the value, for text that PostgreSQL cannot hold or that is too large, for what does
    not fit into a column of the event log that is filled from it, and for another `outcome` than success, failure or
    denied.
    """
    token = _bound.set(_with(values))
    try:
        yield
    finally:
        # In a generator that is closed elsewhere than where it began, there is nothing to give back.
        with contextlib.suppress(ValueError):
            _bound.reset(token)


def bind_for_good(**values: Bindable) -> None:
    """As `bind`, for as long as the context itself lives: for a copy of a context, which nobody leaves."""
    _bound.set(_with(values))


def _with(values: Mapping[str, Bindable]) -> _Bound | None:
    outer = _bound.get()
    kept = dict(outer.values) if outer else {}
    asked = dict(outer.asked) if outer else {}
    for name, value in values.items():
        kept.pop(name, None)
        asked.pop(name, None)
        if callable(value):
            asked[name] = value
        elif value is not None:
            kept[name] = _storable(name, value)
    return _Bound(kept, asked, _json(kept)) if kept or asked else None


def bound() -> dict[str, str] | None:
    """What is bound here and now; None when nothing is."""
    here = _bound.get()
    if here is None:
        return None
    answers = {name: ask() for name, ask in here.asked.items()}
    answered = {name: _storable(name, answer) for name, answer in answers.items() if answer is not None}
    return {**here.values, **answered} or None


def bound_json(**given: _Value | None) -> str | None:
    """What is bound, as the JSON that a row takes; what is given besides wins."""
    said = {name: _storable(name, value) for name, value in given.items() if value is not None}
    if said:
        return _json({**(bound() or {}), **said})
    here = _bound.get()
    if here is None:
        return None
    if not here.asked:
        return here.text
    values = bound()
    return None if values is None else _json(values)


def _json(values: Mapping[str, str]) -> str:
    # Not as escapes, which PostgreSQL takes for characters of its own encoding only.
    text = json.dumps(values, ensure_ascii=False)
    if len(text.encode()) > MOST_BYTES:
        largest = max(values, key=lambda name: len(values[name]))
        raise ValueError(
            f"bind() has bound more than {MOST_BYTES:,} bytes, most of them as {largest!r}: bind a reference to it"
        )
    return text


def _storable(name: str, value: object) -> str:
    text = as_text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Without the cause, which shows the value.
        raise ValueError(f"bind({name}=...) contains a lone surrogate: bind text that is valid Unicode") from None
    if "\x00" in text:
        raise ValueError(f"bind({name}=...) contains a NUL character: remove it")
    if name == "outcome" and text not in OUTCOMES:
        raise ValueError(f"bind(outcome=...) is none of {', '.join(OUTCOMES)}")
    for column in config().columns:
        match column.source:
            case FromContext(key) | FromEventOrContext(key) if key == name:
                try:
                    parse(column.kind, text)
                except ValueError as error:
                    raise ValueError(
                        f"bind({name}=...) does not fit into the event log's column {column.name!r}: {error}"
                    ) from None
    return text
