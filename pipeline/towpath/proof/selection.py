"""Selection: which events an erasure is about, and what of them gives way to a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Kind, added_columns
from towpath.eventlog.masking import MASK_JSON, MASK_OF_CONTEXT, Cut, Path, cuts, texts
from towpath.eventlog.store import MaskedRow, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from towpath.eventlog.columns import Column
    from towpath.eventlog.store import StoredEvent

#: Text that is nobody's.
_NOT_PERSONAL = frozenset({"outcome"})
_CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Selection:
    """Events that meet every condition, and the fields of them that are masked: columns, `context`, or paths in it."""

    #: By column, or path as in `context.email`, the value.
    conditions: Mapping[str, str]
    fields: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are masked."""
        return tuple(field for field in self.fields if not is_of_context(field))

    @property
    def has_whole_context(self) -> bool:
        """True if nothing of the context stays."""
        return _CONTEXT in self.fields

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is masked in the context."""
        return tuple(path_of(field) for field in self.fields if is_of_context(field) and field != _CONTEXT)

    @property
    def mask(self) -> str:
        """What stands in a context in the place of what is cut."""
        return MASK_OF_CONTEXT if self.has_whole_context else MASK_JSON

    @property
    def wanted_columns(self) -> Mapping[str, str]:
        """The conditions on columns."""
        return {name: value for name, value in self.conditions.items() if not is_of_context(name)}

    @property
    def wanted_paths(self) -> Mapping[Path, str]:
        """The conditions on contexts."""
        return {path_of(name): value for name, value in self.conditions.items() if is_of_context(name)}

    def wanted(self) -> Wanted:
        """What a store is asked for: no event that meets the conditions is left out."""
        return Wanted(self.wanted_columns, tuple(self.wanted_paths.values()))

    def is_met_by(self, context: str) -> bool:
        """True if the context meets the conditions on it. One that is not JSON has no value at any path."""
        try:
            return all(value in texts(context, path) for path, value in self.wanted_paths.items())
        except ValueError:
            return False

    def cuts(self, context: str) -> list[Cut]:
        """What gives way in a context. Raises ValueError for one that is not JSON, if paths of it are masked."""
        if self.has_whole_context:
            return [] if context == MASK_OF_CONTEXT else [(0, len(context))]
        return cuts(context, self.paths) if self.paths else []

    def masked(self, event: StoredEvent) -> MaskedRow | None:
        """The row of an event that the store was asked for; None if nothing of it gives way. Raises ValueError as
        `cuts`."""
        if not self.is_met_by(event.event_context):
            return None
        row = MaskedRow(event, tuple(self.cuts(event.event_context)), self.columns)
        return row if row.is_changed else None


def is_of_context(name: str) -> bool:
    """True if the name is `context`, or a path in it."""
    return name == _CONTEXT or name.startswith(f"{_CONTEXT}.")


def path_of(name: str) -> Path:
    """The path of `context.a.b`."""
    return tuple(name.split(".")[1:])


def select(conditions: Sequence[tuple[str, str]], fields: Sequence[str], own: tuple[Column, ...]) -> Selection:
    """The selection of these conditions and fields. Raises ValueError, which says what to write."""
    columns = [
        column.name
        for column in added_columns(own)
        if column.kind in {Kind.TEXT, Kind.LOW_CARDINALITY_TEXT} and column.name not in _NOT_PERSONAL
    ]
    if not conditions:
        raise ValueError("say whose events: --actor, --target or --where")
    known = f"write one of {', '.join(columns)}, or a path such as context.email"
    for name, value in conditions:
        if name not in columns and not _is_path(name):
            raise ValueError(f"{name!r} is not something to look for: {known}")
        if not value:
            raise ValueError(f"{name}: an empty value would be that of everybody else")
    for field in fields:
        if field not in columns and field != _CONTEXT and not _is_path(field):
            raise ValueError(f"{field!r} is not a field to erase: {known}, or context")
    if len(dict(conditions)) < len(conditions):
        raise ValueError("a condition is given twice, and an event has one value of each")
    return Selection(dict(conditions), tuple(dict.fromkeys(fields)))


def _is_path(name: str) -> bool:
    return name.startswith(f"{_CONTEXT}.") and all(path_of(name))
