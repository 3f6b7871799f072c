"""How fast the explorer exports, and in how much memory: rows of a log as files, on an engine that runs elsewhere.

    EVENT_STORE_URL=... python -m tests.benchmarks.exporting [--rows 200000] [--fill]

`--fill` writes the rows of a believable day first. The memory is what the process's peak grows by during an export,
after one of a tenth of the rows: constant memory grows by nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.browser import demo
from towpath.eventlog.connect import connect
from towpath.eventlog.query import Query
from towpath.explorer.export import Progress, pieces
from towpath.explorer.formats import CloudEvents, Csv, NdJson
from towpath.explorer.parquet import Parquet
from towpath.explorer.state import Between

if TYPE_CHECKING:
    from collections.abc import Callable

    from towpath.eventlog.search import SearchableStore
    from towpath.explorer.export import Format

_FORMATS: dict[str, Callable[[], Format]] = {
    "CSV": lambda: Csv(None, ()),
    "NDJSON": lambda: NdJson(()),
    "CloudEvents": lambda: CloudEvents(()),
    "Parquet": lambda: Parquet(()),
}


def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.exporting")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--fill", action="store_true")
    options = parser.parse_args()
    store = connect(os.environ["EVENT_STORE_URL"], timeout_seconds=60)
    now = datetime.now(UTC)
    if options.fill:
        demo.store_day(store, now, count=options.rows)
    period = Between(now - timedelta(days=3), now + timedelta(minutes=1))
    for name, written in _FORMATS.items():
        _run(store, period, written(), options.rows // 10)
        before = _peak_mebibytes()
        began = time.perf_counter()
        rows, size = _run(store, period, written(), options.rows)
        seconds = time.perf_counter() - began
        grown = _peak_mebibytes() - before
        sys.stdout.write(
            f"{name:<12} {rows:>9,} rows {rows / seconds:>9,.0f} rows/s {size / seconds / 1e6:>6.1f} MB/s"
            f"   peak {_peak_mebibytes():.0f} MiB, grown by {grown:.0f}\n"
        )
    store.close()


def _run(store: SearchableStore, period: Between, written: Format, most_rows: int) -> tuple[int, int]:
    progress = Progress(most_rows=most_rows)
    size = sum(map(len, pieces(store, Query(), period, written, progress)))
    return progress.rows, size


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
