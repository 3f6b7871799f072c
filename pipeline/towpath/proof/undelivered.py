"""Undelivered events: what outboxes hold about a person is masked in place, in the caller's transaction. That includes
dead letters, which stay in their outbox.

A worker may have loaded a row before: then it is stored as it was, and the caller is told. A lean outbox holds no
content, only bound values: its events are read from the application's own tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connection, models, transaction
from django.db.models import F, TextField, Value
from django.db.models.functions import Cast

from towpath import driver
from towpath.errors import NotErasable
from towpath.eventlog.columns import BASE_COLUMNS, FromContext, FromEventOrContext, Kind, row_columns
from towpath.eventlog.masking import MASK, with_mask
from towpath.eventlog.stored import StoredEvent
from towpath.eventlog.values import DEFAULTS, parse
from towpath.flow.load import value_of
from towpath.ledger import batches
from towpath.outbox.models import FrozenOutbox, LeanOutbox, all_outboxes
from towpath.outbox.own_columns import own_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.db.models.expressions import Combinable

    from towpath.eventlog.columns import Column
    from towpath.outbox.fields import AnyField
    from towpath.outbox.models import Outbox
    from towpath.proof.selection import Selection

#: Times are read as texts, which are to be in UTC whatever the role's settings are.
_SESSION = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, MDY'"
_BASE = tuple(column.name for column in BASE_COLUMNS)

#: Rows that are fetched at a time.
_ROWS_PER_FETCH = 500


@dataclass(slots=True)
class Undelivered:
    """Rows of outboxes that a selection is about: those that can be masked where they are, and the others."""

    maskable: dict[str, list[int]] = field(default_factory=dict)
    #: What a foreign key or a column without text holds; such rows are erased once they are stored.
    others: dict[str, list[int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        names = {*self.maskable, *self.others}
        return sum(len({*self.maskable.get(name, ()), *self.others.get(name, ())}) for name in names)

    @property
    def masked(self) -> int:
        return sum(map(len, self.maskable.values()))

    def note(self, outbox: str, row: _Row) -> None:
        """Add a row."""
        if row.changed:
            self.maskable.setdefault(outbox, []).append(row.id)
        if row.is_left:
            self.others.setdefault(outbox, []).append(row.id)


def find(selection: Selection, own: tuple[Column, ...]) -> Undelivered:
    """The rows that are not delivered yet. Raises NotErasable for a context that cannot be masked."""
    found = Undelivered()
    with transaction.atomic():
        for name, row in _all_rows(selection, own):
            found.note(name, row)
    return found


def mask(selection: Selection, own: tuple[Column, ...]) -> Undelivered:
    """Mask them, and say which they were. Raises NotErasable, before anything is changed."""
    found = Undelivered()
    outboxes = all_outboxes()
    for name, row in _all_rows(selection, own):
        if row.changed:
            _update(outboxes[name], row)
        found.note(name, row)
    return found


def count_on_their_way(*rows: Undelivered) -> int:
    """How many of these rows a worker may have loaded before they were masked, or without their being masked: after the
    commit, they are in a batch, or are gone from their outbox. Or they hold what cannot be masked there."""
    count = 0
    for name, outbox in all_outboxes().items():
        ids = {row_id for one in rows for row_id in one.maskable.get(name, ())}
        left = {row_id for one in rows for row_id in one.others.get(name, ())}
        here = set(outbox._base_manager.filter(id__in=ids).values_list("id", flat=True)) if ids else set()
        count += len(left) + len(ids - here - left) + batches.count_in_flight(name, sorted(here - left))
    return count


@dataclass(frozen=True, slots=True)
class _Row:
    """A row with the columns of its table that change."""

    id: int
    changed: Mapping[str, Any]
    #: True if it holds more of what is to be masked than these.
    is_left: bool


def _all_rows(selection: Selection, own: tuple[Column, ...]) -> Iterator[tuple[str, _Row]]:
    with driver.cursor() as cursor:
        cursor.execute(_SESSION)
    for name, outbox in all_outboxes().items():
        for row in _rows(outbox, selection, own):
            yield name, row


def _rows(outbox: type[Outbox], selection: Selection, own: tuple[Column, ...]) -> Iterator[_Row]:
    columns = {column.name: column for column in row_columns(own)}
    of_event = outbox.event_columns()
    is_frozen = issubclass(outbox, FrozenOutbox)
    known: dict[str, Combinable] = {
        "outbox": Value(outbox.outbox_name()),
        "outbox_id": F("id"),
        "environment": Value(selection.environment),
    }
    # As texts, in annotations of names that no field has.
    names = {*selection.asked_columns, *selection.columns}
    values = {f"log_{name}": Cast(value_of(columns[name], known, of_event), TextField()) for name in sorted(names)}
    # A lean outbox makes a context of other tables' rows: of each row, if anything asks for it.
    if is_frozen or selection.asks_for_context:
        values["log_event_context"] = Cast(of_event["event_context"], TextField())
    wanted = {f"log_{name}__in": sorted(texts) for name, texts in selection.required.items()}
    fields = own_fields(outbox) if is_frozen else ()
    read = dict.fromkeys(["id", "bound", *values, *(one.attname for one in fields)])
    rows = outbox._base_manager.annotate(**values).filter(**wanted).order_by("id").values(*read)
    unique = _unique_columns(outbox)
    for row in rows.iterator(chunk_size=_ROWS_PER_FETCH):
        if selection.is_met_by(_stored(row, columns)):
            masked = _masked(outbox, row, selection, columns, fields)
            if taken := sorted(masked.changed.keys() & unique.keys()):
                raise NotErasable(
                    f"{outbox.outbox_name()} {row['id']}: the column {taken[0]} must be unique (index"
                    f" {unique[taken[0]]}), but the mask is the same in every row. Run this again when the event is"
                    " delivered, or remove the index"
                )
            yield masked


def _unique_columns(outbox: type[Outbox]) -> dict[str, str]:
    """The columns that a unique index looks at, itself or in an expression, each with the name of one."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT attname, indexrelid::regclass::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid
            WHERE indrelid = %(table)s::regclass AND (indisunique OR indisexclusion) AND attnum > 0 AND (
                attnum = ANY(indkey) OR EXISTS (
                    SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = indexrelid
                    AND refobjid = indrelid AND refobjsubid = attnum
                )
            )
            """,
            {"table": connection.ops.quote_name(outbox.outbox_name())},
        )
        return dict(cursor.fetchall())


def _stored(row: Mapping[str, Any], columns: Mapping[str, Column]) -> StoredEvent:
    """The event as a store would hold it, as far as anybody asks for it."""
    held = {name: _held(column.kind, row.get(f"log_{name}")) for name, column in columns.items()}
    base = {name: held.pop(name) for name in _BASE}
    return StoredEvent(**base, written_at=parse(Kind.TIME, DEFAULTS[Kind.TIME]), added=held)


def _held(kind: Kind, text: str | None) -> Any:
    """What would be stored. What cannot be stored yet is as if it was never given."""
    try:
        return parse(kind, text if text is not None else DEFAULTS[kind])
    except ValueError:
        return parse(kind, DEFAULTS[kind])


def _masked(
    outbox: type[Outbox],
    row: Mapping[str, Any],
    selection: Selection,
    columns: Mapping[str, Column],
    fields: tuple[AnyField, ...],
) -> _Row:
    changed: dict[str, Any] = {}
    left = {name for name in selection.columns if row[f"log_{name}"] not in {None, "", MASK}}
    bound = dict(row["bound"] or {})
    for name in selection.columns:
        match columns[name].source:
            case FromContext(key) | FromEventOrContext(key) if bound.get(key) not in {None, "", MASK}:
                if bound[key] == row[f"log_{name}"]:
                    left.discard(name)
                bound[key] = MASK
                changed["bound"] = json.dumps(bound, ensure_ascii=False)
    if issubclass(outbox, LeanOutbox):
        return _Row(row["id"], changed, bool(left or selection.has_whole_context or selection.paths))
    context = row["log_event_context"]
    try:
        places = selection.cuts(context)
    except ValueError as error:
        raise NotErasable(
            f"{outbox.outbox_name()} {row['id']}: {error}. Erase all of it (--fields context), or drop it"
        ) from None
    if places:
        changed["event_context"] = with_mask(context, places, selection.mask)
    # Own columns are filled from the context. Those that the event log does not have go with the row.
    of_paths = {path[0] for path in selection.paths}
    for one in fields:
        name = one.attname
        is_copy = name not in columns and (selection.has_whole_context or name in of_paths)
        if row[name] in (None, "", MASK) or not (is_copy or name in selection.columns):
            continue
        if _takes_mask(one) or one.null:
            changed[str(one.column)] = MASK if _takes_mask(one) else None
            left.discard(name)
    return _Row(row["id"], changed, bool(left))


def _takes_mask(field: AnyField) -> bool:
    is_text = isinstance(field, models.CharField | models.TextField)
    return is_text and not field.choices and (field.max_length is None or field.max_length >= len(MASK))


def _update(outbox: type[Outbox], row: _Row) -> None:
    """Past the ORM, which changes no event: this one is said to be changed."""
    quoted = connection.ops.quote_name
    assignments = ", ".join(f"{quoted(name)} = %(value_{place})s" for place, name in enumerate(row.changed))
    with driver.cursor() as cursor:
        cursor.execute(
            f"UPDATE {quoted(outbox.outbox_name())} SET {assignments} WHERE id = %(id)s",
            {"id": row.id, **{f"value_{place}": value for place, value in enumerate(row.changed.values())}},
        )
