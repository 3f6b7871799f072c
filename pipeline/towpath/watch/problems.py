"""What is wrong, in sentences that say what to do. Each has its kind, so that no code has to search its text.

A sentence says what is wrong first, and what to do after the first colon or full stop: the console cuts it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from towpath.outbox.models import all_outboxes
from towpath.watch import standstill, stranded, unknown_outboxes, vacuum
from towpath.watch.database import hiding_problems
from towpath.watch.figures import COUNTED_ROWS
from towpath.watch.thresholds import SEALS_LATE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.ledger.moment import Parts
    from towpath.ledger.receipts import UnverifiedReceipts, Vanished
    from towpath.outbox.models import Outbox
    from towpath.watch.figures import Figures, LedgerFigures, OutboxFigures

Kind = Literal[
    "unread",  # could not be read in time
    "store",  # the event store being away
    "consumer",  # queues that nobody consumes, and RabbitMQ being away
    "shift",  # a shift without a worker, or one that does not get its work done
    "pause",  # what a person has paused
    "standstill",  # anything else that does not move
    "message",  # messages that do not arrive, and those of another project
    "late",  # undelivered events that are older than they should be, whatever the reason
    "canary",  # the pipeline's own event is late, or nothing sends it
    "vacuum",  # who holds it back
    "receipt",  # receipts that the event store contradicts
    "proof",  # windows that were changed in the event store after they were proven, and proofs without a seal
    "row",  # rows deleted before they were loaded, and rows that the event store refuses
    "outbox",  # rows that no cursor will ever see, and names that no outbox class has
    "role",  # rows that may be hidden from this role
    "window",  # why windows were not delivered, as the event store or PostgreSQL said
    "interruption",  # what interrupted a shift, unless its work has succeeded since
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do about it."""

    kind: Kind
    text: str


def find_problems(parts: Parts, figures: Figures) -> list[Problem]:
    """Return everything that is wrong at the moment of the figures, in the order in which a person should read it."""
    found = [*_of_figures(figures)]
    if figures.is_ledger_read:
        found += parts.read("stalled work", partial(_of_ledger, figures)) or []
    held_from = stranded.first_held(figures)
    for name, model in all_outboxes().items():
        if outbox := figures.outboxes.get(name):
            what = f"stranded rows of {name}"
            found += parts.read(what, partial(_of_outbox, model, outbox, held_from)) or []
    found += parts.read("hidden rows", _of_role) or []
    found += parts.read("unknown outbox names", _of_unknown_names) or []
    found += [Problem("unread", text) for text in parts.unread]
    return sorted(found, key=lambda problem: get_args(Kind).index(problem.kind))


def _of_figures(figures: Figures) -> Iterator[Problem]:
    yield from (Problem("late", text) for text in standstill.late_events(figures.oldest_age_seconds))
    yield from _of_receipts(figures.ledger.unverified)
    yield from _of_vanished(figures.ledger.vanished)
    yield from _of_proofs(figures.ledger)
    yield from (Problem("vacuum", text) for text in vacuum.problems(figures.holders or ()))
    if figures.dead_letters:
        yield Problem("row", f"{figures.dead_letters} dead letter(s): see `pipeline deadletters list`")


def _of_receipts(unverified: UnverifiedReceipts) -> Iterator[Problem]:
    if unverified.contradicted_since is None:
        return
    windows = unverified.contradicted
    count = f"{windows} or more" if windows >= COUNTED_ROWS else str(windows)
    command = f"python manage.py pipeline verify --since {unverified.contradicted_since.isoformat(timespec='seconds')}"
    yield Problem(
        "receipt",
        f"the receipts of {count} window(s) do not match the event store, or do not add up: run `{command}`",
    )


def _of_proofs(ledger: LedgerFigures) -> Iterator[Problem]:
    if windows := ledger.contradicted_proofs:
        count = f"{windows} or more" if windows >= COUNTED_ROWS else str(windows)
        yield Problem(
            "proof",
            f"{count} window(s) were changed in the event store after they were proven: run `python manage.py pipeline"
            " verify --deep`, and see docs/runbook.md, TowpathProofContradicted",
        )
    age = ledger.unsealed_proofs.oldest_seconds
    if age is not None and age > SEALS_LATE_SECONDS:
        yield Problem(
            "proof",
            f"nothing has been sealed for {age / 3600:.1f} h: run `python manage.py pipeline seals make` to find out"
            " why, and see docs/runbook.md, TowpathSealsLate",
        )


def _of_vanished(vanished: Vanished) -> Iterator[Problem]:
    if vanished.windows:
        yield Problem(
            "row",
            f"{vanished.rows} row(s) of {vanished.windows} window(s) were deleted from their outbox before they were"
            " loaded, so they are not stored: see docs/runbook.md, TowpathRowsVanished",
        )


def _of_ledger(figures: Figures) -> list[Problem]:
    ledger = figures.ledger
    found: dict[Kind, list[str]] = {
        "pause": [*standstill.pauses(ledger.pauses)],
        "shift": [*standstill.silent_shifts(ledger.shifts), *standstill.unclaimed_windows(ledger.open_windows)],
        "standstill": [
            *standstill.late_batches(),
            *standstill.slow_windows(ledger.open_windows),
            *standstill.unverified_receipts(ledger.unverified),
        ],
        "message": [*standstill.stuck_messages(), *standstill.shared_queues()],
        "canary": [*standstill.late_canary(ledger.canary, ledger.pauses)],
        "window": [
            f"{windows} open window(s) could not be delivered: {error}" for error, windows in ledger.open_windows.errors
        ],
        "interruption": [*standstill.interruptions(ledger.shifts)],
    }
    return [Problem(kind, text) for kind, texts in found.items() for text in texts]


def _of_outbox(model: type[Outbox], outbox: OutboxFigures, held_from: int) -> list[Problem]:
    return [Problem("outbox", text) for text in stranded.problems(model, outbox, held_from=held_from)]


def _of_role() -> list[Problem]:
    return [Problem("role", text) for text in hiding_problems(is_with_lean=False)]


def _of_unknown_names() -> list[Problem]:
    return [Problem("outbox", text) for text in unknown_outboxes.problems()]
