"""How late is late: one definition for `status`, the colours of the console, and deploy/prometheus/alerts.yml."""

from __future__ import annotations

from typing import Literal, get_args

#: TowpathEventsLate, and TowpathEventsStuck: seconds of the oldest undelivered event.
EVENTS_LATE_SECONDS = 60
EVENTS_STUCK_SECONDS = 900
#: TowpathCanaryLate: seconds of a canary from its commit to the event store.
CANARY_LATE_SECONDS = 60
#: TowpathSealsLate: seconds of the oldest proof without a seal. It waits for an hour at most, and a minute for the look
#: that seals it.
SEALS_LATE_SECONDS = 7200

#: Nothing to do; look at it today; look at it now.
Level = Literal["ok", "warn", "bad"]


def worst(*levels: Level) -> Level:
    """Return the level of several things together."""
    return max(levels, key=get_args(Level).index)


def level_of_age(seconds: float | None) -> Level:
    """Of the oldest undelivered event; None: there is none."""
    if seconds is None or seconds <= EVENTS_LATE_SECONDS:
        return "ok"
    return "warn" if seconds <= EVENTS_STUCK_SECONDS else "bad"
