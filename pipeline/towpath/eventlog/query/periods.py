"""Times in a query: ISO 8601, from a month to a microsecond, each the period that it names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from towpath.eventlog.query.syntax import Period

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORM = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?)?"
    r"(?P<offset>[Zz]|[-+][0-9]{2}:[0-9]{2})?)?)?"
)


def period(text: str) -> Period:
    """Return the period that the text names, in UTC unless it has an offset. Raises ValueError if it is not a time."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("it does not have the form of a time")
    part = found.groupdict()
    fraction = part["fraction"] or ""
    year, month, day = int(part["year"] or 0), int(part["month"] or 0), int(part["day"] or 1)
    hour, minute, second = (int(part[name] or 0) for name in ("hour", "minute", "second"))
    try:
        local = datetime(year, month, day, hour, minute, second, int(fraction.ljust(6, "0")), UTC)
        start = local - _offset(part["offset"] or "")
        return Period(text, start, start + _length(local, part, fraction))
    except OverflowError:
        raise ValueError("it is out of range") from None


def _offset(text: str) -> timedelta:
    if text in {"", "Z", "z"}:
        return timedelta()
    hours, minutes = int(text[1:3]), int(text[4:])
    if hours > 23 or minutes > 59:  # noqa: PLR2004 - of a day and of an hour
        raise ValueError("it has no valid offset")
    return (-1 if text[0] == "-" else 1) * timedelta(hours=hours, minutes=minutes)


def _length(start: datetime, part: Mapping[str, str | None], fraction: str) -> timedelta:
    if fraction:
        return timedelta(microseconds=10 ** (6 - len(fraction)))
    for name, length in (("second", timedelta(seconds=1)), ("minute", timedelta(minutes=1)), ("day", timedelta(1))):
        if part[name]:
            return length
    following = (start + timedelta(days=31)).replace(day=1)
    return following - start
