"""Found events as the table shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from towpath.eventlog.query.syntax import ColumnField, Path
from towpath.eventlog.values import as_text
from towpath.explorer.links import event_path
from towpath.explorer.summary import members, plain_text, summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.search import FoundEvent, Position
    from towpath.explorer.columns import Shown
    from towpath.explorer.state import State

#: The style of each known outcome. Any other outcome has none.
_LOOKS = {"success": "ok", "failure": "warn", "denied": "bad"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in the table. `kind` says how it is shown, and `missing` why there is no value."""

    name: str
    kind: str
    text: str = ""
    look: str = ""
    members: Sequence[tuple[str, str]] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `day` is set only where another day than the last row's begins."""

    path: str
    date: str
    day: str
    second: str
    fraction: str
    moment: str
    event_type: str
    cells: Sequence[Cell]


def rows(found: Sequence[FoundEvent], state: State, *, after: Position | None) -> Iterator[Row]:
    """Yield the rows of a page. `after` is the position that it continues from, or None for the first page."""
    day = state.zone.day(after.at) if after else ""
    for one in found:
        at = one.event.event_date_time
        second, _, fraction = state.zone.clock(at).partition(".")
        today = state.zone.day(at)
        values = _Values(one)
        yield Row(
            path=event_path(one.position),
            date=today,
            day="" if today == day else today,
            second=second,
            fraction=fraction,
            moment=state.zone.full(at),
            event_type=one.event.event_type,
            cells=[_cell(column, values, state) for column in state.columns],
        )
        day = today


def look(name: str, text: str) -> str:
    """Return the CSS classes of a column's value."""
    return f"tag {_LOOKS.get(text, '')}" if name == "outcome" and text else ""


class _Values:
    """An event's values for columns. Its context is parsed only when a path asks for it."""

    def __init__(self, found: FoundEvent) -> None:
        self.found = found
        self._members: dict[str, Any] | None = None

    def at(self, path: Path) -> tuple[bool, Any]:
        """Return whether the path leads to a value, and that value."""
        if self._members is None:
            self._members = dict(members(self.found.event.event_context))
        value: Any = self._members
        for key in path.keys:
            if not isinstance(value, dict) or key not in value:
                return False, None
            value = value[key]
        return True, value


def _cell(column: Shown, values: _Values, state: State) -> Cell:
    match column.field:
        case None:
            return Cell(column.name, "summary", members=summary(values.found.event.event_context))
        case Path() as path:
            is_there, value = values.at(path)
            is_cut = not is_there and not values.found.is_whole
            missing = "The context is too long for a list: open the event." if is_cut else ""
            return Cell(column.name, "value", text=plain_text(value) if is_there else "", missing=missing)
        case ColumnField(name="event_type"):
            return Cell(column.name, "type", text=values.found.event.event_type)
        case ColumnField(name="outcome"):
            outcome = str(values.found.event.value("outcome"))
            return Cell(column.name, "outcome", text=outcome, look=_LOOKS.get(outcome, ""))
        case ColumnField() as field:
            value = values.found.event.value(field.name)
            text = state.zone.full(value) if isinstance(value, datetime) else as_text(value)
            return Cell(column.name, "value", text=text)
