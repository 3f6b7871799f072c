"""Event stores that fail in their own way."""

from __future__ import annotations

from towpath.eventlog.errors import OutcomeUnknown


class LosesAnswers:
    """Never says how an insert has ended."""

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:  # noqa: ARG002
        raise OutcomeUnknown("connection cut")
