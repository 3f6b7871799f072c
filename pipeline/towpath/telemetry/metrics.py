"""Every metric of the pipeline, declared once, with its name, in the order of the flow. docs/operating.md says more.

Counters and histograms belong to the process that counts: workers and the scheduler serve their own on METRICS_PORT.
They are touched once per window or per tick, never per row. The gauges of the ledger are read from PostgreSQL when the
web process is scraped (pipeline/towpath/watch/gauges.py), so that they are true whatever else is down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import Counter, Gauge, Histogram, start_http_server

if TYPE_CHECKING:
    from collections.abc import Iterable

Stage = Literal["dispatch", "accumulate", "seal", "load", "write", "ack"]
#: Why a window was closed: enough rows or bytes, the linger time over, the process stopping, or found by recovery.
CloseReason = Literal["rows", "bytes", "linger", "shutdown", "recovery"]
#: How an insert ended; all but `stored` are errors of `towpath.eventlog.errors`.
InsertOutcome = Literal["stored", "refused", "too_large", "unavailable", "unknown"]
#: Why a window is tried again: `failed` is any reason other than the event store.
RetryReason = Literal["unavailable", "unknown", "schema", "failed"]
#: Why recovery delivers a window: nobody had sealed its batches, or its lease had expired.
RecoverReason = Literal["unsealed", "expired"]
#: Why a message is removed from its queue unused: too large; not one JSON object; not dramatiq's fields; not an actor
#: of this queue; not this actor's arguments; options that we do not send; in a queue for delayed messages, which we do
#: not use; a batch that the ledger does not have, or that is already in a window.
RejectReason = Literal["size", "json", "fields", "actor", "arguments", "options", "delayed", "foreign", "batch"]
#: How a receipt compares with the event store.
VerifyOutcome = Literal["match", "mismatch"]

_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_END_TO_END_SECONDS = (0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)
_WINDOW_ROWS = (1, 10, 100, 500, 1000, 2000, 5000, 10_000, 20_000)

#: By actor, so that only the scheduler has any: without a label, every worker would report 1970.
last_tick = Gauge(
    "towpath_last_tick_timestamp_seconds",
    "When RabbitMQ last accepted the scheduler's message to this actor; one is sent every minute",
    ["actor"],
)
dispatched_rows = Counter(
    "towpath_dispatched_rows", "Committed outbox rows, counted when dispatch puts them into a batch", ["outbox"]
)
batches = Counter("towpath_batches", "Batches of ids committed by dispatch", ["outbox"])
windows = Counter(
    "towpath_windows",
    "Windows closed because of `rows`, `bytes`, `linger` (the time was up), `shutdown` (the process"
    " is stopping) or `recovery` (batches that nobody had sealed)",
    ["reason"],
)
window_rows = Histogram("towpath_window_rows", "Rows of each delivered window", buckets=_WINDOW_ROWS)
stage_seconds = Histogram(
    "towpath_stage_seconds",
    "Seconds that a stage took: a look that found rows (`dispatch`), the wait of a window's first batch"
    " (`accumulate`), `seal`, `load`, `write`, `ack`",
    ["stage"],
    buckets=_STAGE_SECONDS,
)
loaded_bytes = Counter("towpath_loaded_bytes", "Bytes of rows read by load, as COPY text")
vanished_rows = Counter(
    "towpath_vanished_rows",
    "Rows that were deleted from their outbox between dispatch and load: they are not stored",
    ["outbox"],
)
inserts = Counter(
    "towpath_inserts",
    "Inserts sent to the event store: `stored`, `refused`, `too_large`, `unavailable`, `unknown` (the answer was lost)",
    ["outcome"],
)
acked_rows = Counter("towpath_acked_rows", "Rows stored in the event store and deleted from their outbox", ["outbox"])
refused_rows = Counter("towpath_refused_rows", "Rows that became dead letters", ["outbox"])
retries = Counter(
    "towpath_retries",
    "Deliveries that must be tried again: `unavailable`, `unknown`, `schema` (no row of the window was"
    " taken), `failed` (something other than the event store)",
    ["reason"],
)
leases_lost = Counter("towpath_leases_lost", "Deliveries that found their window taken over by another process")
recovered_windows = Counter(
    "towpath_recovered_windows",
    "Windows that recovery delivered: their batches were `unsealed` for too long, or their lease had `expired`",
    ["reason"],
)
end_to_end_seconds = Histogram(
    "towpath_end_to_end_seconds",
    "Seconds from an event's own time to its ack, for the first and the last row of each window",
    buckets=_END_TO_END_SECONDS,
)
rejected_messages = Counter(
    "towpath_rejected_messages",
    "Messages removed unused from the pipeline's queues. Wrong in themselves: `size`, `json` (not one JSON object),"
    " `fields`, `actor`, `arguments`, `options`, `delayed`. `foreign`: of another project. `batch`: not in the ledger,"
    " or already in a window.",
    ["reason"],
)
verified_windows = Counter(
    "towpath_verified_windows",
    "Receipts compared with the event store: `match`, or `mismatch` (counted each minute while it lasts)",
    ["outcome"],
)


@dataclass(frozen=True, slots=True)
class LedgerGauge:
    """A gauge that is computed from PostgreSQL at the scrape."""

    name: str
    help: str
    label: str | None = None


pending_rows = LedgerGauge("towpath_pending_rows", "Rows in no batch yet; an estimate above 10,000", "outbox")
in_flight_rows = LedgerGauge("towpath_in_flight_rows", "Rows between dispatch and ack", "outbox")
oldest_age_seconds = LedgerGauge(
    "towpath_oldest_age_seconds",
    "Age of the oldest undelivered event that is not a dead letter, by its own time; 0 when there is none",
    "outbox",
)
dead_letters = LedgerGauge(
    "towpath_dead_letters", "Rows that the event store refuses, and that wait for a person", "outbox"
)
last_dispatch = LedgerGauge(
    "towpath_last_dispatch_timestamp_seconds", "When rows of the outbox were last put into batches", "outbox"
)
canary_seconds = LedgerGauge(
    "towpath_canary_seconds",
    "Seconds that the last canary took from its commit to the event store. Longer if a later one has waited for longer,"
    " or should have been sent so long ago. Absent without `CANARY_SECONDS`.",
)
unsealed_batches = LedgerGauge("towpath_unsealed_batches", "Batches in no window yet")
open_windows = LedgerGauge("towpath_open_windows", "Windows between seal and ack")
expired_leases = LedgerGauge("towpath_expired_leases", "Open windows without an owner: recovery delivers them")
shift_alive_age_seconds = LedgerGauge(
    "towpath_shift_alive_age_seconds",
    "Seconds since the shift (`dispatch`, `recover`) last said that it is alive, which it does every second",
    "shift",
)
shift_taken_age_seconds = LedgerGauge(
    "towpath_shift_taken_age_seconds",
    "Seconds since a tick of the scheduler for this shift last arrived; one is due every minute",
    "shift",
)
unverified_age_seconds = LedgerGauge(
    "towpath_unverified_age_seconds", "Age of the oldest receipt not yet compared with the event store; 0 without one"
)
mismatched_windows = LedgerGauge(
    "towpath_mismatched_windows", "Receipts that do not match the event store, or do not add up"
)
contradicted_proofs = LedgerGauge(
    "towpath_contradicted_proofs", "Windows that were changed in the event store after they were proven"
)
vanished_windows = LedgerGauge(
    "towpath_vanished_windows",
    "Windows whose rows somebody deleted, in part or all, before they were loaded; until a person closes the alarm",
)
unsealed_proofs_age_seconds = LedgerGauge(
    "towpath_unsealed_proofs_age_seconds", "Age of the oldest proof that no seal covers yet; 0 without one"
)
vacuum_held_seconds = LedgerGauge(
    "towpath_vacuum_held_seconds",
    "How long the oldest `session`, `standby` without a slot, replication `slot` or `prepared`"
    " transaction has held back vacuum; 0 when there is none",
    "holder",
)

LEDGER_GAUGES = (
    pending_rows,
    in_flight_rows,
    oldest_age_seconds,
    dead_letters,
    last_dispatch,
    canary_seconds,
    unsealed_batches,
    open_windows,
    expired_leases,
    shift_alive_age_seconds,
    shift_taken_age_seconds,
    unverified_age_seconds,
    mismatched_windows,
    contradicted_proofs,
    vanished_windows,
    unsealed_proofs_age_seconds,
    vacuum_held_seconds,
)

# A series that appears with its first error has no rate then: each begins with 0. (Those of an outbox: in `serve`.)
for _metric, _values in (
    (windows, get_args(CloseReason)),
    (stage_seconds, get_args(Stage)),
    (inserts, get_args(InsertOutcome)),
    (retries, get_args(RetryReason)),
    (recovered_windows, get_args(RecoverReason)),
    (verified_windows, get_args(VerifyOutcome)),
    (rejected_messages, get_args(RejectReason)),
):
    for _value in _values:
        _metric.labels(_value)


def serve(port: int, *, outboxes: Iterable[str]) -> None:
    """Serve this process's metrics at http://*:port/metrics. Raises OSError when something else has the port."""
    for metric in (dispatched_rows, batches, vanished_rows, acked_rows, refused_rows):
        for outbox in outboxes:
            metric.labels(outbox)
    start_http_server(port)
