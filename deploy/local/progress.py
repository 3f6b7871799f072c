"""What the terminal shows of a stack: a line for each finished step, with a tick and the seconds it took."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.supervisor import Event


class Progress:
    """Writes to a terminal with the running step in place, to anything else line by line."""

    def __init__(self) -> None:
        self._stream = sys.stdout
        self._is_terminal = self._stream.isatty()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step while it runs, and how it ended."""
        began = time.monotonic()
        self._show_running(name)
        try:
            yield
        except BaseException:
            self.say(f"  ✗ {name}")
            raise
        self._done(name, time.monotonic() - began)

    def show(self, event: Event) -> None:
        """Show what happened to a process."""
        match event.kind:
            case "started":
                self._show_running(event.name)
            case "ready":
                self._done(event.name, event.seconds)
            case "crashed":
                self.say(f"  ! {event.name} crashed, restarting in {event.seconds:g} s ({event.detail})")
            case "repaired":
                self.say(f"  ! {event.name} {event.detail}: ended")
            case "stopped":
                self.say(f"  ✓ {event.name} stopped")
            case "restarting":
                pass

    def say(self, text: str) -> None:
        """Write lines that stay."""
        self._write(f"{text}\n")

    def _show_running(self, name: str) -> None:
        if self._is_terminal:
            self._write(f"  … {name}")

    def _done(self, name: str, seconds: float) -> None:
        self.say(f"  ✓ {name:<20} {seconds:5.1f} s")

    def _write(self, text: str) -> None:
        # The running step is on the line now; the next output takes its place.
        self._stream.write(f"\r\033[K{text}" if self._is_terminal else text)
        self._stream.flush()
