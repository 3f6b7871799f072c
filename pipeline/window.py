"""A window's life in the ledger: seal, lease, ack. Each step is one statement, and so one commit.

Seal fixes which batches belong to the window, for good, before anything is written: a replay is then the same rows
under the same token. Leases only bound wasted work; that an old owner cannot harm is the fence in ack.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from django.conf import settings
from django.db import connection, transaction

from pipeline import stages
from pipeline.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = structlog.get_logger()

#: The longest pause before a window is tried again, seconds.
_LONGEST_PAUSE_SECONDS = 30.0

#: Seal and ack do not wait for the disk. A seal that a power cut undoes leaves its batches unsealed, and nothing was
#: written: the commit of `begin_write`, which waits, comes before and makes the seal durable with it. An ack that is
#: undone is done again, when the replay has found the window written.
_MAY_BE_LOST = "SET LOCAL synchronous_commit = off;"


@dataclass(frozen=True, slots=True)
class SealedWindow:
    """A window and the lease on it. `rows` counts the ids by outbox; `attempts` includes this one."""

    id: uuid.UUID
    lease_token: uuid.UUID
    attempts: int
    rows: Mapping[str, int]
    #: The store refused it as a whole once: it is written by halves from then on.
    is_halved: bool = False
    #: An insert of it may have been sent, now or by an owner before: it must not be split any more.
    is_write_begun: bool = False

    @property
    def row_count(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that the event store refuses by itself: a dead letter from the ack on."""

    outbox: str
    row_id: int
    error: str


def seal(batch_ids: Sequence[int]) -> SealedWindow | None:
    """Make a window of those of the batches that no window has yet; None when there are none left.

    A compare-and-set: however often a message is delivered, its batch gets into one window. If the power goes before
    the commit, the batches are unsealed as before; after it, the window's lease runs out and `recover` delivers it.
    """
    started = time.monotonic()
    window_id, lease_token = uuid.uuid4(), uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute(
            # Locked in the order of their ids: two sealers of overlapping batches would deadlock otherwise.
            _MAY_BE_LOST
            + """
WITH unsealed AS MATERIALIZED (
    SELECT id FROM pipeline_batch WHERE id = ANY(%(batches)s) AND window_id IS NULL ORDER BY id FOR UPDATE
), sealed AS (
    UPDATE pipeline_batch AS b SET window_id = %(window)s FROM unsealed
    WHERE b.id = unsealed.id AND b.window_id IS NULL
    RETURNING b.outbox, b.rows, b.bytes, b.dispatched_at
), created AS (
    INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, last_error, rows, bytes, sealed_at,
                                 dispatched_from, dispatched_to)
    SELECT %(window)s, %(token)s, clock_timestamp() + make_interval(secs => %(lease)s), 1, '', sum(rows),
           sum(bytes), clock_timestamp(), min(dispatched_at), max(dispatched_at)
    FROM sealed HAVING count(*) > 0
)
SELECT outbox, sum(rows) FROM sealed GROUP BY outbox ORDER BY outbox
""",
            {
                "batches": list(batch_ids),
                "window": window_id,
                "token": lease_token,
                "lease": settings.LEASE_SECONDS,
            },
        )
        rows = {outbox: int(count) for outbox, count in cursor.fetchall()}
    if not rows:
        return None
    context = log.bind(window=str(window_id), rows=sum(rows.values()))
    stages.done("seal", started, context, batches=len(batch_ids))
    return SealedWindow(window_id, lease_token, 1, rows)


def renew(windows: Sequence[SealedWindow]) -> None:
    """Prolong the leases that are still held."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET lease_until = clock_timestamp() + make_interval(secs => %s) "
            "WHERE id = ANY(%s) AND lease_token = ANY(%s) AND acked_at IS NULL",
            [settings.LEASE_SECONDS, [w.id for w in windows], [w.lease_token for w in windows]],
        )


def claim_expired() -> SealedWindow | None:
    """Take over the window whose lease ran out first; None when there is none."""
    lease_token = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute(
            """
UPDATE pipeline_window SET
    lease_token = %s, lease_until = clock_timestamp() + make_interval(secs => %s), attempts = attempts + 1
WHERE id = (
    SELECT id FROM pipeline_window WHERE acked_at IS NULL AND lease_until < clock_timestamp()
    ORDER BY lease_until LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, attempts, is_halved, is_write_begun, (
    SELECT json_object_agg(outbox, n) FROM (
        SELECT outbox, sum(b.rows) AS n FROM pipeline_batch AS b WHERE b.window_id = pipeline_window.id GROUP BY outbox
    ) AS by_outbox)
""",
            [lease_token, settings.LEASE_SECONDS],
        )
        found = cursor.fetchone()
    if found is None:
        return None
    window_id, attempts, is_halved, is_write_begun, rows = found
    return SealedWindow(window_id, lease_token, attempts, rows or {}, is_halved, is_write_begun)


def ack(window: SealedWindow, *, delivered: Mapping[str, int], refused: Sequence[RefusedRow] = ()) -> None:
    """Delete the window's outbox rows and batches and leave its receipt.

    Only after the store has the rows on disk. If the power goes before the commit, the window is replayed and found
    written; there is no moment at which a row is in neither place. Refused rows stay in their outbox, as dead letters.

    Raises LeaseLost, and then nothing has been deleted.
    """
    unless_dead = "EXCEPT SELECT row_id FROM dead WHERE outbox = %s" if refused else ""
    deletes = "".join(
        f", deleted_{n} AS (DELETE FROM {connection.ops.quote_name(outbox)}"
        f" WHERE id = ANY(ARRAY(SELECT unnest(ids) FROM batches WHERE outbox = %s {unless_dead})))"
        for n, outbox in enumerate(window.rows)
    )
    names = [name for outbox in window.rows for name in ((outbox, outbox) if refused else (outbox,))]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""{_MAY_BE_LOST}
WITH receipt AS (
    UPDATE pipeline_window SET acked_at = clock_timestamp(), delivered = %s, last_error = ''
    WHERE id = %s AND lease_token = %s AND acked_at IS NULL RETURNING id
), batches AS (
    DELETE FROM pipeline_batch USING receipt WHERE window_id = receipt.id RETURNING outbox, ids
), dead AS (
    INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)
    SELECT refused.outbox, refused.row_id, refused.error, receipt.id, clock_timestamp()
    FROM receipt, unnest(%s::text[], %s::bigint[], %s::text[]) AS refused (outbox, row_id, error)
    ON CONFLICT (outbox, row_id) DO UPDATE
    SET error = excluded.error, window_id = excluded.window_id, at = excluded.at
    RETURNING outbox, row_id
){deletes}
SELECT count(*) FROM receipt
""",
            [
                json.dumps(dict(delivered)),
                window.id,
                window.lease_token,
                [row.outbox for row in refused],
                [row.row_id for row in refused],
                [row.error for row in refused],
                *names,
            ],
        )
        if cursor.fetchone() == (0,):
            raise LeaseLost


def retry_later(window: SealedWindow, *, error: str) -> float:
    """Give the window back, to be taken up again after a pause that doubles with each attempt; the seconds of it."""
    pause = min(2.0 ** min(window.attempts, 10) * 0.25, _LONGEST_PAUSE_SECONDS) * random.uniform(0.75, 1.25)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET lease_until = clock_timestamp() + make_interval(secs => %s), last_error = %s "
            "WHERE id = %s AND lease_token = %s AND acked_at IS NULL",
            [pause, error, window.id, window.lease_token],
        )
    return pause


def has_room() -> bool:
    """True if fewer than MAX_OPEN_WINDOWS windows wait after a failed attempt: so long, more may be sealed.

    Batches wait as well as windows do, and cost nothing meanwhile; each open window is tried again and again.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) < %s FROM pipeline_window WHERE acked_at IS NULL AND last_error <> ''",
            [settings.MAX_OPEN_WINDOWS],
        )
        return bool(cursor.fetchone()[0])


def note_error(window: SealedWindow, *, error: str) -> None:
    """Record why an attempt failed and leave the lease to run out."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET last_error = %s WHERE id = %s AND lease_token = %s AND acked_at IS NULL",
            [error, window.id, window.lease_token],
        )


def begin_write(window: SealedWindow) -> None:
    """Record that an insert of the window may be on its way from now on, and renew the lease. Raises LeaseLost.

    A fence right before the insert: an owner that was taken over while it loaded sends nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET is_write_begun = true,"
            " lease_until = clock_timestamp() + make_interval(secs => %s)"
            " WHERE id = %s AND lease_token = %s AND acked_at IS NULL",
            [settings.LEASE_SECONDS, window.id, window.lease_token],
        )
        if not cursor.rowcount:
            raise LeaseLost


def mark_halved(window: SealedWindow) -> None:
    """Record that the window is written by halves from now on. Raises LeaseLost."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET is_halved = true WHERE id = %s AND lease_token = %s AND acked_at IS NULL",
            [window.id, window.lease_token],
        )
        if not cursor.rowcount:
            raise LeaseLost


def split(window: SealedWindow) -> None:
    """Replace a window of two rows or more by two of half its rows, free to be claimed at once. Raises LeaseLost.

    Only for a window of which nothing was written: the halves have tokens of their own.
    """
    halves = (uuid.uuid4(), uuid.uuid4())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM pipeline_window WHERE id = %s AND lease_token = %s AND acked_at IS NULL FOR UPDATE",
            [window.id, window.lease_token],
        )
        if cursor.fetchone() is None:
            raise LeaseLost
        cursor.execute(
            """
WITH whole AS (
    DELETE FROM pipeline_batch WHERE window_id = %(window)s RETURNING id, outbox, ids, bytes, dispatched_at
), members AS (
    SELECT whole.id AS batch, outbox, member, bytes / cardinality(ids) AS bytes, dispatched_at,
           row_number() OVER (ORDER BY whole.id, member) AS n, count(*) OVER () AS total
    FROM whole, unnest(ids) AS member
), created AS (
    INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, last_error, rows, bytes, sealed_at,
                                 dispatched_from, dispatched_to)
    SELECT half, half, clock_timestamp(), 0, '', count(*), sum(bytes), clock_timestamp(), min(dispatched_at),
           max(dispatched_at)
    FROM (SELECT CASE WHEN n * 2 <= total THEN %(first)s::uuid ELSE %(second)s::uuid END AS half, * FROM members) AS m
    GROUP BY half
)
INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at, window_id)
SELECT outbox, array_agg(member ORDER BY member), count(*), sum(bytes), min(dispatched_at), half
FROM (SELECT CASE WHEN n * 2 <= total THEN %(first)s::uuid ELSE %(second)s::uuid END AS half, * FROM members) AS m
GROUP BY half, batch, outbox
""",
            {"window": window.id, "first": halves[0], "second": halves[1]},
        )
        cursor.execute("DELETE FROM pipeline_window WHERE id = %s", [window.id])
