"""The statement of a seal: a short text for people and for `sha256sum`, which names everything that the seal covers.

    towpath seal 1
    number 12
    from 2026-11-26T17:00:02.114093Z
    until 2026-11-26T18:00:03.201444Z
    positions 5001 to 5490
    windows 480
    rows 480000
    month 2026-11 proofs 490 rows 480000 sha256 <64 digits> lasting <64 digits>
    month none proofs 0 ...
    previous <64 digits>

Its SHA-256 is the seal's digest, and the next one's `previous`: anyone who changes a seal must change all later ones.
Each month has its own line, so that the chain can be checked after a month was dropped. The digest of a month is the
SHA-256 over the SHA-256 of each proof's text, in the order of their positions (`towpath.ledger.proofs.line`). The one
after `lasting` is that over what the proofs still say when they are packed. Seals from before proofs were packed have
none, and their proofs are not packed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.ledger.seals import Part

#: Before the first seal.
NO_DIGEST = "0" * 64
_HEAD = "towpath seal 1"
_DIGEST = "[0-9a-f]{64}"
_MONTH = rf"month (\d{{4}}-\d\d|none) proofs (\d+) rows (\d+) sha256 ({_DIGEST})(?: lasting ({_DIGEST}))?\n"
_FORM = re.compile(
    rf"{_HEAD}\nnumber (?P<number>\d+)\nfrom (?P<since>\S+)\nuntil (?P<until>\S+)\n"
    r"positions (?P<first>\d+) to (?P<last>\d+)\nwindows (?P<windows>\d+)\nrows (?P<rows>\d+)\n"
    rf"(?P<months>(?:{_MONTH})*)previous (?P<previous>{_DIGEST})\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a seal says."""

    number: int
    #: The time of the seal before, or of the first proof; and of this one.
    since: datetime
    until: datetime
    #: The positions of the proofs that it covers.
    first: int
    last: int
    windows: int
    rows: int
    #: By month: proofs, rows, and the digest over them. None: proofs of windows without a row.
    months: Mapping[date | None, MonthOfSeal]
    previous: str

    def text(self) -> str:
        """The text that is digested and signed."""
        months = "".join(
            f"month {month.isoformat()[:7] if month else 'none'}"
            f" proofs {part.proofs} rows {part.rows} sha256 {part.digest} lasting {part.lasting}\n"
            for month, part in self.months.items()
        )
        return (
            f"{_HEAD}\nnumber {self.number}\nfrom {_moment(self.since)}\nuntil {_moment(self.until)}\n"
            f"positions {self.first} to {self.last}\nwindows {self.windows}\nrows {self.rows}\n"
            f"{months}previous {self.previous}\n"
        )


@dataclass(frozen=True, slots=True)
class MonthOfSeal:
    """What a seal says of one month."""

    proofs: int
    rows: int
    digest: str
    #: Empty in a seal from before proofs were packed.
    lasting: str

    @classmethod
    def of(cls, part: Part) -> MonthOfSeal:
        return cls(part.proofs, part.rows, part.digest, part.lasting)

    def covers(self, part: Part) -> bool:
        """True if these are the proofs that were sealed, or what is left of them packed."""
        if (self.proofs, self.rows) != (part.proofs, part.rows):
            return False
        if not part.digest:
            return self.lasting == part.lasting
        return self.digest == part.digest and self.lasting in ("", part.lasting)


def parse(text: str) -> Statement:
    """The statement of a text. Raises ValueError if it is not one."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("it is not the statement of a seal")
    months = {
        None if month == "none" else date.fromisoformat(f"{month}-01"): MonthOfSeal(int(proofs), int(rows), *digests)
        for month, proofs, rows, *digests in re.findall(_MONTH, found["months"])
    }
    numbers = {name: int(found[name]) for name in ("number", "first", "last", "windows", "rows")}
    since, until = (datetime.fromisoformat(found[name]) for name in ("since", "until"))
    return Statement(since=since, until=until, months=months, previous=found["previous"], **numbers)


def digest_of(text: str) -> str:
    """The digest of a statement."""
    return sha256(text.encode()).hexdigest()


def _moment(moment: datetime) -> str:
    # Not strftime: it writes a year before 1000, which somebody has put into a proof, with fewer digits.
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
