"""Numbers as a person reads them in passing: three digits, and a unit. Times are UTC, as the page says.

Django's own filter for dates has the project's time zone, and its language.
"""

from __future__ import annotations

from datetime import UTC, datetime

#: Where there is nothing to measure.
NONE = "\N{EN DASH}"
#: Where something could not be measured.
UNKNOWN = "?"


def seconds(length: float | None) -> str:
    """`0.8 s`, `64 s`, `12 min`, `3.4 h`, `4 days`; a dash for None."""
    if length is None:
        return NONE
    if length < 9.95:  # noqa: PLR2004 - below, a tenth says something
        return f"{max(0.0, length):.1f} s"
    if length < 119.5:  # noqa: PLR2004 - two minutes
        return f"{length:.0f} s"
    if length < 7200:  # noqa: PLR2004 - two hours
        return f"{length / 60:.0f} min"
    return f"{length / 3600:.1f} h" if length < 172_800 else f"{length / 86_400:.0f} days"  # noqa: PLR2004 - two days


def milliseconds(length: float) -> str:
    """`24 ms`."""
    return f"{length * 1000:.0f} ms" if length >= 0.001 else "1 ms"  # noqa: PLR2004 - less is nobody's concern


def count(number: float) -> str:
    """`31,870`."""
    return f"{number:,.0f}"


def rate(number: float | None) -> str:
    """`418/s`, `0.4/s`, `1/min`; a dash for None."""
    if number is None:
        return NONE
    if 0 < number < 0.05:  # noqa: PLR2004 - a tenth would say that nothing is stored
        return f"{number * 60:.2g}/min"
    return f"{number:.1f}/s" if 0 < number < 9.95 else f"{number:,.0f}/s"  # noqa: PLR2004 - as above


def clock(at: datetime) -> str:
    """`14:05:06`."""
    return f"{at.astimezone(UTC):%H:%M:%S}"


def moment(at: datetime) -> str:
    """`27 Nov, 14:05:06`, and the year where it is not this one."""
    of_utc = at.astimezone(UTC)
    year = "" if of_utc.year == datetime.now(UTC).year else f" {of_utc.year}"
    return f"{of_utc.day} {of_utc:%b}{year}, {clock(at)}"
