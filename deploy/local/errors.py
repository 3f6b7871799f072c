"""What can go wrong with the local stack. Every message tells the next action.

LocalStackError
├── StartError            a program ended, or was not ready in time
├── AlreadyRunningError   another stack holds the same folder
└── PackageMissingError   a program of the operating system is not installed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Lines of a log that an error shows: enough for a Python traceback or an Erlang boot failure.
TAIL_LINES = 25


class LocalStackError(Exception):
    """The local stack cannot do what was asked."""


class StartError(LocalStackError):
    """A program ended, or was not ready in time; the message ends with the tail of its log."""

    def __init__(self, reason: str, *, log: Path) -> None:
        super().__init__(f"{reason}. The end of {log}:\n{tail(log)}")


class AlreadyRunningError(LocalStackError):
    """Another stack runs on the same folder."""


class PackageMissingError(LocalStackError):
    """A program of the operating system is not installed and cannot be installed from here."""


def tail(log: Path) -> str:
    """The last lines of a log, indented, or a word that there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in lines) or "    (empty)"
