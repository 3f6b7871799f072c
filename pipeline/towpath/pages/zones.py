"""Times as a page shows them: all in one zone, which is named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAME = re.compile(r"[A-Za-z][\w+-]*(?:/[\w+-]+){0,2}", re.ASCII)
_AGES = (
    (timedelta(days=1), "d"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
    (timedelta(seconds=1), "s"),
)


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone by its name in the database of time zones, such as `Europe/Berlin`."""

    name: str
    info: tzinfo = field(compare=False, repr=False)

    @classmethod
    def named(cls, name: str) -> Zone:
        """Raises ValueError for what is not a time zone, or none that this machine knows."""
        if name == "UTC":
            return cls("UTC", UTC)
        try:
            if _NAME.fullmatch(name):
                return cls(name, ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # a folder of the database is an OSError
        raise ValueError("it is not a time zone")

    @property
    def place(self) -> str:
        """The short name: `Berlin`."""
        return self.name.rpartition("/")[2].replace("_", " ")

    def local(self, moment: datetime) -> datetime:
        return moment.astimezone(self.info)

    def moment(self, shown: datetime, *, is_end: bool) -> datetime:
        """Return the moment when clocks of this zone show this time.

        In autumn there are two: the second one for the end of a period, and the first one for its start. A time that
        clocks skip in spring means the moment when they skip it.
        """
        first, second = (shown.replace(tzinfo=self.info, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first <= second:
            return second if is_end else first
        # A skipped time is moved to either side of the change, which is at a whole second.
        before, after, offset = second, first, self.local(second).utcoffset()
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            if self.local(middle).utcoffset() == offset:
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)

    def clock(self, moment: datetime) -> str:
        """`21:42:07.318204`, as exact as it is stored."""
        return f"{self.local(moment):%H:%M:%S.%f}"

    def day(self, moment: datetime) -> str:
        """`Wed 25 Nov`, and the year where it is not this one."""
        local = self.local(moment)
        year = "" if local.year == self.local(datetime.now(UTC)).year else f" {local.year}"
        return f"{local:%a} {local.day} {local:%b}{year}"

    def minute(self, moment: datetime) -> str:
        """`Wed 25 Nov, 21:42`; with seconds where it has any."""
        local = self.local(moment)
        return f"{self.day(moment)}, {local:%H:%M:%S}" if local.second else f"{self.day(moment)}, {local:%H:%M}"

    def full(self, moment: datetime) -> str:
        """`Wed 25 Nov 2026, 21:42:07.318204 UTC`."""
        local = self.local(moment)
        return f"{local:%a} {local.day} {local:%b %Y, %H:%M:%S.%f} {self.name}"

    def typed(self, moment: datetime) -> str:
        """`2026-11-25 21:42`, as a person types a time of this zone."""
        local = self.local(moment)
        if local.microsecond:
            return f"{local:%Y-%m-%d %H:%M:%S.%f}"
        return f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"


UTC_ZONE = Zone("UTC", UTC)


def as_utc(moment: datetime) -> str:
    """`2026-11-25T21:42:00Z`, as a URL and a script have it."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds" if moment.microsecond else "seconds")
    return text.removesuffix("+00:00") + "Z"


def age(length: timedelta) -> str:
    """`3 min`, `2 d`: about how long, in the largest unit that it fills."""
    for unit, name in _AGES:
        if length >= unit:
            return f"{length // unit} {name}"
    return "a moment"
