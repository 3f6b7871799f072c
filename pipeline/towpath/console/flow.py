"""The flow as a picture: outboxes, dispatcher, RabbitMQ, aggregators, event store, each with its current numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from towpath.console.wording import UNKNOWN, count, milliseconds, rate, seconds
from towpath.telemetry import metrics
from towpath.watch.thresholds import Level, level_of_age, worst

if TYPE_CHECKING:
    from towpath.console.seen import Seen
    from towpath.console.verdict import Verdict
    from towpath.watch.problems import Kind


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: a number, what it counts, and a note."""

    name: str
    number: str
    counted: str
    note: str
    level: Level = "ok"
    #: That the number is, if one is.
    metric: str = ""


#: At which stage a problem is. (Those of consumers are at several.)
_STAGE_OF: dict[Kind, str] = {
    "outbox": "Outboxes",
    "role": "Outboxes",
    "unread": "Outboxes",
    "late": "Outboxes",
    "row": "Outboxes",
    "vacuum": "Outboxes",
    "message": "RabbitMQ",
    "pause": "Dispatcher",
    "shift": "Dispatcher",
    "interruption": "Dispatcher",
    "standstill": "Aggregators",
    "canary": "Event store",
    "store": "Event store",
    "window": "Event store",
    "receipt": "Event store",
    "proof": "Event store",
}


def stages(seen: Seen, verdict: Verdict) -> list[Stage]:
    """Return the stages from left to right: the path of an event."""
    levels: dict[str, Level] = {}
    for trouble in verdict.troubles:
        for name in _stages_of(trouble.kind, seen):
            levels[name] = worst(levels.get(name, "ok"), trouble.level)
    found = [_outboxes(seen), _dispatcher(seen), _rabbitmq(seen), _aggregators(seen), _store(seen)]
    return [replace(one, level=worst(one.level, levels.get(one.name, "ok"))) for one in found]


def _stages_of(kind: Kind, seen: Seen) -> list[str]:
    if kind != "consumer":
        return [_STAGE_OF[kind]] if kind in _STAGE_OF else []
    consumers = seen.status.consumers
    if consumers is None or consumers.unread:
        return ["RabbitMQ"]
    found = ["RabbitMQ"]
    if not consumers.of("aggregator"):
        found.append("Aggregators")
    if not consumers.of("dispatcher"):
        found.append("Dispatcher")
    return found


def _outboxes(seen: Seen) -> Stage:
    figures = seen.status.figures
    age = figures.oldest_age_seconds
    note = "nothing is waiting" if age is None else f"oldest {seconds(age)}"
    return Stage(
        "Outboxes",
        count(figures.pending) if figures.are_outboxes_read else UNKNOWN,
        "pending",
        note if figures.is_age_known else "not all could be read",
        level_of_age(age),
    )


def _dispatcher(seen: Seen) -> Stage:
    figures, consumers = seen.status.figures, seen.status.consumers
    shift = figures.ledger.shifts.get("dispatch")
    processes = consumers.of("dispatcher") if consumers else None
    is_at_work = shift is not None and shift.alive_seconds_ago <= _WORKS_SECONDS
    number = f"{int(is_at_work)}" if processes is None else f"{int(is_at_work)} of {max(processes, int(is_at_work))}"
    if figures.ledger.pauses:
        counted = "paused" if any(not pause.outbox for pause in figures.ledger.pauses) else "partly paused"
    else:
        counted = "running"
    note = "has never run" if shift is None else f"alive {seconds(shift.alive_seconds_ago)} ago"
    if shift is None and not figures.is_ledger_read:
        number, counted, note = UNKNOWN, "", _NOT_READ
    return Stage("Dispatcher", number, counted, note)


#: Of a stage whose part of the status PostgreSQL did not show in time.
_NOT_READ = "could not be read in time"
#: A working shift says each second that it is alive.
_WORKS_SECONDS = 5.0


def _rabbitmq(seen: Seen) -> Stage:
    consumers = seen.status.consumers
    if consumers is None or consumers.messages is None:
        return Stage("RabbitMQ", UNKNOWN, "does not answer", "the ledger is used instead")
    aggregators = consumers.of("aggregator") or 0
    plural = "aggregator consumes" if aggregators == 1 else "aggregators consume"
    return Stage("RabbitMQ", count(consumers.messages), "batches waiting", f"{aggregators} {plural}")


def _aggregators(seen: Seen) -> Stage:
    figures = seen.status.figures
    windows, unsealed = figures.ledger.open_windows, figures.batches.unsealed
    note = f"{count(windows.expired_leases)} waiting for recovery" if windows.expired_leases else "each has an owner"
    if unsealed:
        note = f"{count(unsealed)} batches without a window"
    if not figures.is_ledger_read:
        note = _NOT_READ
    return Stage(
        "Aggregators",
        count(windows.total) if figures.is_ledger_read else UNKNOWN,
        "windows being written",
        note if windows.total or unsealed or not figures.is_ledger_read else "",
        metric=metrics.open_windows.name,
    )


def _store(seen: Seen) -> Stage:
    store = seen.status.store
    note = f"answers in {milliseconds(store.seconds)}" if store and store.seconds is not None else "does not answer"
    return Stage("Event store", rate(seen.status.lately.stored_per_second), "events stored", note)
