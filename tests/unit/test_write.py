"""Write: what an attempt asks of the store, by what an earlier one has left there."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.conformance.rows import MOMENT, WINDOW, copy_text, row
from tests.unit.recording_store import RecordingStore
from towpath.eventlog import rows
from towpath.eventlog.errors import OutcomeUnknown, WriteTooLarge
from towpath.flow.load import LoadedWindow
from towpath.flow.write import AttemptLimits, Written, write
from towpath.ledger.windows import SealedWindow

NEXT_MONTH = MOMENT + timedelta(days=1)
#: Two months, two outboxes with one id in both, and in the contexts what Python's text takes for an end of line and
#: COPY does not.
LINES = [
    copy_text(row(7)),
    copy_text(row(8, context=b"x\x0by\x0cz\x1c\xc2\x85\xe2\x80\xa8")),
    copy_text(row(9, context=b"a\tb\r\n", moment=NEXT_MONTH)),
    copy_text(row(7, outbox="outbox_user", context=b"", moment=NEXT_MONTH)),
]


class Attempts:
    """The attempts at one window, and what was recorded of them in the ledger."""

    def __init__(self, store: RecordingStore, lines: list[bytes]) -> None:
        self.store = store
        self.lines = lines
        self.levels = 0

    def attempt(
        self, number: int, *, max_bytes: int = 1_000_000, is_proven: bool = False, refused_at: datetime | None = None
    ) -> Written:
        counts = Counter(rows.identity(line)[0] for line in self.lines)
        window = SealedWindow(WINDOW, uuid.uuid4(), 30, number, counts, self.levels, refused_at=refused_at)
        loaded = LoadedWindow(b"".join(self.lines), counts)
        limits = AttemptLimits(max_bytes=max_bytes, is_store_proven=is_proven, seconds=60)
        stored = self.store.read_back(WINDOW) if number > 1 else set()
        return write(self.store, window, loaded, stored=stored, limits=limits, ledger=self)

    def hold(self) -> None:
        """Nobody else has the window."""

    def cut(self, levels: int) -> None:
        self.levels = max(self.levels, levels)


def remember(store: RecordingStore, token: str) -> None:
    """As if the store had had rows of each month under this token."""
    for moment in (MOMENT, NEXT_MONTH):
        store.remember((f"{moment:%Y%m}", token))


def test_the_first_attempt_writes_once_and_reads_nothing_back() -> None:
    store = RecordingStore()

    assert Attempts(store, LINES).attempt(1) == Written(is_whole=True)

    assert store.calls == ["write 4"]
    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


def test_a_replay_of_a_written_window_writes_nothing() -> None:
    # Given a window that is written, and a store that has forgotten its token
    store = RecordingStore()
    attempts = Attempts(store, LINES)
    attempts.attempt(1)
    store.token_log.clear()

    attempts.attempt(2)

    assert store.calls == ["write 4", "read_back"]
    assert store.lines == LINES


def test_a_replay_of_a_window_that_never_arrived_writes_all_of_it_with_its_own_token() -> None:
    store = RecordingStore()

    Attempts(store, LINES).attempt(2)

    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


def test_a_replay_of_a_half_stored_window_writes_the_other_half() -> None:
    # Given a store that has the rows of one month, and a token log by month: this window's token is new to the other
    store = RecordingStore(stored=LINES[:2])

    Attempts(store, LINES).attempt(2)

    assert store.lines == LINES
    assert store.tokens == {str(WINDOW)}


@pytest.mark.parametrize("stored", [[], [0], [1], [2, 3], [0, 1, 3]])
def test_behind_a_token_without_its_rows_only_the_missing_rows_are_written_under_a_fresh_token(
    stored: list[int],
) -> None:
    # Given a store that remembers the token, but has lost some of the rows
    store = RecordingStore(stored=[LINES[n] for n in stored])
    remember(store, str(WINDOW))

    # When the window is replayed
    Attempts(store, LINES).attempt(5)

    # Then each row is stored once, under tokens of its parts
    assert sorted(store.lines) == sorted(LINES)
    assert all(token.startswith(f"{WINDOW}:") for token in store.tokens - {str(WINDOW)})


def test_a_row_whose_own_token_is_remembered_without_it_is_written_under_a_fresh_one() -> None:
    store = RecordingStore()
    remember(store, str(WINDOW))

    Attempts(store, LINES[:1]).attempt(2)

    assert store.lines == LINES[:1]
    assert store.tokens == {str(WINDOW), f"{WINDOW}:1"}


def test_rows_that_stay_missing_are_an_unknown_outcome() -> None:
    class Forgetful(RecordingStore):
        def write(self, text: bytes, *, row_count: int, token: str) -> None:
            """Takes nothing and says that all is well."""

    with pytest.raises(OutcomeUnknown, match="does not show a row"):
        Attempts(Forgetful(), LINES).attempt(2)


def thirty_rows() -> list[bytes]:
    return [copy_text(row(n)) for n in range(1, 31)]


@pytest.mark.parametrize("poison", [[0], [29], [7, 8], [3, 14, 15]])
def test_refused_rows_are_named_and_all_others_written_once(poison: list[int]) -> None:
    lines = thirty_rows()
    store = RecordingStore(refuses=[lines[n] for n in poison])
    attempts = Attempts(store, lines)

    written = attempts.attempt(1)

    assert sorted(row.row_id for row in written.refused) == [n + 1 for n in poison]
    assert (written.left, written.is_proven) == ((), True)
    assert sorted(store.lines) == sorted(line for n, line in enumerate(lines) if n not in poison)


def test_a_replay_of_a_window_with_a_refused_row_writes_nothing_twice() -> None:
    # Given a window of which the refused row was found, but whose ack was lost
    lines = thirty_rows()
    store = RecordingStore(refuses=[lines[11]])
    attempts = Attempts(store, lines)
    first = attempts.attempt(1)

    # When it is replayed, even when the store has forgotten the tokens
    second = attempts.attempt(2)
    store.token_log.clear()
    third = attempts.attempt(3)

    # Then the same row is refused, and the others are stored once
    assert first.refused == second.refused == third.refused
    assert sorted(store.lines) == sorted(lines[:11] + lines[12:])


def test_a_store_that_takes_no_row_proves_nothing_about_the_rows() -> None:
    lines = thirty_rows()
    store = RecordingStore(refuses=lines)

    written = Attempts(store, lines).attempt(1)

    assert not written.is_proven
    assert len(written.refused) + len(written.left) == len(lines)


def test_what_is_stored_of_a_window_shows_in_time_that_the_rest_is_at_fault() -> None:
    # Given a window whose owner died when all but one row were stored, and nothing else to be stored
    lines = thirty_rows()
    store = RecordingStore(refuses=[lines[4]])
    attempts = Attempts(store, lines)
    attempts.attempt(1)

    second, third = attempts.attempt(2), attempts.attempt(3)

    assert (second.is_proven, third.is_proven) == (False, True)
    assert [row.row_id for row in third.refused] == [5]


def test_a_window_that_was_refused_as_a_whole_is_tried_again_with_few_inserts() -> None:
    lines = thirty_rows()
    store = RecordingStore(refuses=lines)
    attempts = Attempts(store, lines)
    attempts.attempt(1)
    store.calls.clear()

    written = attempts.attempt(2, refused_at=datetime.now(UTC))

    assert not written.is_proven
    assert sum(call.startswith("write") for call in store.calls) <= 12


def test_good_rows_of_one_outbox_are_stored_whatever_the_rows_of_another_are() -> None:
    # Given hundreds of rows at fault before, among and after good ones of two other outboxes
    bad = [copy_text(row(n, outbox="outbox_b")) for n in range(1, 801)]
    good = [copy_text(row(n, outbox=outbox)) for outbox in ("outbox_a", "outbox_c") for n in range(1, 101)]
    store = RecordingStore(refuses=bad)

    written = Attempts(store, sorted([*good, *bad], key=rows.outbox)).attempt(1)

    assert sorted(store.lines) == sorted(good)
    assert len(written.refused) + len(written.left) == len(bad)
    assert sum(call.startswith("write") for call in store.calls) < 300


def test_bad_rows_beside_good_ones_are_told_apart_within_a_bounded_number_of_inserts() -> None:
    # Given a window whose every second row is at fault
    lines = [copy_text(row(n, outbox="outbox_b")) for n in range(1, 1001)]
    store = RecordingStore(refuses=lines[::2])

    written = Attempts(store, lines).attempt(1)

    assert written.is_proven
    assert sum(call.startswith("write") for call in store.calls) < 700
    unknown = len(lines) - len(store.lines) - len(written.refused) - len(written.left)
    assert unknown == 0


def test_an_error_after_the_rows_are_stored_doubles_nothing_and_condemns_no_row() -> None:
    # Given a view that fails for one row of thirty, when the table has the rows already
    lines = thirty_rows()
    store = RecordingStore(fails_after=[lines[4]])

    written = Attempts(store, lines).attempt(1)

    assert store.lines == lines
    assert (written.refused, written.left, written.complaint) == ((), (), "while pushing to view")


@pytest.mark.parametrize("most_lines", [1, 3, 7, 29])
def test_a_window_too_large_for_the_store_is_written_in_parts(most_lines: int) -> None:
    lines = thirty_rows()
    store = RecordingStore(most_lines=most_lines)
    attempts = Attempts(store, lines)

    written = attempts.attempt(1)

    assert sorted(store.lines) == sorted(lines)
    assert (written.refused, written.left) == ((), ())


def test_a_late_insert_of_the_whole_window_is_dropped_after_its_parts() -> None:
    # Given a window that was written in parts, because it was too large
    lines = thirty_rows()
    store = RecordingStore(most_lines=10)
    Attempts(store, lines).attempt(1)

    # When the limit is raised, and an insert of the whole arrives
    store.most_lines = 1000
    store.write(b"".join(lines), row_count=30, token=str(WINDOW))

    assert sorted(store.lines) == sorted(lines)


def test_a_row_too_large_by_itself_waits_and_holds_up_no_other() -> None:
    class LimitedBytes(RecordingStore):
        def write(self, text: bytes, *, row_count: int, token: str) -> None:
            if len(text) > 500:
                raise WriteTooLarge("413")
            super().write(text, row_count=row_count, token=token)

    lines = thirty_rows()
    lines[17] = lines[17].replace(b"{}", b"x" * 600)
    store = LimitedBytes()

    written = Attempts(store, lines).attempt(1)

    assert sorted(store.lines) == sorted(lines[:17] + lines[18:])
    assert (written.refused, written.left, written.error) == ((), (("outbox_event", 18),), "413")


def test_inserts_that_get_no_answer_for_their_size_shrink_from_attempt_to_attempt() -> None:
    lines = thirty_rows()
    store = RecordingStore(silent_above=4)
    attempts = Attempts(store, lines)
    number = 1
    while True:
        try:
            attempts.attempt(number)
            break
        except OutcomeUnknown:
            number += 1

    assert sorted(store.lines) == sorted(lines)
    assert number <= 6


@pytest.mark.parametrize("blocked", [[0], [29], [14], [3, 4, 22]])
def test_rows_that_get_no_answer_hold_up_no_other_row(blocked: list[int]) -> None:
    # Given something in between that swallows what it does not like
    class Filtered(RecordingStore):
        def write(self, text: bytes, *, row_count: int, token: str) -> None:
            if any(lines[n] in text for n in blocked):
                raise OutcomeUnknown("403 of a firewall")
            super().write(text, row_count=row_count, token=token)

    lines = thirty_rows()
    store = Filtered()
    attempts = Attempts(store, lines)

    for number in range(1, 9):
        with pytest.raises(OutcomeUnknown, match="403"):
            attempts.attempt(number)

    assert sorted(store.lines) == sorted(line for n, line in enumerate(lines) if n not in blocked)


def test_rows_that_may_arrive_still_are_never_parted_from_their_window() -> None:
    # Given a store that refuses much, and swallows the rest
    class Hostile(RecordingStore):
        def write(self, text: bytes, *, row_count: int, token: str) -> None:
            if row_count > 1 or rows.identity(text)[1] % 2:
                raise OutcomeUnknown("no answer")
            super().write(text, row_count=row_count, token=token)

    lines = [copy_text(row(n, outbox="outbox_b")) for n in range(1, 1001)]
    store = Hostile(refuses=lines[1::2])
    attempts = Attempts(store, lines)

    for number in range(1, 5):
        with pytest.raises(OutcomeUnknown):
            attempts.attempt(number)


def test_a_window_whose_limit_of_bytes_was_lowered_is_written_in_parts_of_that_size() -> None:
    lines = thirty_rows()
    store = RecordingStore()

    Attempts(store, lines).attempt(2, max_bytes=200)

    assert sorted(store.lines) == sorted(lines)
    assert "write 30" not in store.calls
