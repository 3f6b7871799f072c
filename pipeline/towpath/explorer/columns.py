"""The columns that a page can show: those of the log, paths into the context, and a summary of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath.eventlog.columns import row_columns
from towpath.eventlog.query import QueryError, parse
from towpath.eventlog.query.parser import ALIASES
from towpath.eventlog.query.syntax import ColumnField, Field, Has, Path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.eventlog.columns import Column

#: More columns do not fit on a screen, and each is read for every row.
MOST_COLUMNS = 12

SUMMARY = "summary"
#: Always shown, before all other columns.
TIME = "event_date_time"
_SHORT = {name: alias for alias, name in ALIASES.items()}
#: Splits at commas, except inside quotes, where a path may have commas.
_EACH = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Shown:
    """A column of the page. Its name is what a query calls it; `field` is None for the summary."""

    name: str
    field: Field | None

    @property
    def title(self) -> str:
        if isinstance(self.field, Path):
            return self.name.removeprefix("context.")
        name = self.field.name.removeprefix("event_") if self.field else self.name
        return name.replace("_", " ").capitalize().replace("Ip", "IP").replace(" id", " ID")

    @property
    def is_path(self) -> bool:
        return isinstance(self.field, Path)


def short_name(name: str, own: tuple[Column, ...]) -> str:
    """Return a column's name in queries: `type` for `event_type`, unless the project has a column `type`."""
    alias = _SHORT.get(name, name)
    return name if any(column.name == alias for column in own) else alias


def possible(own: tuple[Column, ...]) -> list[Shown]:
    """Return every column that can be shown, except paths, of which there are endlessly many."""
    skipped = {TIME, "event_context"}
    columns = [column for column in row_columns(own) if column.name not in skipped]
    shown = [Shown(short_name(one.name, own), ColumnField(one.name, one.kind)) for one in columns]
    first = ("type", "actor", "target", "outcome")
    shown.sort(key=lambda one: first.index(one.name) if one.name in first else len(first))
    return [*shown, Shown(SUMMARY, None)]


def default(own: tuple[Column, ...]) -> tuple[Shown, ...]:
    """Return the columns that are shown by default."""
    names = ("event_type", "actor", "target", "outcome", SUMMARY)
    by_name = {one.field.name: one for one in possible(own) if isinstance(one.field, ColumnField)}
    return tuple(by_name.get(name) or Shown(SUMMARY, None) for name in names)


def read(text: str, own: tuple[Column, ...]) -> tuple[Shown, ...]:
    """Return the columns of a text such as `type,actor,context.amount`. Raises ValueError, which says what to write."""
    found: dict[str, Shown] = {}
    for part in _EACH.findall(text):
        if name := part.strip():
            shown = _one(name, own)
            found.setdefault(shown.name, shown)
    if len(found) > MOST_COLUMNS:
        raise ValueError(f"There are {len(found)} columns. Keep at most {MOST_COLUMNS} of them.")
    return tuple(found.values())


def _one(name: str, own: tuple[Column, ...]) -> Shown:
    if name.startswith("context."):
        return Shown(*_path(name))
    for shown in possible(own):
        if name in _names(shown):
            return shown
    raise ValueError(f"There is no column {name[:60]}. Write context.{name[:60]} for a path in the context.")


def _names(shown: Shown) -> Iterator[str]:
    yield shown.name
    if isinstance(shown.field, ColumnField):
        yield shown.field.name


def _path(text: str) -> tuple[str, Path]:
    try:
        term = parse(f"has:{text}").term
    except QueryError as error:
        raise ValueError(f"{text[:60]} is not a path. {error}") from None
    if not isinstance(term, Has) or not isinstance(term.field, Path):
        raise ValueError(  # noqa: TRY004 - what is wrong is the text
            f'{text[:60]} is not a path. Write context.user.id, or context."a key" with quotes.'
        )
    return str(term.field), term.field
