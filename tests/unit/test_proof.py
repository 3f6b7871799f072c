"""The form of a digest, written out by hand: what was recorded years ago must still be what a store computes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from towpath.eventlog.columns import Column, FromContext, Kind
from towpath.eventlog.proof import PRIME, RowDigest, Sums, changed_row, covered, row_digest, row_form, window_digests

MONTH = date(2024, 2, 1)
WINDOW, OTHER_WINDOW = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        (Kind.TEXT, "", b"0:"),
        (Kind.TEXT, "é😀", b"6:\xc3\xa9\xf0\x9f\x98\x80"),
        (Kind.TEXT, b"a\n1:", b"4:a\n1:"),
        (Kind.LOW_CARDINALITY_TEXT, "free", b"4:free"),
        (Kind.BOOLEAN, True, b"4:true"),
        (Kind.BOOLEAN, False, b"5:false"),
        (Kind.WHOLE_NUMBER, 0, b"1:0"),
        (Kind.WHOLE_NUMBER, 2**63 - 1, b"19:9223372036854775807"),
        (Kind.SIGNED_NUMBER, -(2**63), b"20:-9223372036854775808"),
        (Kind.DECIMAL, Decimal("1.5"), b"11:1.500000000"),
        (Kind.DECIMAL, Decimal("-0.000000001"), b"12:-0.000000001"),
        (Kind.DECIMAL, Decimal("-0.0"), b"11:0.000000000"),
        (Kind.DECIMAL, Decimal("1e3"), b"14:1000.000000000"),
        (Kind.DECIMAL, Decimal("9" * 29 + "." + "9" * 9), b"39:" + b"9" * 29 + b"." + b"9" * 9),
        (Kind.FLOAT, 1.0, b"16:3ff0000000000000"),
        (Kind.FLOAT, 0.0, b"16:0000000000000000"),
        (Kind.FLOAT, -0.0, b"16:8000000000000000"),
        (Kind.FLOAT, 5e-324, b"16:0000000000000001"),
        (Kind.TIME, datetime(1970, 1, 1, tzinfo=UTC), b"1:0"),
        (Kind.TIME, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), b"2:-1"),
        (Kind.TIME, datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC), b"16:1709209815123456"),
        (Kind.UUID, UUID("ABCDEFAB-0000-0000-0000-000000000001"), b"36:abcdefab-0000-0000-0000-000000000001"),
    ],
)
def test_the_form_of_a_value(kind: Kind, value: object, form: bytes) -> None:
    assert row_form([(kind, value)]) == form


@pytest.mark.parametrize("kind", Kind)
def test_null_has_a_form_that_no_value_has(kind: Kind) -> None:
    assert row_form([(kind, None), (Kind.TEXT, "")]) == b":0:"


def test_the_form_of_a_row_is_that_of_its_values_in_order() -> None:
    values = [(Kind.TEXT, "ab"), (Kind.BOOLEAN, True), (Kind.TEXT, "c")]

    assert row_form(values) == b"2:ab4:true1:c"
    assert row_digest(values) == sha256(b"2:ab4:true1:c").hexdigest()
    assert row_digest([]) == sha256(b"").hexdigest()


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_no_two_rows_have_one_form(one: list[str], other: list[str]) -> None:
    assume(one != other)

    assert row_form([(Kind.TEXT, text) for text in one]) != row_form([(Kind.TEXT, text) for text in other])


def test_everything_that_a_person_reads_is_covered() -> None:
    assert covered((Column("tenant", Kind.TEXT, FromContext("tenant")),)) == (
        "outbox",
        "outbox_id",
        "window_id",
        "event_type",
        "event_date_time",
        "environment",
        "metadata_version",
        "event_context",
        "actor",
        "request_id",
        "ip",
        "target",
        "outcome",
        "tenant",
        "written_at",
    )


# --- Windows ---------------------------------------------------------------------------------------------------------


def digest(outbox_id: int, text: str = "", *, outbox: str = "outbox_event", month: date = MONTH) -> RowDigest:
    at = datetime(month.year, month.month, 1, tzinfo=UTC)
    return RowDigest(outbox, outbox_id, month, "paid", at, sha256(f"{outbox_id} {text}".encode()).hexdigest())


def test_the_digest_of_a_window_is_that_of_its_rows_digests_sorted() -> None:
    first, second = sorted((digest(1), digest(2)), key=lambda one: one.digest)

    (found,) = window_digests([(WINDOW, second), (WINDOW, first)])

    assert found.digest == sha256((first.digest + second.digest).encode()).hexdigest()
    numbers = [int(one.digest[:12], 16) for one in (first, second)]
    assert found.digest_sum == sum(numbers)
    assert found.id_sum == numbers[0] * first.outbox_id + numbers[1] * second.outbox_id
    assert (found.window_id, found.outbox, found.month, found.rows) == (WINDOW, "outbox_event", MONTH, 2)


def test_windows_outboxes_and_months_are_digested_apart() -> None:
    later = date(2024, 3, 1)
    rows = [
        (OTHER_WINDOW, digest(1)),
        (WINDOW, digest(1, outbox="outbox_user")),
        (WINDOW, digest(1, month=later)),
        (WINDOW, digest(1)),
    ]

    assert [(one.window_id, one.outbox, one.month) for one in window_digests(rows)] == [
        (WINDOW, "outbox_event", MONTH),
        (WINDOW, "outbox_event", later),
        (WINDOW, "outbox_user", MONTH),
        (OTHER_WINDOW, "outbox_event", MONTH),
    ]


# --- The locator -----------------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=30, unique_by=lambda id_: id_ % PRIME)


def sums(digests: list[RowDigest]) -> Sums:
    if not digests:
        return Sums()
    (found,) = window_digests((WINDOW, one) for one in digests)
    return found.sums


@given(ids=IDS, place=st.integers(0), text=st.text(min_size=1))
def test_a_row_that_was_edited_or_added_is_named(ids: list[int], place: int, text: str) -> None:
    rows = [digest(id_) for id_ in ids]
    place %= len(rows)
    edited = [*rows[:place], digest(ids[place], text), *rows[place + 1 :]]
    lost = [*rows[:place], *rows[place + 1 :]]

    assert changed_row(sums(rows), sums(edited), ids=ids) == ids[place]
    assert changed_row(sums(lost), sums(rows), ids=ids) == ids[place]


@given(
    lowest=st.integers(0, 2**63 - 1 - 20_000),
    offsets=st.lists(st.integers(0, 10_000), min_size=2, max_size=30, unique=True),
)
def test_a_lost_row_is_named_by_an_id_near_the_others(lowest: int, offsets: list[int]) -> None:
    lost, *kept = (lowest + offset for offset in offsets)

    found = changed_row(sums([digest(id_) for id_ in (lost, *kept)]), sums([digest(id_) for id_ in kept]), ids=kept)

    assert found == lost


def test_no_row_is_named_if_two_could_be_meant() -> None:
    ids = [7, 7 + PRIME]
    rows, edited = ([digest(7, text), digest(7 + PRIME)] for text in ("a", "b"))

    assert changed_row(sums(rows), sums(edited), ids=ids) is None


def test_nothing_is_named_where_no_row_is_left() -> None:
    assert changed_row(sums([digest(7)]), Sums(), ids=[]) is None


@given(ids=IDS)
def test_no_row_is_named_when_none_was_changed(ids: list[int]) -> None:
    rows = [digest(id_) for id_ in ids]

    assert changed_row(sums(rows), sums(rows), ids=ids) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(Sums(), Sums(2, 7), id="no whole quotient"),
        pytest.param(Sums(), Sums(1, 10_004), id="too far from the others"),
        pytest.param(Sums(5, 10), Sums(5, 20), id="sums of digests that are the same"),
    ],
)
def test_sums_that_no_single_row_explains_name_none(before: Sums, after: Sums) -> None:
    assert changed_row(before, after, ids=[3]) is None


def test_two_changes_name_no_row_of_a_real_window() -> None:
    rows = [digest(id_) for id_ in range(100, 1100)]
    edited = [digest(100, "a"), digest(101, "b"), *rows[2:]]

    assert changed_row(sums(rows), sums(edited), ids=[row.outbox_id for row in rows]) is None
