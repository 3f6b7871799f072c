"""An event store in memory whose token log and rows can be damaged by a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.eventlog.errors import RowsRefused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class FakeStore:
    """What `write` needs of an event store, with a record of the calls. It remembers every token."""

    def __init__(self, *, refuses: Sequence[bytes] = ()) -> None:
        self.lines: list[bytes] = []
        self.tokens: set[str] = set()
        self.calls: list[str] = []
        self._refuses = frozenset(refuses)

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        self.calls.append(f"write {row_count}")
        lines = rows.splitlines(keepends=True)
        assert len(lines) == row_count
        if self._refuses.intersection(lines):
            raise RowsRefused("Cannot parse")
        if token not in self.tokens:
            self.tokens.add(token)
            self.lines += lines

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        self.calls.append("read_back")
        split = (line.split(b"\t") for line in self.lines)
        return {(outbox.decode(), int(id_)) for outbox, id_, window, *_ in split if window.decode() == str(window_id)}
