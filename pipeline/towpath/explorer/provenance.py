"""Provenance: how an event got into the log, step by step, and what proves that it has not changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from towpath.eventlog.stored import StoredEvent
    from towpath.ledger.provenance import ProofOfEvent, Provenance

#: The names of the amendments of a proof.
_AMENDMENTS = {"erased": "Erased", "accepted": "Accepted", "dropped": "Dropped"}
_UNITS = (
    (timedelta(days=1), "d"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step on the event's way into the log: done, still to come, or a problem."""

    name: str
    at: datetime | None
    note: str
    state: Literal["done", "waiting", "problem"] = "done"


def steps(event: StoredEvent, known: Provenance) -> list[Step]:
    """Return the steps of a stored event, in order."""
    return [*_delivery(event, known), *_proof(event, known)]


def _delivery(event: StoredEvent, known: Provenance) -> Iterator[Step]:
    yield Step("Published", event.event_date_time, f"{event.outbox} {event.outbox_id}")
    window = f"window {str(event.window_id)[-8:]}"
    receipt, proofs = known.receipt, known.proofs
    dispatched_at = receipt.dispatched_from if receipt else proofs[0].dispatched_at if proofs else None
    if dispatched_at is None and proofs:
        yield Step("Dispatched", None, "This time is only kept for RECEIPT_DAYS.")
        yield Step("Stored", event.written_at, window)
        return
    if dispatched_at is None:
        yield Step(
            "Dispatched",
            None,
            f"The ledger does not know {window}. Its receipt may be too old, or the row was added by hand. To find"
            " out, run: manage.py pipeline verify --deep",
            "problem",
        )
        yield Step("Stored", event.written_at, window)
        return
    yield Step("Dispatched", dispatched_at, _gap(dispatched_at - event.event_date_time))
    parts = [_gap(event.written_at - dispatched_at), window]
    if receipt:
        parts.append(f"{receipt.rows:,} row{'s' * (receipt.rows != 1)}")
        if receipt.attempts > 1:
            parts.append(f"attempt {receipt.attempts}")
    yield Step("Stored", event.written_at, " · ".join(parts))


def _proof(event: StoredEvent, known: Provenance) -> Iterator[Step]:
    receipt, proofs = known.receipt, known.proofs
    if receipt is None and not proofs:
        return
    contradiction = next((one.contradiction for one in reversed(proofs) if one.contradiction), None)
    if contradiction or (receipt and receipt.contradiction):
        yield Step("Verified", None, contradiction or str(receipt and receipt.contradiction), "problem")
    elif not proofs:
        yield Step("Verified", None, "about a minute after it is stored", "waiting")
    else:
        first = proofs[0]
        rows = f"{first.rows:,} row{'s' * (first.rows != 1)} of {event.outbox}, digest {first.digest[:8]}"
        yield Step("Verified", first.proven_at, rows)
    for proof in proofs:
        if proof.kind != "verified":
            yield Step(_AMENDMENTS.get(proof.kind, "Amended"), proof.proven_at, proof.reason)
    if proofs:
        yield _seal(proofs[-1])


def _seal(proof: ProofOfEvent) -> Step:
    if proof.seal is None:
        return Step("Sealed", None, "within the hour", "waiting")
    return Step("Sealed", proof.seal_at, f"seal {proof.seal:,}")


def _gap(length: timedelta) -> str:
    """Return how long a step took: `+0.63 s`, `+3 h`. It is empty if it is negative, since two clocks may differ."""
    if length < timedelta(0):
        return ""
    for unit, name in _UNITS:
        if length >= unit:
            return f"+{length // unit} {name}"
    return f"+{length.total_seconds():.2f} s"
