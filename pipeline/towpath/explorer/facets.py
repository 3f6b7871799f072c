"""The most frequent values of fields in a sample; the page says that it is a sample. A click makes a value a filter."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from towpath.eventlog.columns import Kind
from towpath.eventlog.query.numbers import NUMBER
from towpath.eventlog.query.syntax import ColumnField, Constant, Field, Number, Path, Query, Text
from towpath.explorer.columns import Shown, short_name
from towpath.explorer.summary import Written, members, plain_text
from towpath.explorer.terms import excluded, is_off, is_on, narrowed, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.columns import Column
    from towpath.eventlog.query.syntax import Value
    from towpath.eventlog.search import FoundEvents
    from towpath.explorer.state import State

#: The most values of one field. The page shows the first few, and the rest on demand.
MOST_VALUES = 40
FIRST_VALUES = 7
#: Up to this many more are shown immediately: a line that hides them would take as much room.
_FEW = 2
#: The most paths into the context that are shown besides the columns.
MOST_PATHS = 4
#: A path with more different values is an id or a free text: a list of them does not help.
_MOST_DIFFERENT = 12
#: A path is shown only if at least this share of the sample has it.
_LEAST_SHARE = 0.02
_MOST_DEPTH = 3
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a field: how often it occurs, and where a click on it leads."""

    text: str
    written: str
    count: str
    #: The length of its bar in twentieths of the longest one: a class in the page's style sheet.
    width: int
    is_on: bool
    is_off: bool
    url: str
    without_url: str


@dataclass(frozen=True, slots=True)
class Facet:
    """A field and its most frequent values. `is_cut` is true if the sample has more values than it shows."""

    name: str
    title: str
    is_type: bool
    first: Sequence[Choice]
    more: Sequence[Choice]
    is_cut: bool


@dataclass(slots=True)
class _Counted:
    """How often each value occurs in the sample, by column and by path."""

    columns: dict[str, Counter[Any]] = field(default_factory=dict)
    paths: dict[tuple[str, ...], Counter[Any]] = field(default_factory=dict)


def facets(sample: FoundEvents, state: State) -> list[Facet]:
    """Return facets for type, outcome, actor, target, the project's own columns with few values, and the most telling
    paths."""
    counted = _count(sample, state.own)
    found = [
        _facet(ColumnField(name, Kind.TEXT), short_name(name, state.own), counter, state)
        for name, counter in counted.columns.items()
        if counter and (name != "environment" or len(counter) > 1)
    ]
    telling = [
        (keys, counter)
        for keys, counter in counted.paths.items()
        if 1 < len(counter) <= min(_MOST_DIFFERENT, counter.total() // 2)
        and counter.total() >= _LEAST_SHARE * len(sample)
    ]
    telling.sort(key=lambda one: (-one[1].total(), one[0]))
    return [*found, *(_facet(Path(keys), str(Path(keys)), counter, state) for keys, counter in telling[:MOST_PATHS])]


def _count(sample: FoundEvents, own: tuple[Column, ...]) -> _Counted:
    few = [column.name for column in own if column.kind is Kind.LOW_CARDINALITY_TEXT]
    names = ["event_type", "outcome", "environment", *few, "actor", "target"]
    counted = _Counted({name: Counter() for name in names})
    for name in names:
        counted.columns[name].update(filter(None, sample.column(name)))
    for context in sample.column("event_context"):
        for keys, value in _paths((), members(context)):
            counter = counted.paths.setdefault(keys, Counter())
            # One value more than the limit is enough to know that there are too many.
            if value in counter or len(counter) <= _MOST_DIFFERENT:
                counter[value] += 1
    return counted


def _paths(keys: tuple[str, ...], pairs: Iterator[tuple[str, Any]]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in pairs:
        path = (*keys, key)
        if isinstance(value, dict):
            if len(path) < _MOST_DEPTH:
                yield from _paths(path, iter(value.items()))
        elif isinstance(value, str) and len(value) <= _LONGEST:
            # With the type: True equals 1, and a number must not equal a text.
            yield path, (type(value), value)
        elif isinstance(value, bool):
            yield path, (bool, value)


def _facet(of: Field, name: str, counter: Counter[Any], state: State) -> Facet:
    common = counter.most_common(MOST_VALUES)
    top = common[0][1]
    choices = [_choice(of, name, found, count=count, top=top, state=state) for found, count in common]
    first = len(choices) if len(choices) <= FIRST_VALUES + _FEW else FIRST_VALUES
    return Facet(
        name=name,
        title=name if isinstance(of, Path) else Shown(name, of).title,
        is_type=isinstance(of, ColumnField) and of.name == "event_type",
        first=choices[:first],
        more=choices[first:],
        is_cut=len(counter) > MOST_VALUES,
    )


def _choice(of: Field, name: str, found: Any, *, count: int, top: int, state: State) -> Choice:
    text = found[1] if isinstance(found, tuple) else found
    value = _value(text)
    wanted, unwanted = narrowed(state.query, of, value), excluded(state.query, of, value)
    return Choice(
        text=plain_text(text),
        written=written(narrowed(Query(), of, value), state.own)[len(name) + 1 :],
        count=f"{count:,}",
        width=max(1, round(20 * count / top)),
        is_on=is_on(state.query, of, value),
        is_off=is_off(state.query, of, value),
        url=state.url(text=written(wanted, state.own), query=wanted),
        without_url=state.url(text=written(unwanted, state.own), query=unwanted),
    )


def _value(found: Any) -> Value:
    if not isinstance(found, Written):
        return Text(found) if isinstance(found, str) else Constant("true" if found else "false")
    is_number = re.fullmatch(NUMBER, found) and math.isfinite(float(found))
    return Number(str(found)) if is_number else Text(str(found))
