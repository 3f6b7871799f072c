"""Types for arguments of the commands. They raise ArgumentTypeError, which argparse shows to the person."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime
from uuid import UUID


def moment(text: str) -> datetime:
    """Return a time from the command line in UTC. It is ISO 8601, and in UTC unless it has an offset."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(
            f"{text!r} is not a time: write it as 2026-11-24 or 2026-11-24T06:00:00+00:00"
        ) from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def window_id(text: str) -> UUID:
    """Return the id of a window."""
    try:
        return UUID(text)
    except ValueError as error:
        raise ArgumentTypeError(
            f"{text!r} is not a window: write its id as `pipeline verify` shows it, such as"
            " 11111111-2222-3333-4444-555555555555"
        ) from error


def pace(text: str) -> float:
    """Return a number of rows per second: from 1 on, and finite."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 1 <= found < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number of rows per second, 1 or more")
    return found
