"""Sealing: once an hour, what no seal covers yet is put under one, and its digest goes where no database can follow.

A seal is made in one transaction with the event about it, under the lock of the proofs. If the power goes before its
commit, there is none, and the next look makes it. After the commit its digest is logged: if the power goes between the
two, the next seal's digest, which rests on it, is the anchor for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.conf import seal_key
from towpath.events import LedgerSealed
from towpath.ledger import proofs, seals
from towpath.outbox.publishing import publish
from towpath.proof.statement import NO_DIGEST, MonthOfSeal, Statement, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.ledger.seals import Seal

log = structlog.get_logger()

#: A proof waits for a seal for so long, and is unprotected meanwhile.
INTERVAL_SECONDS = 3600.0
#: Proofs of one seal, at most: what is sorted and digested in one transaction.
_MOST_PROOFS = 500_000


def seal_if_due(*, key: str) -> int:
    """Seal when proofs have waited for an hour; how many seals that made. `key` is a private key as PEM, or empty."""
    oldest = seals.count_unsealed(limit=1).oldest_seconds
    if oldest is None or oldest < INTERVAL_SECONDS:
        return 0
    return sum(1 for _ in seal_all(key=key))


def seal_all(*, key: str) -> Iterator[Seal]:
    """Seal every proof that no seal covers, each seal in a commit of its own."""
    until = None
    while True:
        with transaction.atomic():
            seals.lock()
            # Not what is proven meanwhile, such as the window of the event about this seal: that would never end.
            until = proofs.last_position() if until is None else until
            seal = _make(until=until, key=key)
        if seal is None:
            return
        log.info("ledger_sealed", number=seal.number, digest=seal.digest)
        yield seal


def _make(*, until: int, key: str) -> Seal | None:
    before = seals.newest()
    first = before.last_position if before else 0
    last = min(until, seals.end_of(after=first, limit=_MOST_PROOFS))
    if last <= first:
        return None
    parts = seals.read_parts(after=first, until=last)
    now = seals.database_now()
    statement = Statement(
        number=before.number + 1 if before else 1,
        since=before.sealed_at if before else seals.proven_since(after=first),
        until=now,
        first=first + 1,
        last=last,
        windows=seals.count_windows(after=first, until=last),
        rows=sum(part.rows for part in parts.values()),
        months={month: MonthOfSeal.of(part) for month, part in parts.items()},
        previous=before.digest if before else NO_DIGEST,
    )
    text = statement.text()
    seal = seals.Seal(
        number=statement.number,
        last_position=last,
        sealed_at=now,
        statement=text,
        digest=digest_of(text),
        signature=seal_key.private_key(key).sign(text.encode()) if key else b"",
    )
    seals.insert(seal)
    publish(LedgerSealed(number=seal.number, digest=seal.digest, windows=statement.windows, rows=statement.rows))
    return seal
