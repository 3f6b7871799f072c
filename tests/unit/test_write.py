"""Write: what an attempt asks of the store, by what an earlier one has left there."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, cast

import pytest

from backend.eventlog.errors import OutcomeUnknown
from pipeline.errors import SchemaRefused
from pipeline.load import LoadedWindow
from pipeline.window import RefusedRow, SealedWindow
from pipeline.write import write
from tests.unit.fake_store import FakeStore

if TYPE_CHECKING:
    from backend.eventlog.store import EventStore

WINDOW = uuid.UUID("11111111-2222-3333-4444-555555555555")
#: Two outboxes, one id in both, and in the contexts what Python's text takes for an end of line and COPY does not.
LINES = [
    b"outbox_event\t7\t%s\tpaid\t{}\n" % str(WINDOW).encode(),
    b"outbox_event\t8\t%s\tpaid\tx\x0by\x0cz\x1c\xc2\x85\xe2\x80\xa8\n" % str(WINDOW).encode(),
    b"outbox_event\t9\t%s\tpaid\ta\\tb\\r\\n\n" % str(WINDOW).encode(),
    b"outbox_user\t7\t%s\tuser_created\t\n" % str(WINDOW).encode(),
]


class Attempts:
    """The attempts at one window, and what was recorded of them in the ledger."""

    def __init__(self, store: FakeStore, lines: list[bytes]) -> None:
        self.store = store
        self.lines = lines
        self.is_halved = False

    def attempt(self, number: int) -> list[RefusedRow]:
        rows = {"outbox_event": len(self.lines) - 1, "outbox_user": 1}
        window = SealedWindow(WINDOW, uuid.uuid4(), number, rows, self.is_halved)
        loaded = LoadedWindow(b"".join(self.lines), rows)
        store = cast("EventStore", self.store)  # of which write uses two methods
        return list(write(store, window, loaded, mark_halved=self._mark_halved))

    def _mark_halved(self) -> None:
        self.is_halved = True


def test_the_first_attempt_writes_once_and_reads_nothing_back() -> None:
    store = FakeStore()

    assert Attempts(store, LINES).attempt(1) == []

    assert store.calls == ["write 4"]
    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


def test_a_replay_of_a_written_window_writes_nothing() -> None:
    # Given a window that is written, and a store that has forgotten its token
    store = FakeStore()
    attempts = Attempts(store, LINES)
    attempts.attempt(1)
    store.tokens.clear()

    attempts.attempt(2)

    assert store.calls == ["write 4", "read_back"]
    assert store.lines == LINES


def test_a_replay_of_a_window_that_never_arrived_writes_all_of_it_with_its_own_token() -> None:
    store = FakeStore()

    Attempts(store, LINES).attempt(2)

    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


def test_a_replay_of_a_half_stored_window_writes_the_other_half() -> None:
    # Given a store that has the rows of one month, and a token log by month: this window's token is new to the other
    store = FakeStore()
    store.lines = LINES[:2]

    Attempts(store, LINES).attempt(2)

    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


@pytest.mark.parametrize("stored", [[], [0], [1], [2, 3], [0, 1, 3]])
def test_behind_a_token_without_its_rows_only_the_missing_rows_are_written_under_a_fresh_token(
    stored: list[int],
) -> None:
    # Given a store that remembers the token, but has lost some of the rows
    store = FakeStore()
    store.tokens.add(str(WINDOW))
    store.lines = [LINES[n] for n in stored]

    # When the window is replayed
    Attempts(store, LINES).attempt(5)

    # Then each row is stored once, under the first token of the series
    assert sorted(store.lines) == sorted(LINES)
    assert f"write {len(LINES) - len(stored)}" in store.calls
    assert store.tokens == {str(WINDOW), f"{WINDOW}:1"}


def test_rows_that_stay_missing_are_an_unknown_outcome() -> None:
    class Forgetful(FakeStore):
        def write(self, rows: bytes, *, row_count: int, token: str) -> None:
            """Takes nothing and says that all is well."""

    with pytest.raises(OutcomeUnknown, match="4 of the window's rows"):
        Attempts(Forgetful(), LINES).attempt(2)


def thirty_rows() -> list[bytes]:
    return [b"outbox_event\t%d\t%s\tpaid\t{}\n" % (n, str(WINDOW).encode()) for n in range(1, 31)]


@pytest.mark.parametrize("poison", [[0], [29], [7, 8], [3, 14, 15]])
def test_refused_rows_are_named_and_all_others_written_once(poison: list[int]) -> None:
    lines = thirty_rows()
    store = FakeStore(refuses=[lines[n] for n in poison])
    attempts = Attempts(store, lines)

    refused = attempts.attempt(1)

    assert sorted(row.row_id for row in refused) == [n + 1 for n in poison]
    assert sorted(store.lines) == sorted(line for n, line in enumerate(lines) if n not in poison)
    assert attempts.is_halved


def test_a_replay_of_a_halved_window_writes_nothing_twice() -> None:
    # Given a window of which the refused row was found, but whose ack was lost, and a store without its token log
    lines = thirty_rows()
    store = FakeStore(refuses=[lines[11]])
    attempts = Attempts(store, lines)
    first = attempts.attempt(1)
    store.tokens.clear()

    # When it is replayed
    second = attempts.attempt(2)

    # Then the same row is refused, and the others are stored once
    assert first == second
    assert sorted(store.lines) == sorted(lines[:11] + lines[12:])


def test_a_store_that_refuses_most_rows_is_at_fault_itself() -> None:
    lines = thirty_rows()

    with pytest.raises(SchemaRefused):
        Attempts(FakeStore(refuses=lines), lines).attempt(1)
