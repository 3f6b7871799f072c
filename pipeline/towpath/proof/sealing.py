"""Sealing: once an hour, a seal is made for the proofs that none covers yet, and its digest leaves the database.

A seal and its event are made in one transaction, under the lock of the proofs. If the power fails before its commit,
there is no seal, and the next look makes it. After the commit its digest is logged. If the power fails between the two,
the next seal's digest, which refers to it, is the anchor for both.
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

#: A proof waits this long for a seal, and is unprotected until then.
INTERVAL_SECONDS = 3600.0
#: The most proofs of one seal, not counting the last ones of a window: all of them are sorted and digested in one
#: transaction.
_MOST_PROOFS = 500_000


def seal_if_due(*, key: str) -> int:
    """Seal if proofs have waited for an hour. Returns the number of new seals. `key` is a private key as PEM, or
    empty."""
    oldest = seals.count_unsealed(limit=1).oldest_seconds
    # Below 0, the proof is from before the database's clock was set back. It must not wait for that time to come.
    if oldest is None or 0 <= oldest < INTERVAL_SECONDS:
        return 0
    return sum(1 for _ in seal_all(key=key))


def seal_all(*, key: str) -> Iterator[Seal]:
    """Seal every proof that no seal covers, with a commit for each seal."""
    until = None
    while True:
        with transaction.atomic():
            seals.lock()
            # Not proofs that come in the meantime, such as that of this seal's own event: that would never end.
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
    parts = seals.read_parts(after=first, until=last, is_sealed=False)
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
