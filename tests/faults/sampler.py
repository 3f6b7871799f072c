"""Looks at the invariants that must hold at every moment, all the time while faults are on."""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING, Self

import psycopg2

if TYPE_CHECKING:
    from tests.faults.oracle import Oracle


class Sampler:
    """Samples I5 and I6 in the background; a service that is away makes a sample fail, not the invariant."""

    def __init__(self, oracle: Oracle, run: str, *, every_seconds: float) -> None:
        self._oracle = oracle
        self._run = run
        self._every_seconds = every_seconds
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self.samples = 0
        self.failed_samples = 0
        self.last_failure = ""
        #: What was seen broken, once each.
        self.broken: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()

    def pause(self) -> None:
        """No more samples: the test is about to break the invariant itself."""
        self._is_stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_stopped.wait(self._every_seconds):
            try:
                seen = self._oracle.sample(self._run)
            except (OSError, http.client.HTTPException, psycopg2.Error) as error:
                self.failed_samples += 1
                self.last_failure = f"{type(error).__name__} {error}"
            else:
                self.samples += 1
                self.broken += [sentence for sentence in seen if sentence not in self.broken]
