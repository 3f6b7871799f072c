"""An event: what happened, as a pydantic model whose compact JSON is stored byte for byte."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from towpath.conf.current import hash_key
from towpath.outbox.errors import EventNotStorable, EventTooLarge

T = TypeVar("T")

#: How an action ended: done, not done because of an error, or not allowed.
Outcome = Literal["success", "failure", "denied"]

#: What an event says about itself, whatever its fields are.
_NOT_FIELDS = frozenset({"event_type", "version", "event_outcome", "event_target"})

#: What is stored in place of a `Sensitive` value.
MASK = "***"


def _mask(value: object) -> str | None:
    return None if value is None else MASK


def hashed(value: object) -> str:
    """Return what is stored in place of a `Hashed` value: its HMAC-SHA256 under EVENT_HASH_KEY, 64 hex digits."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        value = value.get_secret_value()  # as text, all of them are the same asterisks
    return hmac.new(hash_key().encode(), str(value).encode(), sha256).hexdigest()


def _hash(value: object) -> str | None:
    return None if value is None else hashed(value)


@dataclass(frozen=True, slots=True)
class _Protected:
    """Marks a field whose value never reaches a table. `how` says what is stored instead."""

    how: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "protected": self.how}


#: `password: Sensitive[str]`: stored as `***`.
Sensitive = Annotated[T, PlainSerializer(_mask, return_type=str | None), _Protected("masked")]

#: `ip: Hashed[str]`: stored as its HMAC-SHA256 under EVENT_HASH_KEY, so that equal values can be found.
Hashed = Annotated[T, PlainSerializer(_hash, return_type=str | None), _Protected("hashed")]


class Event(BaseModel):
    """Base of every event: an immutable pydantic model, whose fields are what the event log stores as its context.

    Subclass it, and declare the fields:

        class UserCreated(Event):
            email: str

    Class attributes:
      event_type: the type in the event log. Default: the class's name in snake_case, such as `user_created`.
      version: stored as `metadata_version`. Raise it when the fields change.
      event_outcome: fills the column `outcome`, and is not in the context.

    Override the property `event_target` to fill the column `target`; it is not in the context either.
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
        """What was acted on, such as `user:7`. None: what is given to `publish`, or bound, fills the column."""
        return None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "event_type" not in cls.__dict__:
            cls.event_type = _type_of(cls)
        if taken := _NOT_FIELDS & cls.model_fields.keys():
            raise TypeError(
                f"{cls.__name__}: a field cannot be called {' or '.join(sorted(taken))}, because every event has that:"
                " it would be stored as metadata, or hide it. Give the field another name."
            )
        if not (isinstance(cls.event_type, str) and cls.event_type):
            raise TypeError(f"{cls.__name__}.event_type must be a text that is not empty.")
        if type(cls.version) is not int:
            raise TypeError(f"{cls.__name__}.version must be a whole number.")
        for name in ("event_target", "event_outcome"):
            # A method's text would be stored, with all values of the event in it.
            if callable(getattr(cls, name)):
                raise TypeError(f"{cls.__name__}.{name} is a method: write @property above it.")

    @classmethod
    def protected_fields(cls) -> list[str]:
        """Return the names of the fields with a value that is marked `Sensitive` or `Hashed`."""
        return [name for name, field in cls.model_fields.items() if _is_protected(field)]

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # What is masked in the event log is not shown in logs and reports of errors either.
        protected = self.protected_fields()
        for name, value in super().__repr_args__():
            yield name, _Masked() if name in protected else value


def _is_protected(field: FieldInfo, *, within: frozenset[type] = frozenset()) -> bool:
    """True if the field has a protected value: it is one, or an optional one, or has one in a collection or model."""
    kinds: list[Any] = [*field.metadata, field.annotation]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, _Protected):
            return True
        kinds += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in within:
            inner = within | {kind}
            if any(_is_protected(one, within=inner) for one in kind.model_fields.values()):
                return True
    return False


class _Masked:
    """What `repr` shows of a protected value."""

    def __repr__(self) -> str:
        return MASK


def _type_of(event: type[Event]) -> str:
    """Return the type of a class that does not give one."""
    # `Changed[int]` is a class of its own, but the same event, if `Changed` says which.
    generic: Any = event.__pydantic_generic_metadata__["origin"]
    if generic is not None and generic.event_type != _in_snake_case(generic.__name__):
        return str(generic.event_type)
    return _in_snake_case(event.__name__)


def _in_snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def stored_context(event: Event, *, most_bytes: int) -> str:
    """Return the text that is stored: `event.model_dump_json()`, byte for byte.

    Raises EventTooLarge above `most_bytes`, or EventNotStorable for values that JSON, UTF-8 or PostgreSQL cannot
    hold. Both name the event.
    """
    try:
        context = event.model_dump_json()
    except ValueError as error:  # pydantic's own error is one, and so is what it raises for a circular reference
        _refuse(event, f"not a JSON value, or a lone surrogate: {error}", error)
    size = len(context.encode())
    if size > most_bytes:
        raise EventTooLarge(
            f"{type(event).__name__} is {size:,} bytes; EVENT_CONTEXT_MAX_BYTES allows {most_bytes:,}. Publish a"
            " reference to large data, or raise the setting."
        )
    # Both are first looked for as text: hardly any event contains them, and parsing each one is expensive.
    if r"\u0000" in context and re.search(r"(?<!\\)(?:\\\\)*\\u0000", context):
        _refuse(event, "it contains a NUL character, which neither PostgreSQL nor most readers accept: remove it")
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
