"""The store of the model: what happens to each request is decided at a stop, and what it does is held against it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.model.puppets import Order, current_puppet, stand_still
from towpath.eventlog.errors import OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.eventlog.stores.memory import MemoryStore, by_month, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from towpath.eventlog.rows import Identity
    from towpath.eventlog.stores.memory import Block, StoredRow

Owner = tuple[str, int]  # puppet, job


@dataclass(frozen=True, slots=True)
class _DelayedRequest:
    sender: Owner
    rows: Sequence[StoredRow]
    token: str


class FaultyStore(MemoryStore):
    """A MemoryStore whose requests can fail in every way, and which knows the one way in which a row may be doubled.

    `doubled` holds the rows stored twice for which the documented limit does not account.
    """

    def __init__(self, *, token_log_entries: int) -> None:
        super().__init__(token_log_entries=token_log_entries)
        self.poison: set[Identity] = set()
        self.delayed: list[_DelayedRequest] = []
        self.doubled: dict[Identity, str] = {}
        self.doubled_within_limits: dict[Identity, str] = {}
        self._moment = 0
        self._started: dict[Owner, int] = {}
        self._looks: dict[UUID, list[tuple[int, Owner]]] = defaultdict(list)
        self._stored_at: dict[Identity, int] = {}
        self._ever_remembered: set[Block] = set()
        #: Rows that were refused by themselves, whether for what they are or for their size.
        self._refused_alone: set[Identity] = set()
        self._stored_late_and_repaired: set[Identity] = set()

    def job_starts(self, owner: Owner) -> None:
        self._started[owner] = self._tick()

    def mend(self) -> None:
        """From now on, what was refused is taken."""
        self.poison.clear()

    def read_back(self, window_id: UUID) -> set[Identity]:
        if stand_still("read_back") is Order.UNAVAILABLE:
            raise StoreUnavailable
        self._looks[window_id].append((self._tick(), _sender()))
        return super().read_back(window_id)

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        order = stand_still(f"write {token}")
        parsed = parse(rows)
        assert len(parsed) == row_count
        match order:
            case Order.UNAVAILABLE:
                raise StoreUnavailable
            case Order.DELAYED:
                self.delayed.append(_DelayedRequest(_sender(), parsed, token))
                raise OutcomeUnknown
            case Order.TOO_LARGE:
                self._refuse(parsed)
                raise WriteTooLarge
            case _:
                self._take(parsed, token=token, sender=_sender(), order=order)
        if order is Order.VIEW_FAILS:
            raise RowsRefused("while pushing to view")
        if order is not Order.GO_ON:
            raise OutcomeUnknown

    def _refuse(self, rows: Sequence[StoredRow]) -> None:
        if len(rows) == 1:
            self._refused_alone.add(rows[0].identity)

    def arrive(self, number: int) -> None:
        """A request whose sender has given up on it long ago arrives."""
        request = self.delayed.pop(number)
        try:
            self._take(request.rows, token=request.token, sender=request.sender, order=Order.GO_ON)
        except RowsRefused:
            return

    def _take(self, rows: Sequence[StoredRow], *, token: str, sender: Owner, order: Order) -> None:
        if any(row.identity in self.poison for row in rows):
            self._refuse(rows)
            raise RowsRefused("Cannot parse")
        for month, block in by_month(rows).items():
            if order is Order.GHOST:
                if (month, token) not in self.token_log:
                    self._remember((month, token))
                continue
            self._store(block, (month, token), sender)
            if order is Order.FIRST_MONTH_ONLY:
                return

    def _remember(self, block: Block) -> None:
        self._ever_remembered.add(block)
        self.remember(block)

    def _store(self, rows: Sequence[StoredRow], block: Block, sender: Owner) -> None:
        is_forgotten = block in self._ever_remembered and block not in self.token_log
        already = {row.identity for row in self.rows}
        self._ever_remembered.add(block)
        if not self.store_block(block, rows):
            return
        moment = self._tick()
        for row in rows:
            if row.identity in already:
                limit = self._limit(row, sender, is_forgotten=is_forgotten)
                (self.doubled_within_limits if limit else self.doubled)[row.identity] = limit or block[1]
            self._stored_at[row.identity] = moment
            if row.identity in self._refused_alone and self._has_been_taken_over(row.window_id, sender):
                self._stored_late_and_repaired.add(row.identity)

    def _limit(self, row: StoredRow, sender: Owner, *, is_forgotten: bool) -> str | None:
        """Which of the documented limits doubled the row; None if none."""
        if row.identity in self._stored_late_and_repaired:
            return "late and repaired"  # a late insert stored a row that is a dead letter by now, and it was replayed
        is_late = self._has_been_taken_over(row.window_id, sender)
        if not is_late and self._stored_at[row.identity] < self._last_look(row.window_id, sender):
            return None  # the sender could have seen the row, and nobody had taken the window over
        if is_forgotten:
            return "late and forgotten"
        if row.identity in self._refused_alone:
            return "late and repaired"
        return None

    def _last_look(self, window_id: UUID, sender: Owner) -> int:
        own_looks = (moment for moment, owner in self._looks[window_id] if owner == sender)
        return max([self._started.get(sender, 0), *own_looks])

    def _has_been_taken_over(self, window_id: UUID, sender: Owner) -> bool:
        """True if somebody else has looked at the window since the sender did."""
        own = self._last_look(window_id, sender)
        return any(moment > own and owner != sender for moment, owner in self._looks[window_id])

    def _tick(self) -> int:
        self._moment += 1
        return self._moment


def _sender() -> Owner:
    puppet = current_puppet()
    return ("the test", 0) if puppet is None else (puppet.name, puppet.job)
