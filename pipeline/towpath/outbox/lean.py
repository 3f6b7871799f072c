"""The context of a lean outbox's event: compiled to SQL, and byte for byte what pydantic would dump.

PostgreSQL writes some values differently from pydantic (numbers with a fraction), and cannot run a model's validators
and serializers. `problems_of` refuses such events, so nothing is ever stored differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any, cast

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models import Case, F, Func, TextField, Value, When
from django.db.models.expressions import Col
from django.db.models.functions import Cast, Coalesce
from django.db.models.lookups import Exact, IsNull
from django.db.models.sql.where import WhereNode

from towpath.outbox.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from django.db.models.expressions import Combinable

#: The types that both write in the same way, each with the database fields that hold its values.
_FIELDS_BY_TYPE = {
    "str": ("CharField", "TextField", "SlugField"),
    "int": (
        "AutoField",
        "BigAutoField",
        "SmallAutoField",
        "IntegerField",
        "BigIntegerField",
        "SmallIntegerField",
        "PositiveIntegerField",
        "PositiveBigIntegerField",
        "PositiveSmallIntegerField",
    ),
    "bool": ("BooleanField",),
    "date": ("DateField",),
    "datetime": ("DateTimeField",),
    "uuid": ("UUIDField",),
}
_SUPPORTED = "str, int, bool, date, datetime, UUID, and each of them with `| None`"

#: The fields whose values, as PostgreSQL's text, can name a thing.
_OF_A_TARGET = (*_FIELDS_BY_TYPE["str"], *_FIELDS_BY_TYPE["int"], *_FIELDS_BY_TYPE["uuid"])

#: What pydantic's schema of a value may have besides its type: limits, which do not change how it is written.
_LIMITS = {
    "type",
    "metadata",
    "strict",
    "max_length",
    "min_length",
    "pattern",
    "regex_engine",
    "ge",
    "gt",
    "le",
    "lt",
    "multiple_of",
    "microseconds_precision",
    "tz_constraint",
    "version",
}


def context_json(event: type[Event], paths: Mapping[str, str]) -> Combinable:
    """Return the SQL for the JSON object of the event's fields, in their order, each read through its path.

    It is NULL if a row on a path cannot be seen, or holds NULL where the event does not allow None: null in place of a
    value would be a different event.
    """
    parts: list[Combinable] = [_text("{")]
    is_unreadable: list[When] = []
    for position, (name, kind) in enumerate(_kinds(event).items()):
        path = paths[name]
        value = _time_text(path) if kind is not None and kind.type == "datetime" else F(path)
        parts.append(_text(f'{"," if position else ""}"{name}":'))
        parts.append(Coalesce(Cast(Func(value, function="to_json"), TextField()), Value("null")))
        is_nullable = kind is not None and kind.is_nullable
        condition = _LeadsNowhere(path) if is_nullable else IsNull(F(path), True)
        is_unreadable.append(When(condition, then=Value(None)))
    text = Func(*parts, _text("}"), function="CONCAT", output_field=TextField())
    return Case(*is_unreadable, default=text, output_field=TextField()) if is_unreadable else text


def target_text(template: str, *, to_path: Callable[[str], str] = str) -> Combinable:
    """Return the SQL for a template such as "user:{user_id}". Each name in braces is a path, which `to_path` may
    change."""
    parts: list[Combinable] = []
    for literal, path in _parts(template):
        parts += [_text(literal), *([Cast(F(to_path(path)), TextField())] if path else [])]
    return Func(*parts, function="CONCAT", output_field=TextField())


def target_paths(template: str) -> list[str]:
    """Return the paths of a template."""
    return [path for _, path in _parts(template) if path]


def target_problems(outbox: type[models.Model], template: object) -> Iterator[tuple[str, str]]:
    """Yield what would keep `event_target` from naming one thing, and how to fix it."""
    try:
        parts = _parts(template) if isinstance(template, str) else []
    except ValueError:
        parts = []
    paths = [path for _, path in parts if path]
    if not paths:
        yield f"event_target {template!r} has no path in braces", 'Write it as in "user:{user_id}".'
        return
    for path in paths:
        for problem in _path_problems(outbox, path, _OF_A_TARGET, is_nullable=False):
            yield f"event_target: {problem[0]}", problem[1]


def _text(literal: str) -> Combinable:
    """Return a piece of a CONCAT, which takes any type: a server that puts in the parameters must be told the type."""
    return Cast(Value(literal), TextField())


def _parts(template: str) -> list[tuple[str, str]]:
    """Yield each literal text with the path that follows it, or an empty one. Raises ValueError for a lone brace."""
    return [(literal, path or "") for literal, path, *_ in Formatter().parse(template)]


def octets(text: Combinable) -> Combinable:
    """The bytes of a text."""
    return Func(text, function="octet_length", output_field=models.BigIntegerField())


def text_bytes(event: type[Event], paths: Mapping[str, str]) -> Combinable:
    """The bytes of all texts that the context is made of."""
    total: Combinable = Value(0, output_field=models.BigIntegerField())
    for name, kind in _kinds(event).items():
        if kind is not None and kind.type == "str":
            total += Coalesce(octets(F(paths[name])), 0)
    return total


class _LeadsNowhere(F):
    """True if a foreign key on the path has a value, but the row that it names cannot be seen."""

    conditional = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def resolve_expression(
        self,
        query: Any = None,
        allow_joins: bool = True,  # noqa: FBT001, FBT002, ARG002 - Django's signature
        reuse: set[str] | None = None,
        summarize: bool = False,  # noqa: FBT001, FBT002, ARG002 - the same
        for_save: bool = False,  # noqa: FBT001, FBT002, ARG002 - the same
    ) -> Any:
        # Joins the tables as Query.resolve_ref does for F(path), which offers no way to name the key of one of them.
        names = self.path.split("__")
        found = query.setup_joins(names, query.get_meta(), query.get_initial_alias(), can_reuse=reuse)
        _, _, aliases = query.trim_joins(found.targets, found.joins, found.path)
        is_missing: list[Any] = []
        for alias in aliases[1:]:
            join = query.alias_map[alias]
            points, is_found = Col(join.parent_alias, join.join_field), Col(alias, join.join_field.target_field)
            is_missing.append(WhereNode(cast("Any", [IsNull(points, False), IsNull(is_found, True)])))
        return WhereNode(is_missing or cast("Any", [Exact(Value(1), Value(0))]), connector="OR")


def _time_text(path: str) -> Combinable:
    """Return the SQL for a time as pydantic writes it: in UTC, with six digits of microseconds, or none if they are
    zero."""
    whole = Func(Value("second"), F(path), function="date_trunc", output_field=models.DateTimeField())
    form = Case(
        When(Exact(F(path), whole), then=Value('YYYY-MM-DD"T"HH24:MI:SS"Z"')),
        default=Value('YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        output_field=TextField(),
    )
    in_utc = Func(Value("UTC"), F(path), function="timezone", output_field=models.DateTimeField())
    return Func(in_utc, form, function="to_char", output_field=TextField())


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of `_FIELDS_BY_TYPE`, and whether None is one of the field's values."""

    type: str
    is_nullable: bool


def _kinds(event: type[Event]) -> dict[str, _Kind | None]:
    """Return the kind of each field; None if PostgreSQL may write the value differently from pydantic."""
    fields = event.__pydantic_core_schema__["schema"]["fields"]
    return {name: _kind(fields[name]["schema"]) for name in event.model_fields}


def _kind(schema: Mapping[str, Any], *, is_nullable: bool = False) -> _Kind | None:
    # Everything that is not known to be harmless is refused: validators and serializers come in many forms.
    if schema["type"] in {"default", "nullable"} and "serialization" not in schema:
        return _kind(schema["schema"], is_nullable=is_nullable or schema["type"] == "nullable")
    if schema["type"] not in _FIELDS_BY_TYPE or not schema.keys() <= _LIMITS:
        return None
    return _Kind(schema["type"], is_nullable)


def problems_of(outbox: type[models.Model], event: type[Event], paths: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what would make the stored context differ from the event's `model_dump_json()`, and how to fix it."""
    if event.event_target is not Event.event_target or isinstance(event.event_outcome, property):
        yield (
            f"{event.__name__} computes its event_target or event_outcome, but PostgreSQL builds the event",
            'Write the outcome as a value, and the target in the outbox, as in event_target = "user:{user_id}".',
        )
    if (beyond := _beyond_sql(event)) is not None:
        yield beyond
        return
    if paths.keys() != event.model_fields.keys():
        names = ", ".join(sorted(paths.keys() ^ event.model_fields.keys()))
        yield (
            f"event_context and the fields of {event.__name__} differ in {names}",
            "Give a path for each field of the event, and for nothing else.",
        )
        return
    for name, kind in _kinds(event).items():
        if kind is None:
            yield (
                f"{event.__name__}.{name} has a type that PostgreSQL may write differently from pydantic",
                f"Use one of {_SUPPORTED}, without validators; or publish it through a FrozenOutbox.",
            )
            continue
        for problem in _path_problems(outbox, paths[name], _FIELDS_BY_TYPE[kind.type], is_nullable=kind.is_nullable):
            yield f"event_context[{name!r}]: {problem[0]}", problem[1]


def _beyond_sql(event: type[Event]) -> tuple[str, str] | None:
    """Return what pydantic does with values of the event and PostgreSQL cannot, and what to do instead."""
    if names := event.protected_fields():
        return (
            f"{event.__name__} masks or hashes {', '.join(names)}, which SQL cannot do",
            "Publish it through a FrozenOutbox, or leave the field out.",
        )
    if _is_customised(event):
        return (
            f"{event.__name__} has validators, serializers, computed fields or a model_config of its own",
            "Publish it through a FrozenOutbox: PostgreSQL writes the context of a lean outbox, and runs none of them.",
        )
    fields = event.model_fields.items()
    if left_out := [name for name, field in fields if field.exclude or getattr(field, "exclude_if", None)]:
        return (
            f"{event.__name__} does not store {', '.join(left_out)} (exclude), but PostgreSQL would",
            "Remove the field from the event, or publish it through a FrozenOutbox.",
        )
    return None


def time_problems(outbox: type[models.Model], path: str) -> Iterator[tuple[str, str]]:
    """Yield what would keep `event_date_time` from being the time of the event, and how to fix it."""
    for problem in _path_problems(outbox, path, _FIELDS_BY_TYPE["datetime"], is_nullable=False):
        yield f"event_date_time: {problem[0]}", problem[1]
        return
    field = _follow(outbox, path)[0]
    if getattr(field, "auto_now", False):
        yield (
            f"event_date_time: {path!r} changes with every save (auto_now)",
            "Use a field that keeps the time of the event, such as one with auto_now_add, or add one to the outbox.",
        )


def _is_customised(event: type[Event]) -> bool:
    """True if the event is more than fields with the base's configuration."""
    schema: Mapping[str, Any] = event.__pydantic_core_schema__
    if schema["type"] != "model" or "serialization" in schema or schema["schema"]["type"] != "model-fields":
        return True
    config = {name: value for name, value in schema.get("config", {}).items() if name != "title"}
    base = {name: value for name, value in Event.__pydantic_core_schema__["config"].items() if name != "title"}
    return bool(schema["schema"].get("computed_fields")) or config != base


def _path_problems(
    outbox: type[models.Model], path: object, wanted: tuple[str, ...], *, is_nullable: bool
) -> Iterator[tuple[str, str]]:
    if not isinstance(path, str):
        yield f"{path!r} is not a path", "Write a path of fields and foreign keys as a text, as for values()."
        return
    try:
        field, has_null = _follow(outbox, path)
    except (FieldDoesNotExist, _NotOneValueError) as error:
        yield f"{path!r} leads nowhere: {error}", "Write a path of fields and foreign keys, as for values()."
        return
    if field.get_internal_type() not in wanted or hasattr(field, "from_db_value"):
        yield (
            f"{path!r} is a {type(field).__name__}, whose values look different in JSON",
            f"Use a field of the event's type ({', '.join(wanted)}), or publish through a FrozenOutbox.",
        )
    elif has_null and not is_nullable:
        yield f"{path!r} can be NULL, but the event's field cannot be None", "Allow None in the event (`| None`)."


class _NotOneValueError(Exception):
    """The path leads to no value, or to several."""


def _follow(outbox: type[models.Model], path: str) -> tuple[models.Field[Any, Any], bool]:
    """Return the field at the end of the path, and whether the value may be NULL."""
    model: Any = outbox
    has_null = False
    field: Any = None
    for name in path.split("__"):
        if field is not None and not field.is_relation:
            raise _NotOneValueError(f"{field.name!r} is not a foreign key")
        field = model._meta.pk if name == "pk" else model._meta.get_field(name)
        if not field.concrete or field.many_to_many:
            raise _NotOneValueError(f"{name!r} may stand for several rows, or none")
        has_null |= field.null
        model = field.related_model
    while field.is_relation:
        field = field.target_field
    return field, has_null
