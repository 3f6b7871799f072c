"""Own columns: the values of the columns that a frozen outbox adds, taken from the context as it is stored.

They come from the text and not from the event, so a column and the context never disagree: a value that is masked,
hashed or converted there is so here as well. A value that its column cannot hold is refused before any row is written,
because a refusal by PostgreSQL would end the caller's transaction.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import DecimalValidator, MaxLengthValidator, MaxValueValidator, MinValueValidator
from django.db import connection, models
from django.utils import timezone, translation
from pydantic_core import from_json, to_json, to_jsonable_python

from towpath.eventlog.columns import FromEvent, FromEventOrContext
from towpath.eventlog.values import as_text, parse
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.event import Event
from towpath.outbox.fields import AnyField

if TYPE_CHECKING:
    from towpath.eventlog.columns import Column
    from towpath.outbox.models import FrozenOutbox

#: The validators that say what the column can hold. Others are for forms.
_LIMITS = (DecimalValidator, MaxLengthValidator, MaxValueValidator, MinValueValidator)

#: PostgreSQL writes a float from here on with an exponent; Python does so a little later.
_FIRST_WITH_AN_EXPONENT = 1e15

#: Columns whose values look different in JSON, and what to use instead.
_OF_ANOTHER_FORM = {
    "BinaryField": "a TextField: JSON has no bytes, only text that represents them",
    "DurationField": "a TextField, which holds the ISO 8601 text of the context",
    "FileField": "a TextField",
}


#: PostgreSQL's types whose values are checked here. It may refuse values of others: addresses, ranges, nested arrays.
_JUDGED = re.compile(
    r"(?:varchar|text|smallint|integer|bigint|boolean|numeric|double precision|date|timestamp with time zone|time|uuid"
    r"|jsonb)(?:\(\d+(?:, \d+)?\))?(?:\[\d*\])?"
)


class _NotHeldError(Exception):
    """The column cannot hold the value. The text does not quote it, because errors go into logs."""


@functools.cache
def own_fields(outbox: type[FrozenOutbox]) -> tuple[AnyField, ...]:
    """Return the columns that publish() fills, in the order of the table."""
    return tuple(
        field for field in outbox._meta.concrete_fields if field.attname in outbox.own_columns() and not field.generated
    )


def own_values(
    outbox: type[FrozenOutbox], event: Event, context: str, *, columns: tuple[Column, ...]
) -> tuple[Any, ...]:
    """Return the values of `own_fields(outbox)`, each of which fits the event log's column of its name, too.

    Raises EventNotStorable, which names event and column.
    """
    fields = own_fields(outbox)
    if not fields:
        return ()
    keys = stored_names(type(event))
    stored = _read(context)
    values = []
    for field in fields:
        key = keys.get(field.attname, "")
        try:
            if key not in stored:
                raise _NotHeldError("the stored event has no such value")  # noqa: TRY301 - one of many
            held = _held(field, stored[key])
            _require_to_fit(field, held, columns)
            values.append(field.get_db_prep_save(held, connection))
        except (_NotHeldError, ValidationError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            reason = str(error) if isinstance(error, _NotHeldError) else "it is not of the column's type"
            raise EventNotStorable(
                f"{type(event).__name__} cannot be stored: the column {field.attname!r} of"
                f" {outbox.__name__} cannot hold its value: {reason}"
            ) from None  # which would quote the value
    return tuple(values)


def is_judged(field: AnyField) -> bool:
    """True if a value that the column cannot hold is found before PostgreSQL is asked."""
    return _JUDGED.fullmatch(field.db_type(connection) or "") is not None


@functools.cache
def stored_names(event: type[Event]) -> dict[str, str]:
    """Return the names of the event's fields, and their names in its context, without those that are left out."""
    by_alias = event.model_config.get("serialize_by_alias", False)
    fields = {
        name: field.serialization_alias
        for name, field in event.model_fields.items()
        if not field.exclude and getattr(field, "exclude_if", None) is None
    }
    computed = {name: field.alias for name, field in event.model_computed_fields.items()}
    return {name: (by_alias and alias) or name for name, alias in {**fields, **computed}.items()}


def problems_of(outbox: type[FrozenOutbox]) -> Iterator[tuple[str, str]]:
    """Yield the columns of the outbox that publish() could not fill."""
    for field in own_fields(outbox):
        if instead := _OF_ANOTHER_FORM.get(field.get_internal_type()):
            name = type(field).__name__
            yield f"its column {field.name!r} is a {name}, whose values look different in JSON", f"Use {instead}."
    names = {field.attname for field in own_fields(outbox)}
    for event in outbox.events:
        unknown = names - event.model_fields.keys() - event.model_computed_fields.keys()
        left_out = names - unknown - stored_names(event).keys()
        if unknown:
            yield (
                f"publish() could not fill its column(s) {_listed(unknown)}: {event.__name__} has no such field",
                "Give each column the name of a field that every event in `events` has, or leave this event out.",
            )
        if left_out:
            yield (
                f"publish() could not fill its column(s) {_listed(left_out)}, which {event.__name__} does not store",
                "A column holds what the context holds: remove exclude=True or exclude_if, or the column.",
            )


def _read(context: str) -> Mapping[str, Any]:
    stored: Mapping[str, Any]
    try:
        stored = from_json(context)
    except ValueError:
        stored = json.loads(context)  # nested deeper than the fast parser goes, but not than pydantic's writer does
    return stored


def _require_to_fit(field: AnyField, held: Any, columns: tuple[Column, ...]) -> None:
    """Raise an error if one of these event log columns has the field's name and cannot hold the value."""
    for column in columns:
        if (
            column.name == field.attname
            and held is not None
            and isinstance(column.source, FromEvent | FromEventOrContext)
        ):
            try:
                parse(column.kind, _in_postgresql(field, held))
            except ValueError as error:
                raise _NotHeldError(f"for the event log's column of this name, {error}") from None


def _in_postgresql(field: AnyField, held: Any) -> str:
    """Return the text of a column's value as PostgreSQL writes it when the row is loaded, as far as it matters for
    what fits."""
    if isinstance(field, models.DecimalField):
        return f"{held:.{field.decimal_places}f}"
    if isinstance(held, float) and abs(held) >= _FIRST_WITH_AN_EXPONENT:
        return f"{held:e}"
    if isinstance(held, str) and isinstance(field, models.JSONField):
        return json.dumps(held)
    return as_text(held)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _held(field: AnyField, value: Any) -> Any:
    """Return the value as the column holds it. Raises an error unless it is the same value."""
    while isinstance(field, models.ForeignKey):
        if value is None:
            break
        field = field.target_field
    if value is None:
        if not field.null:
            raise _NotHeldError("it is None, but the column does not allow NULL")
        return None
    held = _converted(field, value)
    if field.choices and held not in {choice for choice, _ in field.flatchoices}:
        raise _NotHeldError("it is not one of the column's choices")
    for validator in field.validators:
        if isinstance(validator, _LIMITS):
            try:
                validator(held)
            except ValidationError as error:
                with translation.override(None):
                    raise _NotHeldError(" ".join(error.messages).lower().rstrip(".")) from None
    return held


def _converted(field: AnyField, value: Any) -> Any:
    if field.get_internal_type() == "ArrayField":
        if not isinstance(value, list):
            raise _NotHeldError("it is not a list")
        items: AnyField = field.base_field  # type: ignore[attr-defined]
        held_items = [None if item is None else _held(items, item) for item in value]
        if held_items and all(item == [] for item in held_items):
            # psycopg 3 would write an empty array.
            raise _NotHeldError("PostgreSQL has no array of empty arrays")
        return held_items
    if isinstance(field, models.JSONField):
        return value
    if isinstance(field, models.CharField | models.TextField):
        return value if isinstance(value, str) else to_json(value).decode()
    if isinstance(value, bool) != isinstance(field, models.BooleanField) and type(field).__module__.startswith(
        "django"
    ):
        raise _NotHeldError("it is not of the column's type")
    if isinstance(field, models.DecimalField | models.FloatField | models.IntegerField):
        return _number(field, value if isinstance(value, str) else to_json(value).decode())
    held = field.to_python(value)
    if isinstance(held, datetime) and timezone.is_naive(held):
        raise _NotHeldError("it has no time zone")
    if isinstance(field, models.TimeField) and to_jsonable_python(held) != value:
        raise _NotHeldError("it has a time zone")
    return held


def _number(field: AnyField, text: str) -> Any:
    held = field.to_python(text)
    if Decimal(str(held)) != Decimal(text):
        raise _NotHeldError("it has more digits")
    return held
