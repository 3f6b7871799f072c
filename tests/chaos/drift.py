"""Whether anything costs more in the last minute than in the first one: pages that are read, and times in the logs."""

from __future__ import annotations

import json
import statistics
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connection

from tests.benchmarks.buffers import Buffers, grown, measuring
from tests.benchmarks.in_process import Dispatched, make_dispatcher
from tests.benchmarks.rounds import ask_status_and_gauges, insert_receipts
from towpath.outbox.models import all_outboxes
from towpath.watch.figures import COUNTED_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_EVERY_SECONDS = 3.0
#: The first and the last minute are compared, or thirds of a run that is shorter than three.
_MOST_SECONDS = 60.0

#: Log events, and the field that says how many seconds it took.
_LOGGED = {"window_acked": "total_seconds", "batches_dispatched": "seconds"}


@dataclass(slots=True)
class Drift:
    """Asks every few seconds what people and probes ask, and counts the pages that it takes."""

    _samples: list[tuple[datetime, Mapping[str, int]]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def started(cls) -> Drift:
        """In a thread of its own, with as many receipts in the ledger as `status` counts: it counts no more later."""
        insert_receipts(COUNTED_ROWS, oldest=timedelta(days=2), newest=timedelta(days=1))
        drift = cls()
        threading.Thread(target=drift.run, name="drift", daemon=True).start()
        return drift

    def run(self) -> None:
        """Until told to stop."""
        while not self._stopping.wait(_EVERY_SECONDS):
            try:
                self._samples.append((datetime.now(UTC), _ask().by_doing()))
            except (DatabaseError, InterfaceError):
                connection.close()  # PostgreSQL, or the way to it, is broken at the moment
        connection.close()

    def stop(self) -> None:
        """The run is over."""
        self._stopping.set()

    def of(self, began: datetime, ended: datetime, log_folder: Path) -> list[Drifted]:
        """What each thing cost at the start and at the end of this time."""
        seconds = min(_MOST_SECONDS, (ended - began).total_seconds() / 3)
        first = _Costs.of(self._samples, log_folder, began, began + timedelta(seconds=seconds))
        last = _Costs.of(self._samples, log_folder, ended - timedelta(seconds=seconds), ended)
        return [
            *(
                Drifted(f"{name}, pages", str(first.pages[name]), str(last.pages[name]), has_grown=name in more)
                for more in [grown(first.pages, last.pages)]
                for name in first.pages.keys() & last.pages.keys()
            ),
            *(
                Drifted(f"{name}, ms", f"{first.milliseconds[name]:.1f}", f"{last.milliseconds[name]:.1f}")
                for name in first.milliseconds.keys() & last.milliseconds.keys()
            ),
        ]


@dataclass(frozen=True, slots=True)
class Drifted:
    """The median of what something cost in the first minute, and in the last."""

    name: str
    first: str
    last: str
    #: True if it reads more than twice as many pages. Times say nothing here: faults make them.
    has_grown: bool = False


@dataclass(frozen=True, slots=True)
class _Costs:
    """Medians of a time."""

    pages: Mapping[str, int]
    milliseconds: Mapping[str, float]

    @classmethod
    def of(
        cls, samples: list[tuple[datetime, Mapping[str, int]]], log_folder: Path, began: datetime, ended: datetime
    ) -> _Costs:
        pages: dict[str, list[int]] = defaultdict(list)
        for at, found in samples:
            if began <= at < ended:
                for name, count in found.items():
                    pages[name].append(count)
        times: dict[str, list[float]] = defaultdict(list)
        for path in log_folder.glob("*.log"):
            for at, name, seconds in _logged(path):
                if began <= at < ended:
                    times[name].append(seconds * 1e3)
        return cls(
            {name: round(statistics.median(counts)) for name, counts in pages.items()},
            {name: statistics.median(found) for name, found in times.items()},
        )


def _ask() -> Buffers:
    with measuring() as buffers:
        ask_status_and_gauges(buffers)
        # There is room for nothing, so it dispatches nothing.
        dispatcher = make_dispatcher(all_outboxes(), enqueue=Dispatched(), in_flight_rows=0)
        with buffers.during("first look of a new process"):
            dispatcher.look()
    return buffers


def _logged(path: Path) -> Iterator[tuple[datetime, str, float]]:
    """When, which event, and how many seconds."""
    with path.open(errors="replace") as lines:
        for line in lines:
            if not any(name in line for name in _LOGGED):
                continue
            try:
                found = json.loads(line)
                name = found["event"]
                yield datetime.fromisoformat(found["timestamp"]), name, float(found[_LOGGED[name]])
            except (ValueError, KeyError):
                continue  # cut off when the process was killed, or another event that names this one
