"""Where everything is and what is wrong with it, from PostgreSQL: it works whatever else is down.

Who consumes the queues, and whether the event store answers, is asked beside it (`towpath.watch.overview`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from towpath.ledger.history import Lately, read_lately
from towpath.ledger.moment import Parts, one_moment
from towpath.watch.figures import read_figures
from towpath.watch.problems import Kind, Problem, find_problems
from towpath.watch.vacuum import late_holders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.watch.consumers import Consumers
    from towpath.watch.figures import Figures
    from towpath.watch.store_health import StoreHealth


@dataclass(frozen=True, slots=True)
class Status:
    """The outboxes and the ledger at one moment, and what is wrong with them."""

    figures: Figures
    found: Sequence[Problem]
    #: Each is None if nobody has asked.
    consumers: Consumers | None = None
    store: StoreHealth | None = None
    #: How it went in the last minute or so.
    lately: Lately = field(default_factory=Lately)

    def with_surroundings(self, consumers: Consumers, store: StoreHealth) -> Status:
        """This status, with who consumes the queues, how the event store is, and what is wrong with that."""
        found = [
            *self.found,
            *(Problem("consumer", text) for text in consumers.problems()),
            *(Problem("store", text) for text in store.problems()),
        ]
        found.sort(key=lambda problem: get_args(Kind).index(problem.kind))
        return replace(self, found=found, consumers=consumers, store=store)

    @property
    def problems(self) -> list[str]:
        """Every problem as a sentence."""
        return [problem.text for problem in self.found]

    @property
    def errors(self) -> list[str]:
        """The problems that are a service's own words."""
        return self.problems_of("window", "interruption")

    def problems_of(self, *kinds: Kind) -> list[str]:
        """The problems of these kinds as sentences."""
        return [problem.text for problem in self.found if problem.kind in kinds]

    def as_json(self) -> dict[str, Any]:
        figures, ledger = self.figures, self.figures.ledger
        since = ledger.unverified.contradicted_since
        return {
            "outboxes": {name: asdict(outbox) for name, outbox in figures.outboxes.items()},
            "batches": figures.batches.total,
            "unsealed_batches": figures.batches.unsealed,
            "open_windows": ledger.open_windows.total,
            "expired_leases": ledger.open_windows.expired_leases,
            "receipts": ledger.receipts,
            "mismatched_receipts": ledger.unverified.contradicted,
            "mismatched_since": since.isoformat(timespec="seconds") if since else "",
            "contradicted_proofs": ledger.contradicted_proofs,
            "unsealed_proofs_seconds": round(ledger.unsealed_proofs.oldest_seconds or 0.0, 1),
            "vanished_rows": ledger.vanished.rows,
            "dead_letters": figures.dead_letters,
            "shifts": {
                name: {
                    "alive_seconds_ago": round(shift.alive_seconds_ago, 1),
                    "taken_seconds_ago": round(shift.taken_seconds_ago, 1),
                }
                for name, shift in ledger.shifts.items()
            },
            "pauses": [
                {
                    "outbox": pause.outbox,
                    "by": pause.paused_by,
                    "reason": pause.reason,
                    "at": pause.paused_at.isoformat(),
                }
                for pause in ledger.pauses
            ],
            "consumers": {} if self.consumers is None else _consumers_as_json(self.consumers),
            "store_seconds": None if self.store is None else self.store.seconds,
            **asdict(self.lately),
            "canary": None if ledger.canary is None else asdict(ledger.canary),
            "vacuum_holders": [asdict(holder) for holder in late_holders(figures.holders or ())],
            "errors": self.errors,
            "problems": self.problems,
        }


def _consumers_as_json(consumers: Consumers) -> dict[str, Any]:
    return {queue: asdict(state) for queue, state in consumers.states.items()}


def read_status() -> Status:
    """Return figures and problems, all of one snapshot. What cannot be read in time is a problem."""
    with one_moment() as cursor:
        parts = Parts(cursor)
        figures = read_figures(parts)
        lately = parts.read("what was stored lately", read_lately) or Lately()
        return Status(figures, find_problems(parts, figures), lately=lately)
