"""A row of the OBT as it is read, the same from every store.

No column of it is NULL, unless somebody has changed the table. `doctor` and the audits say so; here, a NULL is read as
the default of the column's kind, so that such a row is shown like any other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Kind, added_columns, row_columns
from towpath.eventlog.values import DEFAULTS, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from towpath.eventlog.columns import Column


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the OBT. `added` has the values of `added_columns`, by name."""

    event_type: str
    event_date_time: datetime
    environment: str
    event_context: str
    metadata_version: int
    outbox: str
    outbox_id: int
    window_id: UUID
    written_at: datetime
    added: Mapping[str, object] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return the value of any column."""
        return self.added[name] if name in self.added else getattr(self, name)


#: The names of the columns that every event log has.
BASE_NAMES = tuple(one.name for one in fields(StoredEvent) if one.name != "added")


def streamed_columns(own: tuple[Column, ...]) -> list[str]:
    """What a store reads for `stored_event`."""
    return [*BASE_NAMES, *(column.name for column in added_columns(own))]


def stored_event(row: Sequence[Any], own: tuple[Column, ...]) -> StoredEvent:
    """The event of a row of `streamed_columns`. A time without a zone is taken to be in UTC."""
    if None in row:
        row = [default if value is None else value for value, default in zip(row, _defaults(own).values(), strict=True)]
    # Written out: each row of a stream is one.
    event_type, at, environment, context, version, outbox, outbox_id, window_id, written_at, *added = row
    return StoredEvent(
        event_type,
        _utc(at),
        environment,
        context,
        version,
        outbox,
        outbox_id,
        _uuid(window_id),
        _utc(written_at),
        {name: value if same is None else same(value) for (name, same), value in zip(_added(own), added, strict=True)},
    )


def same_column(name: str, values: Sequence[Any], own: tuple[Column, ...]) -> Sequence[Any]:
    """A column of `streamed_columns`, its values as those of a `stored_event`."""
    if None in values:
        default = _defaults(own)[name]
        values = [default if value is None else value for value in values]
    same = _BASE.get(name) or dict(_added(own)).get(name)
    return values if same is None else list(map(same, values))


def streamed_kinds(own: tuple[Column, ...]) -> dict[str, Kind]:
    """The kind of each of `streamed_columns`, in their order."""
    kinds = {column.name: column.kind for column in row_columns(own)} | {"written_at": Kind.TIME}
    return {name: kinds[name] for name in streamed_columns(own)}


@functools.cache
def _defaults(own: tuple[Column, ...]) -> Mapping[str, object]:
    """The value that stands for NULL in each of `streamed_columns`, in their order."""
    return {name: parse(kind, DEFAULTS[kind]) for name, kind in streamed_kinds(own).items()}


@functools.cache
def _added(own: tuple[Column, ...]) -> tuple[tuple[str, Callable[[Any], object] | None], ...]:
    """The added columns, and what makes their values the same in Python, whichever driver has read them."""
    return tuple((column.name, _SAME.get(column.kind)) for column in added_columns(own))


def _utc(value: datetime) -> datetime:
    if value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


_SAME: Mapping[Kind, Callable[[Any], object]] = {Kind.TIME: _utc, Kind.UUID: _uuid}
_BASE: Mapping[str, Callable[[Any], object]] = {"event_date_time": _utc, "window_id": _uuid, "written_at": _utc}
