"""Events of a test, found by class and fields. A question that cannot be answered is an error, never a "no"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from towpath.outbox.event import Event


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event as it is in its outbox or in the event store."""

    outbox: str
    outbox_id: int
    event_type: str
    version: int
    at: datetime
    #: The stored text, byte for byte.
    event_context: str
    #: Who and what caused it: `actor`, `request_id`, `ip`, `target`, `outcome` and any other bound value.
    bound: Mapping[str, str]

    @property
    def context(self) -> dict[str, Any]:
        """The context's fields, as parsed from its JSON."""
        fields: dict[str, Any] = json.loads(self.event_context)
        return fields

    def __str__(self) -> str:
        return f"{self.event_type} version {self.version} {self.event_context} ({self.outbox} {self.outbox_id})"


class Events:
    """A set of events to ask. `event` narrows a question to a class, and `fields` to values.

    Give the values as they were published. They are compared in their stored form, so a `Sensitive` or `Hashed` field
    can be found by its original value.
    """

    #: How a failure calls these events.
    _verb = "published in this test"

    def __init__(self, events: Iterable[FoundEvent] = ()) -> None:
        self._events = list(events)

    def all(self) -> list[FoundEvent]:
        """Return every event, ordered by time."""
        return sorted(self._events, key=lambda one: (one.at, one.outbox, one.outbox_id))

    def find(self, event: type[Event] | None = None, /, **fields: object) -> list[FoundEvent]:
        """Return the events that match; without arguments, all. Raises TypeError for a field that the class lacks."""
        matches = _matcher(event, fields)
        return [one for one in self.all() if matches(one)]

    def one(self, event: type[Event] | None = None, /, **fields: object) -> FoundEvent:
        """Return the event that matches. Raises AssertionError, which lists all events, unless exactly one does."""
        __tracebackhide__ = True
        found = self.find(event, **fields)
        if len(found) != 1:
            raise AssertionError(self._failure(f"expected one {_described(event, fields)}, found {len(found)}"))
        return found[0]

    def none(self, event: type[Event] | None = None, /, **fields: object) -> None:
        """Raise AssertionError, which lists all events, if any event matches."""
        __tracebackhide__ = True
        found = self.find(event, **fields)
        if found:
            raise AssertionError(self._failure(f"expected no {_described(event, fields)}, found {len(found)}"))

    def _failure(self, what: str) -> str:
        there = self.all()
        if not there:
            return f"{what}. Nothing was {self._verb}."
        return "\n".join([f"{what}. What was {self._verb}:", *(f"  {one}" for one in there)])


class StoredEvents(Events):
    """The events that the test's store holds."""

    _verb = "stored"


class _Matcher:
    def __init__(self, event: type[Event] | None, stored_fields: Mapping[str, object]) -> None:
        self._event = event
        self._stored_fields = stored_fields

    def __call__(self, one: FoundEvent) -> bool:
        if self._event is None:
            return True
        if (one.event_type, one.version) != (self._event.event_type, self._event.version):
            return False
        if not self._stored_fields:
            return True
        context = one.context
        return all(name in context and context[name] == value for name, value in self._stored_fields.items())


def _matcher(event: type[Event] | None, fields: Mapping[str, object]) -> _Matcher:
    if event is None:
        if fields:
            raise TypeError(f"to ask for {', '.join(sorted(fields))}, name the event's class first")
        return _Matcher(None, {})
    if unknown := fields.keys() - event.model_fields.keys():
        known = ", ".join(event.model_fields)
        raise TypeError(f"{event.__name__} has no field {', '.join(sorted(unknown))}: its fields are {known}")
    # Neither validated nor complete: it only runs the model's own serializers, which give the stored form of the
    # values.
    partial = event.model_construct(_fields_set=set(fields), **fields)
    return _Matcher(event, partial.model_dump(mode="json", include=set(fields), warnings=False))


def _described(event: type[Event] | None, fields: Mapping[str, object]) -> str:
    name = "event" if event is None else event.__name__
    values = ", ".join(f"{field}={value!r}" for field, value in fields.items())
    return f"{name}({values})" if values else name
