"""What the ledger knows about one window: when it was dispatched, delivered, verified and sealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from towpath import driver
from towpath.ledger.packed import OF_WINDOWS, windows_sought
from towpath.ledger.proofs import said_time

if TYPE_CHECKING:
    from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class WindowOfEvent:
    """The window itself, which becomes its receipt, and is deleted after RECEIPT_DAYS."""

    dispatched_from: datetime
    dispatched_to: datetime
    sealed_at: datetime
    attempts: int
    #: All rows in it, of every outbox.
    rows: int
    acked_at: datetime | None
    verified_at: datetime | None
    contradiction: str | None


@dataclass(frozen=True, slots=True)
class ProofOfEvent:
    """A proof of the event's window, outbox and month, or an amendment of one, and the seal that covers it."""

    kind: str
    rows: int
    digest: str
    #: None, as the next one: it is packed.
    dispatched_at: datetime | None
    proven_at: datetime | None
    reason: str
    contradiction: str | None
    #: None: no seal covers it yet.
    seal: int | None
    seal_at: datetime | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """The history of an event's window. Both parts are empty if no window of this ledger brought the event."""

    receipt: WindowOfEvent | None
    #: Oldest first.
    proofs: tuple[ProofOfEvent, ...]


def read(window_id: UUID, *, outbox: str, month: date) -> Provenance:
    """Return the part of a window's history that concerns one outbox and month."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {said_time("dispatched_from")}, {said_time("dispatched_to")}, {said_time("sealed_at")}, attempts,
                (SELECT sum(value::bigint)::bigint FROM jsonb_each_text(rows)),
                CASE WHEN acked_at IS NOT NULL THEN {said_time("acked_at")} END,
                CASE WHEN verified_at IS NOT NULL THEN {said_time("verified_at")} END, contradiction
            FROM pipeline_window WHERE id = %(window)s
            """,
            {"window": window_id},
        )
        found = cursor.fetchone()
        cursor.execute(
            f"""
            SELECT kind, proof.rows, encode(proof.digest, 'hex'),
                CASE WHEN NOT is_packed THEN {said_time("dispatched_from")} END,
                CASE WHEN NOT is_packed THEN {said_time("proven_at")} END, reason, (
                    SELECT contradiction FROM pipeline_contradictedwindow WHERE window_id = proof.window_id
                ), seal.number, CASE WHEN seal.number IS NOT NULL THEN {said_time("seal.sealed_at")} END
            FROM {OF_WINDOWS} AS proof LEFT JOIN LATERAL (
                SELECT number, sealed_at FROM pipeline_seal WHERE last_position >= proof.position
                ORDER BY number LIMIT 1
            ) AS seal ON true
            WHERE outbox = %(outbox)s AND month = %(month)s ORDER BY position
            """,
            windows_sought([window_id]) | {"outbox": outbox, "month": month.replace(day=1)},
        )
        return Provenance(
            None if found is None else WindowOfEvent(*found), tuple(ProofOfEvent(*row) for row in cursor.fetchall())
        )
