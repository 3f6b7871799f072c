"""An event: what happened, as a pydantic model whose compact JSON is stored byte for byte."""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema

from towpath.conf.current import config, hash_key
from towpath.outbox.errors import EventNotStorable, EventTooLarge

T = TypeVar("T")

#: How what was tried ended: done, not done because of an error, or not allowed.
Outcome = Literal["success", "failure", "denied"]

#: What is stored in place of a `Sensitive` value.
MASK = "***"


def _mask(value: object) -> str | None:
    return None if value is None else MASK


def _hash(value: object) -> str | None:
    if value is None:
        return None
    key = hash_key()
    return hmac.new(key.encode(), str(value).encode(), sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class _Protected:
    """Marks a field whose value never reaches a table: `how` says what is stored instead."""

    how: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "protected": self.how}


#: `password: Sensitive[str]`: stored as `***`.
Sensitive = Annotated[T, PlainSerializer(_mask, return_type=str | None), _Protected("masked")]

#: `ip: Hashed[str]`: stored as its HMAC-SHA256 under EVENT_HASH_KEY, so that equal values can be told to be equal.
Hashed = Annotated[T, PlainSerializer(_hash, return_type=str | None), _Protected("hashed")]


class Event(BaseModel):
    """Base of every event. Subclass it with the fields of the context.

    The event's type is the class's name in snake_case (`UserDeactivated` -> `user_deactivated`); `version` is
    stored as `metadata_version`: raise it when the fields change. `event_outcome` and `event_target` fill the columns
    `outcome` and `target`; they are not in the context.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # NaN and infinity have no JSON; pydantic would store null in their place.
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        # An error's text goes into logs; what the event says does not.
        hide_input_in_errors=True,
    )

    event_type: ClassVar[str] = "event"
    version: ClassVar[int] = 1
    event_outcome: ClassVar[Outcome | None] = None

    @property
    def event_target(self) -> str | None:
        """What was acted on, such as `user:7`. None: whoever publishes the event says it, or nobody does."""
        return None

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
    except ValueError as error:  # pydantic's own error is one, and so is what it raises for a circular reference
        _refuse(event, f"not a JSON value, or a lone surrogate: {error}", error)
    size = len(context.encode())
    if size > config().event_context_max_bytes:
        raise EventTooLarge(
            f"{type(event).__name__} is {size:,} bytes; EVENT_CONTEXT_MAX_BYTES allows "
            f"{config().event_context_max_bytes:,}. Publish a reference to large data, or raise the setting."
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
