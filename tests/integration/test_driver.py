"""What Towpath asks of PostgreSQL's driver, with the one that this environment has: psycopg 3, or psycopg2."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, OperationalError, ProgrammingError, connection, connections, transaction

from backend.users.models import OutboxUser
from tests.integration.rows import create_users, execute
from towpath import driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from tests.services import Services

SETTINGS = "SET LOCAL work_mem = '123kB'; SET LOCAL extra_float_digits = 1;"


@pytest.fixture(params=[False, True], ids=["bound by the client", "server_side_binding"])
def own(request: pytest.FixtureRequest) -> Iterator[BaseDatabaseWrapper]:
    """A connection of a project that lets the client, or the server, put in the parameters. psycopg2 knows no such
    thing, and Django then leaves the option out."""
    made = connections.create_connection("default")
    made.settings_dict = {**made.settings_dict, "OPTIONS": {"server_side_binding": request.param}}
    yield made
    made.close()


def work_mem() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW work_mem")
        return str(cursor.fetchone()[0])


def test_several_statements_with_parameters_are_one_message_with_the_result_of_the_last(
    own: BaseDatabaseWrapper,
) -> None:
    with driver.cursor(own) as cursor:
        for number in range(8):  # a driver that prepares what comes again would refuse it by then
            cursor.execute(
                f"{SETTINGS} SELECT %(number)s, %(text)s::text, current_setting('work_mem'), %(ids)s::bigint[]",
                {"number": number, "text": "100% 'quoted'", "ids": [1, 2**40]},
            )
            assert cursor.rowcount == 1
            assert cursor.fetchall() == [(number, "100% 'quoted'", "123kB", [1, 2**40])]
        cursor.execute("SHOW work_mem")
        assert cursor.fetchone() != ("123kB",)


def test_the_orm_reads_lean_events_also_where_the_server_puts_in_the_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_users(1)
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"server_side_binding": True})

    (event,) = OutboxUser._base_manager.values_list(*OutboxUser.event_columns().values())

    assert any("user1@example.com" in str(value) for value in event)


def test_the_number_of_rows_is_that_of_the_last_statement() -> None:
    execute("CREATE TABLE counted AS SELECT generate_series(1, 5) AS id")
    try:
        with driver.cursor() as cursor:
            cursor.execute("SELECT 1; UPDATE counted SET id = id WHERE id > %s", [2])
            assert cursor.rowcount == 3
    finally:
        execute("DROP TABLE counted")


@pytest.mark.parametrize("values", [[], ["a", "b"], [None, "a"]])
def test_a_list_is_an_array_even_when_it_is_empty(values: list[str | None]) -> None:
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT %(values)s::text[], 'x' = ANY(%(values)s::text[]) IS TRUE, cardinality(%(values)s::text[])",
            {"values": values},
        )
        assert cursor.fetchone() == (values, False, len(values))


def test_rows_are_copied_out_under_settings_of_their_own() -> None:
    before, to = work_mem(), io.BytesIO()

    rows = driver.copy_out(
        "SELECT %s::text, current_setting('work_mem') FROM generate_series(1, %s)",
        ["\t100%", 3],
        settings=SETTINGS,
        to=to,
    )

    assert (rows, to.getvalue()) == (3, b"\\t100%\t123kB\n" * 3)
    assert work_mem() == before != "123kB"


def test_an_error_of_a_copy_is_django_s_with_its_code_and_the_connection_goes_on() -> None:
    with pytest.raises(DatabaseError) as caught:
        driver.copy_out("SELECT * FROM nowhere", [], settings=SETTINGS, to=io.BytesIO())
    assert isinstance(caught.value, ProgrammingError)
    assert driver.sqlstate(caught.value) == "42P01"

    # Even when rows have come already
    with pytest.raises(DatabaseError) as caught:
        driver.copy_out(
            "SELECT 1 / (1000 - n) FROM generate_series(1, 2000) AS n", [], settings=SETTINGS, to=io.BytesIO()
        )
    assert driver.sqlstate(caught.value) == "22012"

    assert work_mem() != "123kB"


def test_a_copy_in_somebody_s_transaction_leaves_it_open() -> None:
    with transaction.atomic():
        assert driver.copy_out("SELECT 1", [], settings=SETTINGS, to=io.BytesIO()) == 1
        assert connection.in_atomic_block
        with driver.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text")
            (one,) = cursor.fetchone()
        driver.copy_out("SELECT 1", [], settings=SETTINGS, to=io.BytesIO())
        with driver.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text")
            assert cursor.fetchone() == (one,)


def test_a_reader_that_refuses_a_row_ends_the_copy() -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        driver.copy_out("SELECT generate_series(1, 1000000)", [], settings=SETTINGS, to=Full())
    connection.close()

    assert work_mem() != "123kB"


def test_a_connection_of_its_own_copies_in_and_names_what_is_wrong(services: Services) -> None:
    own = driver.connect(driver.parameters_of(services.postgres.url))
    try:
        with driver.cursor(own) as cursor:
            begin = "BEGIN; CREATE TEMPORARY TABLE mine (id int NOT NULL, name text) ON COMMIT DROP"
            rows = b"".join(b"%d\trow\n" % number for number in range(100_000))
            assert driver.copy_in(cursor, rows, before=begin, to="mine (id, name)") == 100_000
            cursor.execute("SELECT count(*), max(id) FROM mine; COMMIT")
            with pytest.raises(driver.Error) as caught:
                driver.copy_in(cursor, b"1\ta\nnone\tb\n", before=begin, to="mine (id, name)")
        assert driver.sqlstate(caught.value) == "22P02"
        assert "line 2" in (caught.value.diag.context or "")
    finally:
        own.close()


def test_codes_are_found_on_either_s_errors() -> None:
    with pytest.raises(OperationalError) as caught, transaction.atomic(), driver.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(5)")
    assert driver.sqlstate(caught.value) == "57014"
    assert driver.sqlstate(caught.value.__cause__ or caught.value) == "57014"
    assert driver.sqlstate(ValueError("no code")) == ""


def test_a_url_of_libpq_is_read_and_its_error_says_what_it_does_not_know() -> None:
    parameters = driver.parameters_of("postgresql://u:p%40ss@h:5433/d?connect_timeout=3")
    assert {name: str(value) for name, value in parameters.items()} == {
        "user": "u",
        "password": "p@ss",
        "host": "h",
        "port": "5433",
        "dbname": "d",
        "connect_timeout": "3",
    }
    with pytest.raises(ValueError, match='invalid URI query parameter: "nonsense"'):
        driver.parameters_of("postgresql://h/d?nonsense=1")
