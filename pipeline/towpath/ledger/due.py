"""What verification should have done by now: the scheduler's tick asks for it once a minute, and nobody else does.

So a process that gets no tick asks this. It is one statement with a few probes of indexes, which costs little.
"""

from __future__ import annotations

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY
from towpath.ledger.receipts import IS_OVERDUE, IS_PURGE_DUE
from towpath.ledger.sampling import IS_SAMPLE_DUE
from towpath.ledger.seals import IS_SEAL_DUE


def is_verification_due(*, since_seconds: float, seal_after_seconds: float, receipt_days: int) -> bool:
    """True if receipts, a seal, the nightly sample or a purge have been due for so long, and nobody has come."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"{INDEX_PROBES_ONLY} SELECT {IS_OVERDUE} OR {IS_SEAL_DUE} OR {IS_SAMPLE_DUE} OR {IS_PURGE_DUE}",
            {"seconds": since_seconds, "seal_seconds": seal_after_seconds, "days": receipt_days},
        )
        return bool(cursor.fetchone()[0])
