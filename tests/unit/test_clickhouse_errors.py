"""What ClickHouse's error codes mean for the rows of an insert."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, ProgrammingError
from clickhouse_connect.driver.httpclient import HttpClient
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from deploy.local.ports import Ports
from towpath.eventlog.errors import EventStoreError, OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.eventlog.stores.clickhouse.errors import translated
from towpath.eventlog.stores.clickhouse.store import ClickHouseStore

if TYPE_CHECKING:
    from tests.services import Services

POOL = HTTPConnectionPool("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("code", "name", "outcome"),
    [
        (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", RowsRefused),
        (41, "CANNOT_PARSE_DATETIME", RowsRefused),
        (72, "CANNOT_PARSE_NUMBER", RowsRefused),
        (117, "INCORRECT_DATA", RowsRefused),
        (469, "VIOLATED_CONSTRAINT", RowsRefused),
        (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO", RowsRefused),
        (9999, "A_CODE_OF_TOMORROW", RowsRefused),
        (159, "TIMEOUT_EXCEEDED", OutcomeUnknown),
        (209, "SOCKET_TIMEOUT", OutcomeUnknown),
        (210, "NETWORK_ERROR", OutcomeUnknown),
        (319, "UNKNOWN_STATUS_OF_INSERT", OutcomeUnknown),
        (394, "QUERY_WAS_CANCELLED", OutcomeUnknown),
        (659, "UNKNOWN_STATUS_OF_TRANSACTION", OutcomeUnknown),
        (734, "CANNOT_WRITE_AFTER_BUFFER_CANCELED", OutcomeUnknown),
        (735, "QUERY_WAS_CANCELLED_BY_CLIENT", OutcomeUnknown),
        (241, "MEMORY_LIMIT_EXCEEDED", WriteTooLarge),
        (160, "TOO_SLOW", WriteTooLarge),
        (778, "MEMORY_RESERVATION_FAILED", WriteTooLarge),
        (745, "SERVER_OVERLOADED", StoreUnavailable),
        (204, "CANNOT_FSYNC", StoreUnavailable),
        (695, "ASYNC_LOAD_FAILED", StoreUnavailable),
        (733, "TABLE_IS_BEING_RESTARTED", StoreUnavailable),
        (1000, "POCO_EXCEPTION", StoreUnavailable),
        (242, "TABLE_IS_READ_ONLY", StoreUnavailable),
        (243, "NOT_ENOUGH_SPACE", StoreUnavailable),
        (252, "TOO_MANY_PARTS", StoreUnavailable),
        (60, "UNKNOWN_TABLE", StoreUnavailable),
        (16, "NO_SUCH_COLUMN_IN_TABLE", StoreUnavailable),
        (1001, "STD_EXCEPTION", StoreUnavailable),
        (516, "AUTHENTICATION_FAILED", StoreUnavailable),
        (202, "TOO_MANY_SIMULTANEOUS_QUERIES", StoreUnavailable),
    ],
)
def test_a_code_is_one_of_four_outcomes(code: int, name: str, outcome: type[EventStoreError]) -> None:
    error = DatabaseError(f"Code: {code}. DB::Exception: something ({name})", code=code, name=name)

    assert type(translated(error)) is outcome


def test_a_body_that_a_proxy_finds_too_large_can_be_sent_in_parts() -> None:
    error = DatabaseError(
        "HTTP driver received HTTP status 413, server response: <html>Request Entity Too Large</html>"
    )

    assert type(translated(error)) is WriteTooLarge


def test_a_refused_connection_wrote_nothing() -> None:
    error = OperationalError("cannot connect")
    error.__cause__ = MaxRetryError(POOL, "/", NewConnectionError(HTTPConnection("127.0.0.1"), "refused"))

    assert type(translated(error)) is StoreUnavailable


@pytest.mark.parametrize(
    "cause", [ReadTimeoutError(POOL, "/", "read timed out"), ProtocolError("connection aborted"), None]
)
def test_an_error_without_a_code_leaves_the_outcome_unknown(cause: Exception | None) -> None:
    error = OperationalError("no answer")
    error.__cause__ = cause

    assert type(translated(error)) is OutcomeUnknown


def test_the_message_quotes_no_payload() -> None:
    error = DatabaseError(
        "Code: 41. DB::Exception: Cannot parse DateTime: (at row 3)\nRow 3: event_context: secret\n", code=41
    )

    assert "secret" not in str(translated(error))
    assert "Cannot parse DateTime" in str(translated(error))


@pytest.mark.parametrize(("code", "name"), [(164, "READONLY"), (497, "ACCESS_DENIED")])
def test_a_user_without_the_right_is_told_whose_it_is(code: int, name: str) -> None:
    error = DatabaseError(f"Code: {code}. DB::Exception: x. ({name})", code=code)

    assert type(translated(error)) is StoreUnavailable
    assert "towpath_writer" in str(translated(error))


def test_a_store_that_is_down_is_unavailable_at_its_first_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Given a port that nobody listens on
    ports = Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    store = ClickHouseStore(f"clickhouse://127.0.0.1:{ports.choose('clickhouse')}/default", timeout_seconds=2)

    # When the store is made, nothing happens; when it is used, it says so
    with pytest.raises(StoreUnavailable):
        store.write(b"", row_count=0, token="token")
    ports.release()


def test_an_error_that_is_not_the_driver_s_own_comes_out_as_the_store_s_with_its_type(services: Services) -> None:
    server = f"clickhouses://127.0.0.1:{services.clickhouse.port}"
    store = ClickHouseStore(f"{server}/default?ca_cert=/nowhere/ca.pem", timeout_seconds=2)

    for use in (lambda: store.write(b"", row_count=0, token="t"), store.now, store.problems):
        with pytest.raises(StoreUnavailable, match="FileNotFoundError"):
            use()


def test_an_error_in_the_middle_of_an_insert_leaves_its_outcome_unknown(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ClickHouseStore(services.clickhouse.url, timeout_seconds=20)
    store.now()

    def interrupted(*_: object, **__: object) -> None:
        raise ssl.SSLEOFError("EOF occurred in violation of protocol")

    monkeypatch.setattr(HttpClient, "raw_insert", interrupted)
    with pytest.raises(OutcomeUnknown, match=r"SSLEOFError: .*EOF occurred"):
        store.write(b"", row_count=0, token="t")
    store.close()


def test_a_setting_that_has_become_read_only_is_the_configuration_s_fault(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver finds it before it sends anything: nothing of the insert is unknown."""
    store = ClickHouseStore(services.clickhouse.url, timeout_seconds=20)
    store.now()

    def refused(*_: object, **__: object) -> None:
        raise ProgrammingError("Setting async_insert is readonly")

    monkeypatch.setattr(HttpClient, "raw_insert", refused)
    user = services.clickhouse.user or "default"
    with pytest.raises(StoreUnavailable, match=rf"async_insert is readonly. User {user} of the event store lacks"):
        store.write(b"", row_count=0, token="t")
    store.close()
