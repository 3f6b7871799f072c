"""Times in statements to ClickHouse. They are parameters in microseconds, which no setting for formats or time zones
affects.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from towpath.eventlog.values import EPOCH

if TYPE_CHECKING:
    from datetime import datetime


def moment_of(name: str) -> str:
    """Return the SQL for the time that a parameter gives in microseconds since 1970."""
    return f"fromUnixTimestamp64Micro(toInt64(%({name})s), 'UTC')"


def microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970 to the moment."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def of_microseconds(number: int) -> datetime:
    """Return the time in UTC that is `number` microseconds after 1970."""
    return EPOCH + timedelta(microseconds=number)
