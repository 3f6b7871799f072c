"""An open window in the ledger, from seal to ack. Each step is one statement, and so one commit.

Seal fixes for good which batches belong to the window, before anything is written, so a replay has the same rows under
the same token. Leases only limit wasted work. What keeps an old owner from doing harm is the fence in each statement,
`HELD`.
"""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import transaction

from towpath import driver
from towpath.errors import LeaseLost
from towpath.ledger.marks import INDEX_PROBES_ONLY, INSERTING_BATCHES, INSERTING_WINDOWS
from towpath.ledger.open_windows import HAS_UNKNOWN_ROWS, OPEN_WINDOWS, Found
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


#: How often one more window is sealed while the store refuses everything, in seconds: less than a lease.
_PROBE_SECONDS = 4.0

#: Seal and ack do not wait for the disk. If a power cut undoes a seal, its batches are unsealed, and nothing was
#: written: the commit of `begin_write`, which does wait, comes before the write, and makes the seal durable as well. If
#: it undoes an ack, the replay finds the window written, and acks again.
MAY_BE_LOST = "SET LOCAL synchronous_commit = off;"

#: True as long as the owner has the window: its lease was not taken over, and it is open.
HELD = "id = %(window)s AND lease_token = %(token)s AND acked_at IS NULL"


@dataclass(frozen=True, slots=True)
class SealedWindow:
    """A window and the lease on it. `rows` counts the ids by outbox; `attempts` includes this one."""

    id: uuid.UUID
    lease_token: uuid.UUID
    #: How long the lease lasts each time it is renewed.
    lease_seconds: float
    attempts: int
    rows: Mapping[str, int]
    #: How often it is cut in two before its first insert: the store did not answer larger ones.
    cut_levels: int = 0
    #: An insert of it may have been sent, by this owner or an earlier one: it must not be split any more.
    is_write_begun: bool = False
    #: Its rows are at fault, and isolated from others.
    is_isolated: bool = False
    #: When the store first answered without taking it.
    refused_at: datetime | None = None
    #: Outboxes, by the names that they had when the window was sealed. Its rows are stored under these names.
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be stored, whatever comes with it. From the ack on it is a dead letter."""

    outbox: str
    row_id: int
    error: str


def new_window_id() -> uuid.UUID:
    """Return an id that begins with the time, to the millisecond: a UUID of version 7 (RFC 9562, section 5.7).

    Windows of one hour are neighbours by their ids, which is how packed proofs are found (`towpath.ledger.packed`).
    Nothing depends on the clock: windows that are far apart from others of their hour only take longer to find. People
    are shown the last digits, because neighbours have the same first ones.
    """
    milliseconds = time.time_ns() // 1_000_000
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62))


def seal(batch_ids: Sequence[int], *, lease_seconds: float, found: Found = "message") -> SealedWindow | None:
    """Make a window of those batches that are in none yet; None if there are none left.

    Batches of an outbox that this program does not know are left to programs that know it.

    It is a compare-and-set: however often a message is delivered, its batch gets into one window. If the power fails
    before the commit, the batches stay unsealed. After it, the window's lease runs out, and `recover` delivers it.
    """
    window_id, lease_token = new_window_id(), uuid.uuid4()
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{MAY_BE_LOST} {INDEX_PROBES_ONLY} {INSERTING_WINDOWS}
            WITH unsealed AS MATERIALIZED (
                -- In the order of their ids: two sealers of overlapping batches would deadlock otherwise.
                SELECT id FROM pipeline_batch
                WHERE id = ANY(%(batches)s) AND window_id IS NULL AND outbox = ANY(%(known)s)
                ORDER BY id FOR UPDATE
            ), sealed AS (
                UPDATE pipeline_batch SET window_id = %(window)s
                WHERE id = ANY(ARRAY(SELECT id FROM unsealed)) AND window_id IS NULL
                RETURNING outbox, rows, bytes, dispatched_at
            ), by_outbox AS (
                SELECT outbox, sum(rows) AS rows, sum(bytes) AS bytes, min(dispatched_at) AS first,
                       max(dispatched_at) AS last
                FROM sealed GROUP BY outbox
            ), created AS (
                INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, rows, bytes, sealed_at,
                                             dispatched_from, dispatched_to, found)
                SELECT %(window)s, %(token)s, clock_timestamp() + make_interval(secs => %(lease)s), 1,
                       jsonb_object_agg(outbox, rows), sum(bytes), clock_timestamp(), min(first), max(last), %(found)s
                FROM by_outbox HAVING count(*) > 0
            )
            SELECT outbox, rows FROM by_outbox ORDER BY outbox
            """,
            {
                "batches": list(batch_ids),
                "known": list(all_outboxes()),
                "window": window_id,
                "token": lease_token,
                "lease": lease_seconds,
                "found": found,
            },
        )
        rows = {outbox: int(count) for outbox, count in cursor.fetchall()}
    return SealedWindow(window_id, lease_token, lease_seconds, 1, rows) if rows else None


def renew(windows: Sequence[SealedWindow]) -> None:
    """Extend the leases that are still held."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipeline_window SET lease_until = clock_timestamp() + make_interval(secs => (
                SELECT held.seconds FROM unnest(%(tokens)s, %(seconds)s::float8[]) AS held (token, seconds)
                WHERE held.token = lease_token
            ))
            WHERE id = ANY(%(windows)s) AND lease_token = ANY(%(tokens)s) AND acked_at IS NULL
            """,
            {
                "windows": [window.id for window in windows],
                "tokens": [window.lease_token for window in windows],
                "seconds": [window.lease_seconds for window in windows],
            },
        )


def claim_expired(
    *, lease_seconds: float, is_isolated: bool = False, renamed: Mapping[str, str] | None = None
) -> SealedWindow | None:
    """Take over the window whose lease ran out first: among isolated windows, or among the others. None if there is
    none.

    Windows with rows of an outbox that this program does not know are left to programs that know it. With `renamed`
    outboxes, only windows with rows of these are taken, of either kind.
    """
    renamed = renamed or {}
    lease_token = uuid.uuid4()
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            UPDATE pipeline_window SET
                lease_token = %(token)s, lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
                attempts = attempts + 1
            WHERE id = (
                SELECT id FROM pipeline_window AS w
                WHERE id = ANY(ARRAY(SELECT id FROM {OPEN_WINDOWS} AS open WHERE lease_until < statement_timestamp()))
                AND acked_at IS NULL AND lease_until < statement_timestamp() AND NOT {HAS_UNKNOWN_ROWS}
                AND CASE WHEN %(renamed)s::text[] = '{{}}' THEN is_isolated = %(is_isolated)s ELSE EXISTS (
                    SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND b.outbox = ANY(%(renamed)s) OFFSET 0
                ) END
                ORDER BY lease_until LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            RETURNING id, attempts, cut_levels, is_write_begun, is_isolated, refused_at, (
                SELECT json_object_agg(outbox, n) FROM (
                    SELECT outbox, sum(b.rows) AS n FROM pipeline_batch AS b WHERE b.window_id = pipeline_window.id
                    GROUP BY outbox
                ) AS by_outbox
            )
            """,
            {
                "token": lease_token,
                "lease": lease_seconds,
                "is_isolated": is_isolated,
                "known": [*all_outboxes(), *renamed],
                "renamed": list(renamed),
            },
        )
        found = cursor.fetchone()
    if found is None:
        return None
    window_id, attempts, cut_levels, is_write_begun, is_isolated, refused_at, rows = found
    return SealedWindow(
        id=window_id,
        lease_token=lease_token,
        lease_seconds=lease_seconds,
        attempts=attempts,
        rows=rows or {},
        cut_levels=cut_levels,
        is_write_begun=is_write_begun,
        is_isolated=is_isolated,
        refused_at=refused_at,
        renamed=renamed,
    )


def _update_held(window: SealedWindow, assignments: str, **parameters: Any) -> None:
    """Update the window, if this owner still has it. Raises LeaseLost."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"UPDATE pipeline_window SET {assignments} WHERE {HELD}",
            {"window": window.id, "token": window.lease_token, **parameters},
        )
        if not cursor.rowcount:
            raise LeaseLost


def begin_write(window: SealedWindow) -> None:
    """Record that from now on an insert of the window may be on its way, and renew the lease. Raises LeaseLost.

    It is a fence right before the insert: an owner that lost the window while loading sends nothing.
    """
    _update_held(
        window,
        "is_write_begun = true, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)",
        lease=window.lease_seconds,
    )


def cut(window: SealedWindow, levels: int) -> None:
    """Record that the window is cut in two this many times before its first insert. Raises LeaseLost."""
    _update_held(window, "cut_levels = greatest(cut_levels, %(levels)s)", levels=levels)


def postpone(
    window: SealedWindow,
    *,
    error: str,
    pause_seconds: float | None,
    is_refused: bool = False,
    is_isolated: bool = False,
) -> None:
    """Record why an attempt failed, and give the window back after a pause; if that is None, when its lease runs out.

    `is_refused`: the store answered, but did not take the window. `is_isolated`: its own rows are at fault, and from
    now on it holds up no other window. Raises LeaseLost.
    """
    _update_held(
        window,
        """
        lease_until = coalesce(clock_timestamp() + make_interval(secs => %(pause)s), lease_until),
        failed_at = clock_timestamp(), last_error = %(error)s,
        refused_at = CASE WHEN %(is_refused)s THEN coalesce(refused_at, clock_timestamp()) ELSE refused_at END,
        is_isolated = is_isolated OR %(is_isolated)s,
        is_late = is_late OR is_isolated OR %(is_isolated)s
        """,
        pause=pause_seconds,
        error=error,
        is_refused=is_refused,
        is_isolated=is_isolated,
    )


def split(window: SealedWindow) -> None:
    """Replace a window of two or more rows by two halves, free to be claimed immediately. Raises LeaseLost.

    Only for a window of which nothing was written: the halves have new tokens.
    """
    with transaction.atomic(), driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY} {INSERTING_WINDOWS} {INSERTING_BATCHES}
            WITH held AS MATERIALIZED (
                SELECT id FROM pipeline_window WHERE {HELD} FOR UPDATE
            ), whole AS (
                DELETE FROM pipeline_batch WHERE window_id = (SELECT id FROM held)
                RETURNING id, outbox, ids, bytes, dispatched_at
            ), members AS (
                SELECT whole.id AS batch, outbox, member, bytes / cardinality(ids) AS bytes, dispatched_at,
                       row_number() OVER (ORDER BY whole.id, member) AS n, count(*) OVER () AS total
                FROM whole, unnest(ids) AS member
            ), halved AS (
                SELECT CASE WHEN n * 2 <= total THEN %(first)s::uuid ELSE %(second)s::uuid END AS half, * FROM members
            ), by_outbox AS (
                SELECT half, outbox, count(*) AS rows, sum(bytes) AS bytes, min(dispatched_at) AS first,
                       max(dispatched_at) AS last
                FROM halved GROUP BY half, outbox
            ), created AS (
                INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, rows, bytes, sealed_at,
                                             dispatched_from, dispatched_to, is_isolated, is_late)
                SELECT half, half, clock_timestamp(), 0, jsonb_object_agg(outbox, rows), sum(bytes), clock_timestamp(),
                       min(first), max(last), %(is_isolated)s, %(is_isolated)s
                FROM by_outbox GROUP BY half
            )
            INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at, window_id)
            SELECT outbox, array_agg(member ORDER BY member), count(*), sum(bytes), min(dispatched_at), half
            FROM halved GROUP BY half, batch, outbox
            """,
            {
                "window": window.id,
                "token": window.lease_token,
                "first": new_window_id(),
                "second": new_window_id(),
                "is_isolated": window.is_isolated,
            },
        )
        if not cursor.rowcount:
            raise LeaseLost
        cursor.execute("DELETE FROM pipeline_window WHERE id = %(window)s", {"window": window.id})


def has_room(*, max_open_windows: int) -> bool:
    """True if fewer windows than these wait after a failed attempt: then more may be sealed.

    Batches can wait as well, and cost nothing, while each open window is tried again and again. Isolated windows do not
    count. If the store answers but takes nothing, one more window is sealed every few seconds: if the store takes that
    one, the earlier windows are at fault, and not the store.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT count(*) FILTER (WHERE failed_at IS NOT NULL) < %(most)s
                OR bool_or(refused_at IS NOT NULL)
                   AND max(sealed_at) < clock_timestamp() - make_interval(secs => %(probe)s)
            FROM {OPEN_WINDOWS} AS w WHERE NOT is_isolated AND NOT {HAS_UNKNOWN_ROWS}
            """,
            {"most": max_open_windows, "probe": _PROBE_SECONDS, "known": list(all_outboxes())},
        )
        return bool(cursor.fetchone()[0])


def is_store_proven(window: SealedWindow) -> bool:
    """True if the store took rows of a window that was sealed after it had refused this one: then this window is at
    fault, and not the store."""
    if window.refused_at is None:
        return False
    with driver.cursor() as cursor:
        cursor.execute(
            # From the newest one down: if the store takes any window, it is not far; if it takes none, there are not
            # many.
            f"""{INDEX_PROBES_ONLY}
            SELECT FROM pipeline_window
            WHERE number > (SELECT number FROM pipeline_window WHERE id = %(window)s)
              AND acked_at > %(refused)s AND sealed_at > %(refused)s
              AND EXISTS (SELECT FROM jsonb_each_text(delivered) WHERE value::bigint > 0)
            ORDER BY number DESC LIMIT 1
            """,
            {"window": window.id, "refused": window.refused_at},
        )
        return bool(cursor.rowcount)
