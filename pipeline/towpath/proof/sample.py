"""The nightly check: some windows, chosen at random among all proven ones, are read again.

It finds a change in many windows within days, and a single changed window only by chance: `verify --deep` reads all of
them. What it finds is an alarm. Each night also reads the windows with an alarm again, and the alarm ends when they are
as they were proven.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from towpath.eventlog.errors import EventStoreError
from towpath.ledger import sampling, suspect
from towpath.proof.deep import Pace, check_windows
from towpath.telemetry import heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from towpath.eventlog.store import ProvableStore

log = structlog.get_logger()

#: Windows of a sample, and of one query.
_WINDOWS = 1000
_WINDOWS_PER_QUERY = 100
#: A million rows take some seconds, and the store has other work.
_ROWS_PER_SECOND = 100_000.0


def check_sample_if_due(store: ProvableStore, *, should_stop: Callable[[], bool]) -> int:
    """Check a sample, unless one was checked this night. Returns how many of its windows are contradicted.

    While the store does not answer, nothing is decided, and the next look tries again.
    """
    if not sampling.is_sample_due():
        return 0
    pace = Pace(_ROWS_PER_SECOND)
    earlier = suspect.find_contradicted(limit=_WINDOWS)
    windows = list(dict.fromkeys([*earlier, *sampling.choose_windows(_WINDOWS)]))
    contradicted = 0
    for first in range(0, len(windows), _WINDOWS_PER_QUERY):
        if should_stop():
            return contradicted
        try:
            found = check_windows(windows[first : first + _WINDOWS_PER_QUERY], store, pace=pace)
        except EventStoreError as error:
            log.warning("sample_postponed", error=str(error))
            return contradicted
        for window, differences in found.items():
            text = "; ".join(map(str, differences)) or None
            contradicted += bool(differences)
            is_news = suspect.note_contradiction(window, text)
            if is_news and text:
                log.error("proof_contradicted", window=str(window), difference=text)
            elif is_news:
                log.info("proof_holds_again", window=str(window))
        heartbeat.step()
    sampling.note_sample()
    log.info("sample_checked", windows=len(windows), contradicted=contradicted)
    return contradicted
