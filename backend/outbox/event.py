"""An event: what happened, as a pydantic model whose compact JSON is stored byte for byte."""

from __future__ import annotations

import hmac
import json
import re
from hashlib import sha256
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from django.conf import settings
from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic_core import PydanticSerializationError

from backend.outbox.errors import EventNotStorable, EventTooLarge

T = TypeVar("T")

#: What is stored in place of a `Sensitive` value.
MASK = "***"


def _mask(value: object) -> str | None:
    return None if value is None else MASK


def _hash(value: object) -> str | None:
    if value is None:
        return None
    key = settings.EVENT_HASH_KEY or settings.SECRET_KEY
    return hmac.new(key.encode(), str(value).encode(), sha256).hexdigest()


class _Protected:
    """Marks a field whose value never reaches a table."""


#: `password: Sensitive[str]`: stored as `***`.
Sensitive = Annotated[T, _Protected(), PlainSerializer(_mask, return_type=str | None)]

#: `ip: Hashed[str]`: stored as its HMAC-SHA256 under EVENT_HASH_KEY, so that equal values can be told to be equal.
Hashed = Annotated[T, _Protected(), PlainSerializer(_hash, return_type=str | None)]


class Event(BaseModel):
    """Base of every event. Subclass it with the fields of the context.

    The event's type is the class's name in snake_case (`UserDeactivated` -> `user_deactivated`); `version` is
    stored as `metadata_version`: raise it when the fields change.
    """

    # NaN and infinity have no JSON; pydantic would store null in their place.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

    event_type: ClassVar[str] = "event"
    version: ClassVar[int] = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "event_type" not in cls.__dict__:
            cls.event_type = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @classmethod
    def protected_fields(cls) -> list[str]:
        """The fields marked `Sensitive` or `Hashed`."""
        return [
            name
            for name, field in cls.model_fields.items()
            if any(isinstance(mark, _Protected) for mark in field.metadata)
        ]


def stored_context(event: Event) -> str:
    """The text that is stored: `event.model_dump_json()`, byte for byte.

    Raises EventTooLarge, or EventNotStorable for what JSON, UTF-8 or PostgreSQL cannot hold; both name the event.
    """
    try:
        context = event.model_dump_json()
    except PydanticSerializationError as error:
        _refuse(event, f"not a JSON value, or a lone surrogate: {error}", error)
    size = len(context.encode())
    if size > settings.EVENT_CONTEXT_MAX_BYTES:
        raise EventTooLarge(
            f"{type(event).__name__} is {size:,} bytes; EVENT_CONTEXT_MAX_BYTES allows "
            f"{settings.EVENT_CONTEXT_MAX_BYTES:,}. Publish a reference to large data, or raise the setting."
        )
    # Both are looked for as text first, because nearly no event contains them and parsing each one would be dear.
    if r"\u0000" in context and re.search(r"(?<!\\)(?:\\\\)*\\u0000", context):
        _refuse(event, "it contains a NUL character, which neither PostgreSQL nor most readers take: remove it")
    if "NaN" in context or "Infinity" in context:
        try:
            json.loads(context, parse_constant=_refuse_constant)
        except ValueError as error:
            _refuse(event, f"it contains {error}, which JSON does not have: publish None instead", error)
    return context


def _refuse(event: Event, reason: str, cause: Exception | None = None) -> NoReturn:
    raise EventNotStorable(f"{type(event).__name__} cannot be stored: {reason}") from cause


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def all_events() -> dict[tuple[str, int], type[Event]]:
    """Every event class that has been imported, by type and version. Raises ValueError when two share both."""
    found: dict[tuple[str, int], type[Event]] = {}
    waiting: list[Any] = [Event]
    while waiting:
        for event in waiting.pop().__subclasses__():
            waiting.append(event)
            other = found.setdefault((event.event_type, event.version), event)
            if other is not event:
                raise ValueError(
                    f"{other.__module__}.{other.__name__} and {event.__module__}.{event.__name__} are both"
                    f" {event.event_type!r} version {event.version}: rename one, or raise its version"
                )
    return dict(sorted(found.items()))
