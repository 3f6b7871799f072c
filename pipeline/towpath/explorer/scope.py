"""Which events a person may see: a query from the project, which is added to everything that the person reads.

The setting EXPLORER_SCOPE names a function `(user) -> str`. If the function raises, or its answer is not a query, the
person sees nothing: what is not known to be allowed is forbidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from django.utils.module_loading import import_string

from towpath.eventlog.query import Query, parse
from towpath.eventlog.query.matching import matches
from towpath.eventlog.query.syntax import all_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from towpath.eventlog.columns import Column
    from towpath.eventlog.search import Bar, FoundEvent, FoundEvents, Position, SearchableStore

log = structlog.get_logger()

_EVERYTHING = Query()


class ScopeUnknown(Exception):
    """It cannot be determined which events a person may see."""


def scope_function(path: str) -> Callable[[Any], str] | None:
    """Return the function of this dotted path, or None for an empty one.

    Raises ImportError, TypeError if it cannot be called, or whatever its module raises.
    """
    if not path:
        return None
    found = import_string(path)
    if not callable(found):
        raise TypeError(f"{path} is not a function")
    return found  # type: ignore[no-any-return]


def scope_of(user: Any, *, path: str, columns: tuple[Column, ...]) -> Query:
    """Return the query that finds what this person may see, by the function of this path. Raises ScopeUnknown."""
    try:
        function = scope_function(path)
        if function is None:
            return _EVERYTHING
        return parse(function(user), columns=columns)
    # Whatever the error is, nothing may be shown.
    except Exception as error:
        log.exception("explorer_scope_failed", scope=path, user=str(getattr(user, "pk", None)))
        raise ScopeUnknown from error


class ScopedStore:
    """A store as one person may see it. An event outside the scope seems not to exist."""

    def __init__(self, store: SearchableStore, scope: Query) -> None:
        self._store = store
        self._scope = scope

    def search(
        self,
        query: Query,
        *,
        since: datetime,
        until: datetime,
        before: Position | None = None,
        rows: int,
        most_characters: int | None = None,
        seconds: float,
    ) -> FoundEvents:
        return self._store.search(
            self._within(query),
            since=since,
            until=until,
            before=before,
            rows=rows,
            most_characters=most_characters,
            seconds=seconds,
        )

    def histogram(
        self, query: Query, *, since: datetime, until: datetime, step: timedelta, seconds: float
    ) -> Sequence[Bar]:
        return self._store.histogram(self._within(query), since=since, until=until, step=step, seconds=seconds)

    def one(self, position: Position, *, seconds: float) -> Sequence[FoundEvent]:
        found = self._store.one(position, seconds=seconds)
        return [each for each in found if matches(self._scope, each.event)]

    def _within(self, query: Query) -> Query:
        terms = [one.term for one in (self._scope, query) if one.term is not None]
        return Query(all_of(terms)) if terms else query
