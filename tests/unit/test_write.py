"""Write: what an attempt asks of the store, by what an earlier one has left there."""

from __future__ import annotations

import uuid

import pytest

from backend.eventlog.errors import OutcomeUnknown
from pipeline.load import LoadedWindow
from pipeline.window import SealedWindow
from pipeline.write import write
from tests.unit.fake_store import FakeStore

WINDOW = uuid.UUID("11111111-2222-3333-4444-555555555555")
#: Two outboxes, a carriage return and a vertical tab that must not be taken for the end of a line, nor a blank.
LINES = [
    b"outbox_event\t7\t%s\tpaid\t{}\n" % str(WINDOW).encode(),
    b"outbox_event\t8\t%s\tpaid\tx\x0by\x85z\xe2\x80\xa8\n" % str(WINDOW).encode(),
    b"outbox_event\t9\t%s\tpaid\ta\\tb\\r\n" % str(WINDOW).encode(),
    b"outbox_user\t7\t%s\tuser_created\t\n" % str(WINDOW).encode(),
]
LOADED = LoadedWindow(b"".join(LINES), {"outbox_event": 3, "outbox_user": 1})


def window(*, attempt: int) -> SealedWindow:
    return SealedWindow(WINDOW, uuid.uuid4(), attempt, {"outbox_event": 3, "outbox_user": 1})


def test_the_first_attempt_writes_once_and_reads_nothing_back() -> None:
    store = FakeStore()

    write(store, window(attempt=1), LOADED)

    assert store.asked == ["write 4"]
    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


def test_a_replay_of_a_written_window_writes_nothing() -> None:
    store = FakeStore()
    write(store, window(attempt=1), LOADED)
    store.tokens.clear()  # the store has forgotten the token meanwhile

    write(store, window(attempt=2), LOADED)

    assert store.asked == ["write 4", "read_back"]
    assert store.lines == LINES


def test_a_replay_of_a_window_that_never_arrived_writes_all_of_it_with_the_window_s_token() -> None:
    store = FakeStore()

    write(store, window(attempt=2), LOADED)

    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


@pytest.mark.parametrize("stored", [[0], [1], [2, 3], [0, 1, 3]])
def test_behind_a_token_without_its_rows_only_the_missing_rows_are_written_under_a_fresh_token(
    stored: list[int],
) -> None:
    # Given a store that remembers the token, but has lost some of the rows
    store = FakeStore()
    store.tokens.add(str(WINDOW))
    store.lines = [LINES[n] for n in stored]

    # When the window is replayed
    write(store, window(attempt=5), LOADED)

    # Then each row is stored once, and the fresh token names window and attempt
    assert sorted(store.lines) == sorted(LINES)
    assert store.asked[-2] == f"write {len(LINES) - len(stored)}"
    assert store.tokens == {str(WINDOW), f"{WINDOW}:5"}


def test_rows_that_stay_missing_are_an_unknown_outcome() -> None:
    class Forgetful(FakeStore):
        def write(self, rows: bytes, *, row_count: int, token: str) -> None:
            """Takes nothing and says that all is well."""

    with pytest.raises(OutcomeUnknown, match="0 of the window's 4 rows"):
        write(Forgetful(), window(attempt=2), LOADED)
