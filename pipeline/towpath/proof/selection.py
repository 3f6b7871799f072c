"""Selection: which events an erasure is about, and what in them is masked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Kind, added_columns
from towpath.eventlog.masking import MASK_JSON, MASK_OF_CONTEXT, Cut, Path, cuts
from towpath.eventlog.query import Query, parse, syntax
from towpath.eventlog.query.matching import matches
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.store import MaskedRow
from towpath.outbox.event import hashed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.eventlog.columns import Column
    from towpath.eventlog.stored import StoredEvent

#: Columns that say nothing about a person.
_NOT_PERSONAL = frozenset(
    {"event_type", "event_date_time", "environment", "metadata_version", "outbox", "outbox_id", "outcome"}
)
#: Columns that only stored events have.
_OF_THE_STORE = ("window_id", "written_at")
_CONTEXT = "context"

_Leaf = syntax.FullText | syntax.Has | syntax.Comparison


@dataclass(frozen=True, slots=True)
class Selection:
    """Events that a query finds, and the fields of them that are masked: columns, `context`, or paths in it."""

    query: Query
    fields: tuple[str, ...]
    #: What events that are not delivered yet will have in the column of this name.
    environment: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are masked."""
        return tuple(field for field in self.fields if not _is_of_context(field))

    @property
    def has_whole_context(self) -> bool:
        """True if the whole context is masked."""
        return _CONTEXT in self.fields

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is masked in the context."""
        return tuple(_path_of(field) for field in self.fields if _is_of_context(field) and field != _CONTEXT)

    @property
    def mask(self) -> str:
        """What replaces the masked parts of a context."""
        return MASK_OF_CONTEXT if self.has_whole_context else MASK_JSON

    @property
    def asked_columns(self) -> frozenset[str]:
        """The columns that the query asks for."""
        fields = (leaf.field for leaf in _leaves(self.query.term) if not isinstance(leaf, syntax.FullText))
        return frozenset(field.name for field in fields if isinstance(field, syntax.ColumnField))

    @property
    def asks_for_context(self) -> bool:
        """True if the query looks at the context."""
        return any(
            isinstance(leaf, syntax.FullText) or isinstance(leaf.field, syntax.Path)
            for leaf in _leaves(self.query.term)
        )

    @property
    def required(self) -> Mapping[str, frozenset[str]]:
        """Columns of text, each with the values of which an event must have one to be found."""
        found: dict[str, frozenset[str]] = {}
        term = self.query.term
        for one in term.terms if isinstance(term, syntax.All) else (term,):
            match one:
                case syntax.Comparison(syntax.ColumnField(name, kind), Operator.IS, values) if kind in _TEXTS:
                    texts = frozenset(value.text for value in values if isinstance(value, syntax.Text))
                    if len(texts) == len(set(values)):
                        found[name] = found.get(name, texts) & texts
        return found

    @property
    def query_on_record(self) -> str:
        """The canonical text of the query, with a hash in the place of each value that may be a person's. Anyone who
        has the value can tell that it was this one."""
        return str(Query(_without_values(self.query.term))) if self.query.term else ""

    def is_met_by(self, event: StoredEvent) -> bool:
        """True if the query finds the event."""
        return matches(self.query, event)

    def cuts(self, context: str) -> list[Cut]:
        """Return what is masked in a context. Raises ValueError if paths are to be masked in one that is not JSON."""
        if self.has_whole_context:
            return [] if context == MASK_OF_CONTEXT else [(0, len(context))]
        return cuts(context, self.paths) if self.paths else []

    def masked(self, event: StoredEvent) -> MaskedRow | None:
        """The row of an event that a store has found; None if nothing of it gives way. Raises ValueError as `cuts`."""
        if not self.is_met_by(event):
            return None
        row = MaskedRow(event, tuple(self.cuts(event.event_context)), self.columns)
        return row if row.is_changed else None


def select(
    wheres: Sequence[str],
    fields: Sequence[str],
    own: tuple[Column, ...],
    *,
    columns: Mapping[str, str] | None = None,
    environment: str = "",
) -> Selection:
    """The selection of what all of these queries find, with these values in columns of text.

    Raises QueryError, or ValueError, which says what to write.
    """
    queries = [
        *(_parsed(f"{name}:{syntax.quoted(value)}", own) for name, value in (columns or {}).items()),
        *(_parsed(text, own) for text in wheres),
    ]
    for name, value in (columns or {}).items():
        if not value:
            raise ValueError(f"{name}: an empty value would match everyone else's events")
    if not queries:
        raise ValueError("say whose events: --actor, --target or --where")
    query = Query(syntax.all_of(queries))
    _require_fields(fields, own)
    selection = Selection(query, tuple(dict.fromkeys(fields)), environment)
    for name in _OF_THE_STORE:
        if name in selection.asked_columns:
            raise ValueError(f"{name} cannot select events to erase: an undelivered event does not have it")
    return selection


def _parsed(text: str, own: tuple[Column, ...]) -> syntax.Term:
    term = parse(text, columns=own).term
    if term is None:
        raise ValueError("an empty query would find everyone's events: say whose")
    return term


def _require_fields(fields: Sequence[str], own: tuple[Column, ...]) -> None:
    columns = [
        column.name for column in added_columns(own) if column.kind in _TEXTS and column.name not in _NOT_PERSONAL
    ]
    for field in fields:
        is_path = field.startswith(f"{_CONTEXT}.") and all(_path_of(field))
        if field not in columns and field != _CONTEXT and not is_path:
            raise ValueError(
                f"{field!r} is not a field to erase: write one of {', '.join(columns)}, or a path such as"
                " context.email, or context"
            )


def _is_of_context(name: str) -> bool:
    return name == _CONTEXT or name.startswith(f"{_CONTEXT}.")


def _path_of(name: str) -> Path:
    return tuple(name.split(".")[1:])


_TEXTS = frozenset({Kind.TEXT, Kind.LOW_CARDINALITY_TEXT})


def _leaves(term: syntax.Term | None) -> Iterator[_Leaf]:
    match term:
        case syntax.All(terms) | syntax.Any(terms):
            for one in terms:
                yield from _leaves(one)
        case syntax.Not(inner):
            yield from _leaves(inner)
        case syntax.FullText() | syntax.Has() | syntax.Comparison():
            yield term


def _without_values(term: syntax.Term) -> syntax.Term:  # noqa: PLR0911 - one for each kind of term
    match term:
        case syntax.All(terms):
            return syntax.All(tuple(map(_without_values, terms)))
        case syntax.Any(terms):
            return syntax.Any(tuple(map(_without_values, terms)))
        case syntax.Not(inner):
            return syntax.Not(_without_values(inner))
        case syntax.FullText(text):
            return syntax.FullText(hashed(text))
        case syntax.Comparison(syntax.ColumnField(name)) if name in _NOT_PERSONAL:
            return term
        case syntax.Comparison(values=values):
            return replace(term, values=tuple(map(_without_value, values)))
    return term


def _without_value(value: syntax.Value) -> syntax.Value:
    match value:
        case syntax.Pattern(parts):
            return syntax.Pattern(tuple(part and hashed(part) for part in parts))
        case syntax.Constant() | syntax.Text(""):
            return value
    return syntax.Text(hashed(value.text))
