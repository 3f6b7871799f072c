"""Context: who and what caused an event, bound once and published with every event.

    with bind(actor="user:7", request_id=..., ip=...):
        publish(...)

The values are fixed when the event is published. They fill columns of the event log.
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
#: What may be bound. A function is called for the value when something is published, and may return None.
Bindable = _Value | Callable[[], _Value | None] | None

#: The most bytes that all bound values may take in each row.
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
    """Give every event that is published inside these values, including in threads and tasks that copy this context.

        with bind(actor=f"user:{user.pk}", request_id=request_id):
            publish(...)

    `actor`, `request_id`, `ip`, `target` and `outcome` fill the event log's columns of these names. So do the keys of
    the project's own columns. None removes a value that is bound outside. A function is called when an event is
    published.

    Raises ValueError, which names the value: text that PostgreSQL cannot hold; more than MOST_BYTES bytes in all; a
    value that does not fit its column of the event log; an `outcome` that is not success, failure or denied.
    """
    token = _bound.set(_with(values))
    try:
        yield
    finally:
        # A generator may be closed in another context than it began in: then there is nothing to give back.
        with contextlib.suppress(ValueError):
            _bound.reset(token)


def bind_for_good(**values: Bindable) -> None:
    """Bind values for as long as the context itself lives: for a copy of a context, which nothing leaves."""
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
    """Return the values that are bound now; None if there are none. Raises ValueError if functions make them too
    large."""
    here = _bound.get()
    if here is None:
        return None
    values = _answered(here)
    if here.asked and values:
        _json(values)  # what functions answer was not judged when they were bound
    return values


def _answered(here: _Bound) -> dict[str, str] | None:
    answers = {name: ask() for name, ask in here.asked.items()}
    answered = {name: _storable(name, answer) for name, answer in answers.items() if answer is not None}
    return {**here.values, **answered} or None


def bound_json(**given: _Value | None) -> str | None:
    """Return the bound values as a row's JSON. Values that are given here win."""
    said = {name: _storable(name, value) for name, value in given.items() if value is not None}
    here = _bound.get()
    if said:
        return _json({**((_answered(here) if here else None) or {}), **said})
    if here is None:
        return None
    if not here.asked:
        return here.text
    values = _answered(here)
    return None if values is None else _json(values)


def _json(values: Mapping[str, str]) -> str:
    # Without escapes: PostgreSQL accepts those only for characters of its own encoding.
    text = json.dumps(values, ensure_ascii=False)
    if len(text.encode()) > MOST_BYTES:
        largest = max(values, key=lambda name: len(values[name]))
        raise ValueError(
            f"bind() has bound more than {MOST_BYTES:,} bytes, most of them in {largest!r}: bind a reference instead"
        )
    return text


def _storable(name: str, value: object) -> str:
    if callable(value):
        raise ValueError(f"bind({name}=...) is a function where a value is expected: call it")  # noqa: TRY004 - as below
    text = as_text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Without the cause, which shows the value.
        raise ValueError(f"bind({name}=...) contains a lone surrogate: bind text that is valid Unicode") from None
    if "\x00" in text:
        raise ValueError(f"bind({name}=...) contains a NUL character: remove it")
    if name == "outcome" and text not in OUTCOMES:
        raise ValueError(f"bind(outcome=...) must be one of {', '.join(OUTCOMES)}")
    for column in config().columns:
        match column.source:
            case FromContext(key) | FromEventOrContext(key) if key == name:
                try:
                    parse(column.kind, text)
                except ValueError as error:
                    raise ValueError(
                        f"bind({name}=...) does not fit the event log's column {column.name!r}: {error}"
                    ) from None
    return text
