"""Undelivered events: what outboxes hold of a person is masked where it is, in the caller's transaction. Dead letters
are among them, since they stay in their outbox.

A worker may have loaded a row before: that one is stored as it was, and the caller is told of it. A lean outbox holds
no content, only what was bound: its events are read from the application's own tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connection, models
from django.db.models import Q, TextField
from django.db.models.functions import Cast

from towpath import driver
from towpath.errors import NotErasable
from towpath.eventlog.columns import FromContext, FromEventOrContext, row_columns
from towpath.eventlog.masking import MASK, with_mask
from towpath.flow.load import value_of
from towpath.ledger import batches
from towpath.outbox.models import FrozenOutbox, LeanOutbox, all_outboxes
from towpath.outbox.own_columns import own_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from towpath.eventlog.columns import Column
    from towpath.outbox.fields import AnyField
    from towpath.outbox.models import Outbox
    from towpath.proof.selection import Selection

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


def find(selection: Selection, own: tuple[Column, ...]) -> Undelivered:
    """The rows that are not delivered yet. Raises NotErasable for a context that cannot be masked."""
    found = Undelivered()
    for name, outbox in all_outboxes().items():
        for row in _rows(outbox, selection, own):
            if row.changed:
                found.maskable.setdefault(name, []).append(row.id)
            if row.is_left:
                found.others.setdefault(name, []).append(row.id)
    return found


def mask(selection: Selection, own: tuple[Column, ...]) -> Undelivered:
    """Mask them, and say which they were. Raises NotErasable, before anything is changed."""
    found = Undelivered()
    for name, outbox in all_outboxes().items():
        for row in _rows(outbox, selection, own):
            if row.changed:
                _update(outbox, row)
                found.maskable.setdefault(name, []).append(row.id)
            if row.is_left:
                found.others.setdefault(name, []).append(row.id)
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


def _rows(outbox: type[Outbox], selection: Selection, own: tuple[Column, ...]) -> Iterator[_Row]:
    columns = {column.name: column for column in row_columns(own)}
    of_event = outbox.event_columns()
    # In annotations of names that no field has.
    values = {
        f"log_{name}": value_of(columns[name], {}, of_event) for name in (*selection.wanted_columns, *selection.columns)
    }
    rows = outbox._base_manager.annotate(**values).filter(
        **{f"log_{name}": value for name, value in selection.wanted_columns.items()}
    )
    is_read = issubclass(outbox, FrozenOutbox) or bool(selection.wanted_paths)
    if is_read:
        rows = rows.annotate(log_context=Cast(of_event["event_context"], TextField()))
    if texts := selection.wanted().texts:
        has_all = Q()
        for text in texts:
            has_all &= Q(log_context__contains=text)
        rows = rows.filter(Q(log_context__contains="\\") | has_all)
    fields = own_fields(outbox) if issubclass(outbox, FrozenOutbox) else ()
    names = ["id", "bound", *values, *(["log_context"] if is_read else []), *(one.attname for one in fields)]
    for row in rows.order_by("id").values(*dict.fromkeys(names)).iterator(chunk_size=_ROWS_PER_FETCH):
        if selection.is_met_by(row.get("log_context") or ""):
            yield _masked(outbox, row, selection, columns, fields)


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
    context = row["log_context"]
    try:
        places = selection.cuts(context)
    except ValueError as error:
        raise NotErasable(
            f"{outbox.outbox_name()} {row['id']}: {error}. Erase it whole (--fields context), or drop it"
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
