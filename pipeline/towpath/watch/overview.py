"""The whole status, as `pipeline status` and the console show it: the ledger, the consumers, and the event store.

The three are asked in parallel, each with its own time limit: one that hangs does not keep the others from answering.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from towpath.watch.consumers import read_consumers
from towpath.watch.status import Status, read_status
from towpath.watch.store_health import read_store
from towpath.watch.within import Within

if TYPE_CHECKING:
    from towpath.conf.config import Config


def read_overview(config: Config, *, seconds: float) -> Status:
    """Return the status, with what is wrong around the ledger. Raises NoAnswerYet if PostgreSQL takes too long, and
    what its driver raises."""
    with ThreadPoolExecutor(max_workers=2) as beside:
        consumers, store = beside.submit(read_consumers, config), beside.submit(read_store, config)
        status = Within(read_status, seconds=seconds).answer()
        return status.with_surroundings(consumers.result(), store.result())
