"""The minutes of the history: the figures that `status` shows, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.ledger import history
from towpath.ledger.history import Measured
from towpath.ledger.moment import Parts, one_moment
from towpath.watch.figures import read_figures

if TYPE_CHECKING:
    from towpath.watch.figures import Figures


def add_minute_if_due() -> bool:
    """Note this minute, unless it is already noted. Also False if PostgreSQL does not show all in time."""
    if not history.is_due():
        return False
    with one_moment() as cursor:
        figures = read_figures(Parts(cursor))
    return figures.is_ledger_read and figures.are_outboxes_read and history.add_minute(measured(figures))


def measured(figures: Figures) -> Measured:
    """Return what a minute notes of these figures."""
    return Measured(
        pending=figures.pending,
        in_flight=figures.in_flight,
        dead_letters=figures.dead_letters,
        open_windows=figures.ledger.open_windows.total,
        oldest_age_seconds=figures.oldest_age_seconds,
    )
