"""The chain of seals: each refers to the previous one, and to the proofs that it covers. Anchors are digests of seals
that are kept where no one who can change the ledger can change them.

The chain alone shows that one seal was changed, but not that all from one seal on were made again. An anchor shows
that, and also that the end was cut off.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from towpath.conf import seal_key
from towpath.ledger import seals
from towpath.ledger.dropped import dropped_months
from towpath.proof.statement import NO_DIGEST, digest_of, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    from towpath.ledger.seals import Seal
    from towpath.proof.statement import Statement

Broken = Literal["missing", "rewritten", "unchained", "unsigned", "forged", "proofs", "anchor"]


@dataclass(frozen=True, slots=True)
class BrokenSeal:
    """A seal that does not hold, and why."""

    number: int
    kind: Broken
    detail: str
    #: If proofs that it covers were changed: their positions and their month.
    first: int = 0
    last: int = 0
    month: date | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """A seal's number and digest that were kept elsewhere, and where."""

    number: int
    digest: str
    where: str


#: So many missing seals in a row are named. Somebody may have put one with any number behind the last.
_MOST_MISSING = 1000

#: A line with one of them that is not JSON was an anchor.
_WORDS_OF_ANCHORS = ('"digest"', '"sealed_at"', '"statement"', "ledger_sealed")


def read_anchors(lines: Iterable[str], *, name: str) -> Iterator[Anchor]:
    """Yield the anchors of a file: lines of JSON with `number` and `digest`, as `pipeline seals export` prints them, or
    lines of a log in which `event` is `ledger_sealed`. Other lines are skipped.

    Raises ValueError, which names the line, for a line that should be an anchor but is not: one that a full disk has
    cut off must not go unnoticed.
    """
    for count, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except ValueError:
            if line.lstrip().startswith("{") and any(word in line for word in _WORDS_OF_ANCHORS):
                raise ValueError(
                    f"{name}:{count} is cut off, or has two lines in one: export that seal again"
                ) from None
            continue
        if (
            not isinstance(found, dict)
            or "digest" not in found
            or found.get("event", "ledger_sealed") != "ledger_sealed"
        ):
            continue
        number, digest = found.get("number"), found["digest"]
        if not isinstance(number, int) or not isinstance(digest, str):
            raise ValueError(f"{name}:{count} has a digest but no number: it is not an anchor")  # noqa: TRY004 - a text is wrong
        yield Anchor(number, digest, f"{name}:{count}")


def check(*, anchors: Iterable[Anchor] = (), public_key: str = "") -> Iterator[Seal | BrokenSeal]:
    """Walk the chain from the first seal to the last, and yield each seal after what is wrong with it.

    With `public_key`, a PEM text, the newest seal must be signed with that key. A signed seal vouches for all before
    it, because each refers to the previous one. Those that none vouches for come at the end. Proofs of
    a dropped month are not expected. Raises ValueError or ModuleNotFoundError if the key is not valid.
    """
    key = seal_key.public_key(public_key) if public_key else None
    dropped = dropped_months()
    previous, number, position = NO_DIGEST, 0, 0
    digests: dict[int, str] = {}
    unsigned: list[BrokenSeal] = []
    for outside in seals.numbers_below_first():
        yield BrokenSeal(outside, "unchained", "seals are numbered from 1: somebody has put it there")
    for seal in seals.all_seals():
        yield from _missing(range(number + 1, seal.number))
        number = seal.number
        digests[number] = seal.digest
        if seal.digest != digest_of(seal.statement):
            yield BrokenSeal(number, "rewritten", "its digest does not match its statement")
        statement = None
        try:
            statement = parse(seal.statement)
        except ValueError as error:
            yield BrokenSeal(number, "rewritten", str(error))
        else:
            yield from _statement(seal, statement, previous=previous, after=position)
            yield from _proofs(statement, dropped)
        if key is not None and (problem := _problem_of_signature(seal, key)):
            unsigned.append(problem)
        elif statement is not None and statement.previous == previous:
            unsigned.clear()
        previous, position = digest_of(seal.statement), seal.last_position
        yield seal
    yield from unsigned
    yield from _anchors(anchors, digests)


def _missing(numbers: range) -> Iterator[BrokenSeal]:
    for missing in numbers[:_MOST_MISSING]:
        yield BrokenSeal(missing, "missing", "it was removed")
    if more := numbers[_MOST_MISSING:]:
        yield BrokenSeal(more[-1], "missing", f"it was removed, and so were all from {more[0]} on")


def _problem_of_signature(seal: Seal, key: object) -> BrokenSeal | None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

    if not seal.signature:
        return BrokenSeal(seal.number, "unsigned", "it has no signature, and no later seal is signed with this key")
    try:
        key.verify(seal.signature, seal.statement.encode())  # type: ignore[attr-defined]
    except InvalidSignature:
        detail = "its signature does not match this key and this statement, and no later seal is signed with this key"
        return BrokenSeal(seal.number, "forged", detail)
    return None


def _statement(seal: Seal, statement: Statement, *, previous: str, after: int) -> Iterator[BrokenSeal]:
    if statement.number != seal.number or statement.last != seal.last_position:
        yield BrokenSeal(seal.number, "rewritten", "its statement belongs to another seal")
    if statement.until != seal.sealed_at:
        yield BrokenSeal(seal.number, "rewritten", "its statement has another time")
    if statement.previous != previous:
        yield BrokenSeal(seal.number, "unchained", "it does not refer to the previous seal")
    elif statement.first != after + 1:
        yield BrokenSeal(seal.number, "unchained", "it does not begin where the previous seal ends")


def _proofs(statement: Statement, dropped: Mapping[date, int]) -> Iterator[BrokenSeal]:
    parts = seals.read_parts(after=statement.first - 1, until=statement.last)
    for month in sorted({*parts, *statement.months}, key=str):
        part, sealed = parts.get(month), statement.months.get(month)
        if part and sealed and sealed.covers(part):
            continue
        # It may have been dropped while the chain was walked.
        if month and any(gone.get(month, 0) > statement.last for gone in (dropped, dropped_months())):
            continue
        name = f"{month:%Y-%m}" if month else "without a month"
        counts = f"{part.proofs if part else 0} found, {sealed.proofs if sealed else 0} sealed"
        yield BrokenSeal(
            statement.number,
            "proofs",
            f"the proofs of {name} do not match those that it covers ({counts})",
            first=statement.first,
            last=statement.last,
            month=month,
        )


def _anchors(anchors: Iterable[Anchor], digests: Mapping[int, str]) -> Iterator[BrokenSeal]:
    for anchor in anchors:
        digest = digests.get(anchor.number)
        if digest is None:
            yield BrokenSeal(anchor.number, "anchor", f"{anchor.where} has its digest, but the seal is gone")
        elif digest != anchor.digest:
            yield BrokenSeal(
                anchor.number,
                "anchor",
                f"{anchor.where} has another digest: this seal and all later ones were made again",
            )
