"""An event store in memory whose token log and rows can be damaged by a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.errors import OutcomeUnknown, RowsRefused, WriteTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class FakeStore:
    """What `write` needs of an event store, with a record of the calls. It remembers every token.

    Parameters:
      refuses: lines that it does not take, nor what comes with them.
      fails_after: lines that it takes, with what comes with them, and then answers with an error: a view fails.
      most_lines: an insert of more is too large.
      silent_above: an insert of more lines gets no answer, and is not stored.
    """

    def __init__(
        self,
        *,
        refuses: Sequence[bytes] = (),
        fails_after: Sequence[bytes] = (),
        most_lines: int = 1_000_000,
        silent_above: int = 1_000_000,
    ) -> None:
        self.lines: list[bytes] = []
        self.tokens: set[str] = set()
        self.calls: list[str] = []
        self.most_lines = most_lines
        self.silent_above = silent_above
        self.refuses = frozenset(refuses)
        self._fails_after = frozenset(fails_after)

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        self.calls.append(f"write {row_count}")
        lines = rows.splitlines(keepends=True)
        assert len(lines) == row_count
        if row_count > self.silent_above:
            raise OutcomeUnknown("no answer")
        if row_count > self.most_lines:
            raise WriteTooLarge("too many")
        if self.refuses.intersection(lines):
            raise RowsRefused("Cannot parse")
        if token not in self.tokens:
            self.tokens.add(token)
            self.lines += lines
            if self._fails_after.intersection(lines):
                raise RowsRefused("while pushing to view")

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        self.calls.append("read_back")
        split = (line.split(b"\t") for line in self.lines)
        return {(outbox.decode(), int(id_)) for outbox, id_, window, *_ in split if window.decode() == str(window_id)}
