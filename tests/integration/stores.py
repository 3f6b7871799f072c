"""Event stores that fail, or look on, in their own way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from towpath.eventlog.proof import WindowDigest
    from towpath.eventlog.rows import Identity
    from towpath.eventlog.store import VerifiableStore


class PassesOn:
    """An `VerifiableStore` before another one."""

    def __init__(self, store: VerifiableStore) -> None:
        self.store = store

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        self.store.write(rows, row_count=row_count, token=token)

    def read_back(self, window_id: UUID) -> set[Identity]:
        return self.store.read_back(window_id)

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        return self.store.counts(window_ids)

    def covered_columns(self) -> tuple[str, ...]:
        return self.store.covered_columns()

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        return self.store.window_digests(window_ids, columns=columns)

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        return self.store.body_digests(windows)

    def now(self) -> datetime:
        return self.store.now()

    def close(self) -> None:
        self.store.close()


class LosesAnswers(PassesOn):
    """Has an insert carried out, and does as if the connection had been cut."""

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        super().write(rows, row_count=row_count, token=token)
        raise OutcomeUnknown("connection cut")


class LosesInserts(PassesOn):
    """Never says how an insert has ended, which has not arrived."""

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:  # noqa: ARG002 - as the protocol has it
        raise OutcomeUnknown("connection cut")
