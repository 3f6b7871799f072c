"""The store in memory, with a record of its calls, and with the faults that a test gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conformance.rows import OWN_COLUMNS, copy_text
from towpath.eventlog import rows
from towpath.eventlog.errors import OutcomeUnknown, RowsRefused, WriteTooLarge
from towpath.eventlog.stores.memory import MemoryStore, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from towpath.eventlog.rows import Identity


class RecordingStore(MemoryStore):
    """Remembers every token.

    Parameters:
      stored: lines that it has from before.
      refuses: lines that it does not take, nor what comes with them.
      fails_after: lines that it takes, with what comes with them, and then answers with an error: a view fails.
      most_lines: an insert of more is too large.
      silent_above: an insert of more lines gets no answer, and is not stored.
    """

    def __init__(
        self,
        *,
        stored: Sequence[bytes] = (),
        refuses: Sequence[bytes] = (),
        fails_after: Sequence[bytes] = (),
        most_lines: int = 1_000_000,
        silent_above: int = 1_000_000,
    ) -> None:
        super().__init__(own_columns=OWN_COLUMNS)
        self.rows = parse(b"".join(stored), own_columns=OWN_COLUMNS)
        self.calls: list[str] = []
        self.most_lines = most_lines
        self._silent_above = silent_above
        self._refuses = frozenset(refuses)
        self._fails_after = frozenset(fails_after)

    @property
    def lines(self) -> list[bytes]:
        return [copy_text(row) for row in self.rows]

    @property
    def tokens(self) -> set[str]:
        return {token for _, token in self.token_log}

    def write(self, text: bytes, *, row_count: int, token: str) -> None:
        self.calls.append(f"write {row_count}")
        lines = rows.lines(text)
        if row_count > self._silent_above:
            raise OutcomeUnknown("no answer")
        if row_count > self.most_lines:
            raise WriteTooLarge("too many")
        if self._refuses.intersection(lines):
            raise RowsRefused("Cannot parse")
        before = len(self.rows)
        super().write(text, row_count=row_count, token=token)
        if len(self.rows) > before and self._fails_after.intersection(lines):
            raise RowsRefused("while pushing to view")

    def read_back(self, window_id: UUID) -> set[Identity]:
        self.calls.append("read_back")
        return super().read_back(window_id)
