"""The event store as a page reads it: with a time limit for each part, and a connection for each thread.

A page waits only for its rows. It asks for everything else once it is shown, so that nothing slow delays the search
result.

Every read goes through `store`, which adds the person's scope.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from towpath.conf.current import config
from towpath.eventlog.query.syntax import Path
from towpath.explorer.scope import ScopedStore, scope_of
from towpath.wiring import explorer_store

if TYPE_CHECKING:
    from towpath.conf.config import Config
    from towpath.eventlog.search import SearchableStore
    from towpath.eventlog.store import Store
    from towpath.explorer.state import State

#: The rows of one page. More would take longer to draw than to find.
PAGE_ROWS = 100
#: The most rows of one answer to a live tail: some seconds of a busy log.
TAIL_ROWS = 300
#: How many characters of a context are read for the summary.
SUMMARY_CHARACTERS = 600
#: The same if a column shows a path, whose value may come later in the context.
_PATH_CHARACTERS = 20_000

#: The time limit of the search for rows. With what a page costs besides, a person sees it within a second.
ROWS_SECONDS = 0.7
#: Nobody waits for the facets, and a larger sample makes better ones.
SAMPLE_SECONDS = 2.0
#: The time limit of one answer with bars. The page then asks for earlier ones.
BARS_SECONDS = 0.6
#: The time limit of the search for the one event that an empty page links to.
NEWEST_SECONDS = 0.8

#: A connection for each thread: not every store and driver lets threads share one.
_of_thread = threading.local()


def characters(state: State) -> int:
    """Return how many characters of each context the columns of the table need."""
    has_paths = any(isinstance(column.field, Path) for column in state.columns)
    return _PATH_CHARACTERS if has_paths else SUMMARY_CHARACTERS


def store(user: Any) -> SearchableStore:
    """Return the event store as this person may see it. Raises ScopeUnknown."""
    current = config()
    return ScopedStore(connected(), scope_of(user, path=current.explorer_scope, columns=current.columns))


def sees_everything(user: Any) -> bool:
    """True if no scope limits this person. Raises ScopeUnknown."""
    current = config()
    return scope_of(user, path=current.explorer_scope, columns=current.columns).term is None


def connected() -> Store:
    """Return this thread's connection to the event store, which is made at first use."""
    current = config()
    held: tuple[Config, Store] | None = getattr(_of_thread, "held", None)
    if held is None or held[0] is not current:
        if held is not None:
            held[1].close()
        held = _of_thread.held = (current, explorer_store(current))
    return held[1]
