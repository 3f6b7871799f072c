"""Where everything is and what is wrong with it, from PostgreSQL alone: it works whatever else is down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from towpath.ledger.moment import Parts, one_moment
from towpath.watch.figures import read_figures
from towpath.watch.problems import find_problems
from towpath.watch.vacuum import late_holders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.watch.figures import Figures
    from towpath.watch.problems import Kind, Problem


@dataclass(frozen=True, slots=True)
class Status:
    """The outboxes and the ledger at one moment, and what is wrong with them."""

    figures: Figures
    found: Sequence[Problem]

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
            "unsealed_seconds": round(ledger.unsealed.oldest_seconds or 0.0, 1),
            "vanished_rows": ledger.vanished.rows,
            "dead_letters": figures.dead_letters,
            "shifts": {
                name: {
                    "alive_seconds_ago": round(shift.alive_seconds_ago, 1),
                    "taken_seconds_ago": round(shift.taken_seconds_ago, 1),
                }
                for name, shift in ledger.shifts.items()
            },
            "vacuum_holders": [asdict(holder) for holder in late_holders(figures.holders or ())],
            "errors": self.errors,
            "problems": self.problems,
        }


def read_status() -> Status:
    """Return figures and problems, all of one snapshot. What cannot be read in time is a problem."""
    with one_moment() as cursor:
        parts = Parts(cursor)
        figures = read_figures(parts)
        return Status(figures, find_problems(parts, figures))
