"""What there is to see, read once for everyone who looks at the same time.

Each look costs PostgreSQL one status, whatever the backlog, and once a minute the history. There is one look every two
seconds, however many people have the page open. If PostgreSQL does not answer in time, the last answer is shown with
its age.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError

from towpath.conf.current import config
from towpath.ledger import database_errors
from towpath.ledger.history import Minute, read_history
from towpath.ledger.moment import Parts, one_moment
from towpath.watch.overview import read_overview
from towpath.watch.within import NoAnswerYet, Within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.watch.status import Status

#: A person waits no longer for a page.
_SECONDS = 6.0
_FRESH_SECONDS = 2.0
#: Of the history.
MINUTES = 120
#: A minute of it is there some seconds after its end.
_MINUTE_SECONDS = 62.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The status, and the minutes before it."""

    status: Status
    read_at: datetime
    minutes: Sequence[Minute] = ()
    #: Why there is nothing newer; empty: this is new.
    trouble: str = field(default="", compare=False)


class NotSeen(Exception):
    """PostgreSQL does not answer, and has not since this process began. The text is its error."""


_last_lock = threading.Lock()
_last: Seen | None = None


def look() -> Seen:
    """Return what there is to see now, or what was seen last. Raises NotSeen if nothing was seen yet."""
    global _last  # noqa: PLW0603 - the last answer of this process, for all who ask
    try:
        found = _shared.answer()
    except NoAnswerYet:
        return _seen_last(f"PostgreSQL does not answer within {_SECONDS:g} s")
    except (DatabaseError, InterfaceError) as error:
        return _seen_last(database_errors.describe(error))
    with _last_lock:
        _last = found
    return found


def look_anew() -> None:
    """Let the next look in this process see what has just been done."""
    global _shared  # noqa: PLW0603 - as above
    _shared = Within(_read, seconds=_SECONDS, fresh_seconds=_FRESH_SECONDS)


def _seen_last(trouble: str) -> Seen:
    with _last_lock:
        last = _last
    if last is None:
        raise NotSeen(trouble)
    return replace(last, trouble=trouble)


def _read() -> Seen:
    status, now = read_overview(config(), seconds=_SECONDS), datetime.now(UTC)
    return Seen(status, now, _minutes(now))


def _minutes(now: datetime) -> Sequence[Minute]:
    """Return the minutes, read again when there should be one more."""
    with _last_lock:
        known = _last.minutes if _last is not None else ()
    if known and (now - known[-1].measured_at).total_seconds() < _MINUTE_SECONDS:
        return known
    with one_moment() as cursor:
        return Parts(cursor).read("the history", lambda: read_history(minutes=MINUTES, now=now)) or known


_shared = Within(_read, seconds=_SECONDS, fresh_seconds=_FRESH_SECONDS)
