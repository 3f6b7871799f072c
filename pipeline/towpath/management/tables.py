"""The text that the commands print for people."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from towpath.eventlog.comparison import SIDES
from towpath.ledger.receipts import COUNTED_RECEIPTS
from towpath.outbox.models import all_outboxes
from towpath.proof.statement import parse
from towpath.watch.figures import COUNTED_ROWS
from towpath.watch.stranded import is_looked_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from towpath.eventlog.comparison import Comparison
    from towpath.ledger.canaries import Canary
    from towpath.ledger.history import Lately
    from towpath.ledger.seals import Seal
    from towpath.proof.audit import Audit
    from towpath.watch.consumers import Consumers
    from towpath.watch.period import PeriodReport
    from towpath.watch.status import Status


def of_status(status: Status) -> str:
    """Return a table of the outboxes, the ledger's figures, and every problem."""
    figures, windows = status.figures, status.figures.ledger.open_windows
    lines = [f"{'outbox':<24}{'pending':>12}{'in flight':>12}{'dead':>8}{'oldest':>12}"]
    for name, outbox in figures.outboxes.items():
        age = "-" if outbox.oldest_age_seconds is None else f"{outbox.oldest_age_seconds:,.1f} s"
        lines.append(f"{name:<24}{outbox.pending:>12,}{outbox.in_flight:>12,}{outbox.dead_letters:>8,}{age:>12}")
    lines += [f"{name:<24}  could not be read in time" for name in all_outboxes() if name not in figures.outboxes]
    lines += [
        "",
        (
            f"batches {figures.batches.total:,} ({figures.batches.unsealed:,} unsealed)   open windows"
            f" {windows.total:,} ({windows.expired_leases:,} with an expired lease)   receipts"
            f" {figures.ledger.receipts:,}"
            if figures.is_ledger_read
            else "batches, open windows and receipts could not be read in time"
        ),
        *(
            f"{name} shift: last alive {shift.alive_seconds_ago:.0f} s ago"
            for name, shift in figures.ledger.shifts.items()
        ),
        *_of_consumers(status.consumers),
        *_of_lately(status.lately),
        *_of_canary(figures.ledger.canary),
        *(f"! {problem}" for problem in status.problems),
    ]
    lines += [
        f"({name} has {outbox.dead_rows:,} dead rows: the search for stranded rows waits for the next vacuum)"
        for name, outbox in figures.outboxes.items()
        if not is_looked_for(outbox)
    ]
    if figures.has_estimates():
        lines.append(
            f"(above {COUNTED_RECEIPTS} receipts and {COUNTED_ROWS:,} pending rows, these numbers are estimates)"
        )
    return "\n".join(map(printable, lines))


def _of_consumers(consumers: Consumers | None) -> list[str]:
    """Return a line with the number of consuming processes by role, or no line if RabbitMQ does not say."""
    if consumers is None or consumers.unread:
        return []
    roles = dict.fromkeys(consumers.roles.values())
    return [f"consumers, according to RabbitMQ: {', '.join(f'{consumers.of(role)} {role}(s)' for role in roles)}"]


def _of_lately(lately: Lately) -> list[str]:
    """Return a line that says how much was stored and how long it took, or no line without a history."""
    if lately.stored_per_second is None:
        return []
    typical = "" if lately.typical_seconds is None else f", typically {lately.typical_seconds:.1f} s after its dispatch"
    return [f"stored {lately.stored_per_second:,.1f} rows/s in the last minute{typical}"]


def _of_canary(canary: Canary | None) -> list[str]:
    """Return a line about the canary, or no line if there is none."""
    if canary is None or canary.worst_seconds is None:
        return []
    if canary.overdue_seconds == canary.worst_seconds:
        return [f"the next canary should have been sent {canary.worst_seconds:.1f} s ago"]
    if canary.seconds != canary.worst_seconds:
        return [f"a canary has been on its way to the event store for {canary.worst_seconds:.1f} s"]
    return [f"the last canary took {canary.seconds:.1f} s from its commit to the event store"]


def of_period(report: PeriodReport) -> str:
    """Return what became of the rows of a period, and each window that raises an alarm."""
    names = ("committed", "stored", "pending", "in_flight", "dead", "vanished", "lost")
    lines = [f"{'outbox':<24}" + "".join(f"{name.replace('_', ' '):>12}" for name in names)]
    for outbox, rows in report.outboxes.items():
        lines.append(f"{outbox:<24}" + "".join(f"{getattr(rows, name):>12,}" for name in names))
    differ, vanished = len(report.mismatches), len(report.vanished)
    lines += ["", f"{report.windows:,} window(s) compared, {differ:,} differ, {vanished:,} with vanished rows"]
    alarms = {alarm.receipt.window: alarm for alarm in (*report.mismatches, *report.vanished)}
    lines += [
        f"! window {window}, dispatched {alarm.receipt.dispatched_at:%Y-%m-%d %H:%M:%S} UTC,"
        f" acked {alarm.receipt.acked_at:%Y-%m-%d %H:%M:%S} UTC: {alarm.difference()}"
        for window, alarm in alarms.items()
    ]
    lines += [
        f"closed: window {alarm.receipt.window}: {alarm.difference()} ({alarm.receipt.closed_reason})"
        for alarm in report.closed
    ]
    if report.mismatches:
        lines.append("PostgreSQL no longer has these rows: see docs/runbook.md, TowpathReceiptMismatch")
    if report.vanished:
        lines.append("Rows were deleted before they were loaded: see docs/runbook.md, TowpathRowsVanished")
    return "\n".join(map(printable, lines))


def of_seals(found: Sequence[Seal], *, is_new: bool) -> str:
    """Return a table with a line for each seal. `is_new` says that they have just been made."""
    if not found:
        return "nothing to seal: a seal covers every proof" if is_new else "no seal yet: see docs/proof.md"
    lines = [f"{'seal':>8}  {'until (UTC)':<20}{'windows':>12}{'rows':>14}  {'signed':<7} digest"]
    for seal in found:
        try:
            statement = parse(seal.statement)
            size = f"{statement.windows:>12,}{statement.rows:>14,}"
        except ValueError:
            size = f"{'rewritten':>12}{'':>14}"  # `verify --deep` says so, too
        signed = "yes" if seal.signature else "no"
        lines.append(f"{seal.number:>8}  {seal.sealed_at:%Y-%m-%d %H:%M:%S} {size}  {signed:<7} {seal.digest}")
    return "\n".join(lines)


def seal_as_json(seal: Seal) -> dict[str, Any]:
    """Return a seal as people keep it elsewhere, with its statement, which `sha256sum` and openssl can check."""
    return {
        "number": seal.number,
        "sealed_at": seal.sealed_at.isoformat(),
        "digest": seal.digest,
        "statement": seal.statement,
        "signature": base64.b64encode(seal.signature).decode(),
    }


#: The most differences, amendments and unproven windows that are printed. `--json` has all differences and amendments.
_MOST_DIFFERENCES = 100
_MOST_AMENDMENTS = _MOST_UNPROVEN = 20


def of_audit(found: Audit) -> str:
    """Return what was checked, and everything that is wrong."""
    lines = [
        f"{found.windows:,} window(s), {found.rows:,} row(s), {found.seals:,} seal(s) checked"
        + (f", {found.anchors:,} anchor(s) compared" if found.anchors else "")
    ]
    lines += [f"! seal {one.number}: {one.kind}: {one.detail}" for one in found.broken]
    lines += _lost_months(found)
    lines += [f"! {difference}" for difference in found.differences[:_MOST_DIFFERENCES]]
    if len(found.differences) > _MOST_DIFFERENCES:
        lines.append(f"! {len(found.differences) - _MOST_DIFFERENCES:,} more: see --json")
    lines += [
        f"! unproven window {window}: verified, but without a proof" for window in found.unproven[:_MOST_UNPROVEN]
    ]
    if found.unproven_windows > _MOST_UNPROVEN:
        lines.append(f"! {found.unproven_windows - _MOST_UNPROVEN:,} more unproven window(s)")
    if len(found.amendments) > _MOST_AMENDMENTS:
        lines.append(f"amended: {len(found.amendments) - _MOST_AMENDMENTS:,} earlier, see --json")
    # The newest: a forged one must not hide behind old ones.
    lines += [
        f"amended: {one.kind} {one.rows:,} row(s) of"
        f" {f'window {one.window_id}, {one.outbox}' if one.window_id.int else _month(one.month)}: {one.reason}"
        for one in found.amendments[-_MOST_AMENDMENTS:]
    ]
    if found.unsealed and found.unsealed.proofs:
        lines.append(f"no seal covers {found.unsealed.proofs:,} proof(s) yet: run `pipeline seals make`")
    if not found.is_complete:
        lines.append("This audit is not complete.")
    so_far = "" if found.is_complete else " so far"
    lines.append(
        "see docs/runbook.md, TowpathProofContradicted" if found.findings else f"nothing contradicts the ledger{so_far}"
    )
    return "\n".join(map(printable, lines))


def printable(line: str) -> str:
    """Return the line with what a terminal would act on as escapes. Names and reasons may be an attacker's, who could
    make it erase other lines."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)


def _month(month: date | None) -> str:
    # Ours always have one.
    return f"{month:%Y-%m}" if month else "no month"


def _lost_months(found: Audit) -> list[str]:
    lost: dict[tuple[str, str], int] = {}
    for one in found.differences:
        if one.kind == "lost" and one.detail == "every row" and one.month:
            key = f"{one.month:%Y-%m}", one.outbox
            lost[key] = lost.get(key, 0) + 1
    return [
        f"! {month}: every row of {windows:,} window(s) of {outbox} is lost: was the month dropped by hand?"
        for (month, outbox), windows in lost.items()
        if windows > 1
    ]


def of_comparison(found: Comparison, names: Mapping[str, str], *, since: datetime, until: datetime) -> str:
    """Return how many rows each side has by event type and hour, and the rows that only one side has. `names` are the
    tables, by side."""
    lines = [
        f"from {since.isoformat()} to {until.isoformat()}",
        f"{'event_type':<32}{'hour':<20}{names['here']:>16}{names['there']:>24}",
    ]
    lines += [
        f"{event_type:<32}{hour:%Y-%m-%d %H}:00    {rows['here']:>16,}{rows['there']:>24,}"
        for (event_type, hour), rows in sorted(found.rows.items())
    ]
    for side in SIDES:
        lines.append(f"only in {names[side]}: {found.missing[side]:,} row(s)")
        lines += [
            f"  {row.event_type}  {row.at.isoformat()}  md5 {row.md5}  {row.rows:,} row(s)"
            for row in found.differences
            if row.side == side
        ]
    if not found.rows:
        lines.append("No events in this period: nothing was compared.")
    return "\n".join(lines)
