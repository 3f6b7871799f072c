"""Statements to a ClickHouse engine, with our settings pinned. No other module uses the driver.

The engine is a server over HTTP, or it runs inside this process. Whatever the driver raises leaves this module as one
of the event store's errors; an error that is not ClickHouse's own is named by its type.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, cast

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError
from urllib3 import Retry

from towpath.eventlog.errors import EventStoreError, LimitReached, OutcomeUnknown, StoreUnavailable
from towpath.eventlog.stores.clickhouse.errors import CODES_OF_LIMITS, brief, lacking, lacks, translated
from towpath.eventlog.stores.clickhouse.settings import (
    PINNED,
    PINNED_ON_INSERTS,
    Setting,
    fixed_otherwise,
    pins,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clickhouse_connect.driver.client import Client

    from towpath.eventlog.stores.clickhouse.url import Address

#: Settings for the query that reads the settings. Every server knows them.
_TO_READ_SETTINGS = {"limit": "0", "offset": "0", "max_rows_to_read": "0", "max_result_rows": "0"}


#: For an answer that ClickHouse never gives: a proxy or another program has answered.
NOT_THE_STORES = "the answer is not from the event store: check its URL"


#: The server takes a limit of 0 seconds as no limit.
_LEAST_SECONDS = 0.001

#: ACCESS_DENIED.
_NOT_GRANTED = 497
#: UNKNOWN_SETTING, READONLY, SETTING_CONSTRAINT_VIOLATION.
_ABOUT_SETTINGS = frozenset({115, 164, 452})


class NotGranted(StoreUnavailable):
    """The user lacks the privilege for this statement. It may have others."""


class ClickHouseClient:
    """A client of one ClickHouse engine. It is safe to share between threads, and connects at first use."""

    def __init__(self, address: Address, *, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._client: Client | None = None
        self._settings: Mapping[str, Setting] = {}
        #: What the JSON functions need, once a statement has used one.
        self._for_json: Mapping[str, str] | None = None
        self._connecting = threading.Lock()

    @property
    def user(self) -> str:
        """The user who runs the statements."""
        return self._address.username or "default"

    @property
    def database(self) -> str:
        """The database that holds our tables."""
        return self._address.database

    def query(self, sql: str, *, wanted: Mapping[str, str] = PINNED, **parameters: object) -> Sequence[Sequence[Any]]:
        """Return the rows of a statement, with a parameter for each `%(name)s`. Raises StoreUnavailable."""
        with self._translating():
            client = self._connected()
            settings = self._pinned({**wanted, **self._to_read_json(client, sql)})
            return client.query(sql, parameters=parameters, settings=settings).result_rows

    def columns_within(self, sql: str, parameters: dict[str, Any], *, seconds: float) -> Sequence[Sequence[Any]]:
        """Return the columns of a statement that may take `seconds`, or less if the user's own limit is lower.

        Raises StoreUnavailable, or LimitReached when the statement reaches a limit.
        """
        with self._translating():
            client = self._connected()
            settings = {**self._pinned({**PINNED, **self._to_read_json(client, sql)}), **self._time_limit(seconds)}
            # Times with their zone: adding it to each time of a page afterwards takes longer than reading the page.
            return client.query(sql, parameters=parameters, settings=settings, tz_mode="aware").result_columns

    def stream(self, sql: str, **parameters: object) -> Iterator[Sequence[Any]]:
        """Yield the rows of a statement as they arrive. Raises StoreUnavailable, even in the middle."""
        with self._translating():
            client = self._connected()
            settings = self._pinned({**PINNED, **self._to_read_json(client, sql)})
            with client.query_rows_stream(sql, parameters=parameters, settings=settings) as rows:
                yield from rows

    def command(self, sql: str, *, wanted: Mapping[str, str] = PINNED, **parameters: object) -> None:
        """Run a statement that returns no rows. Raises StoreUnavailable."""
        with self._translating():
            self._connected().command(sql, parameters=parameters or None, settings=self._pinned(wanted))

    def insert(self, table: str, columns: Sequence[str], rows: bytes, *, token: str) -> int:
        """Write rows of COPY text, and return how many rows the server says it took.

        Raises StoreUnavailable, OutcomeUnknown, WriteTooLarge or RowsRefused.
        """
        with self._translating():
            client = self._connected()
            pinned = self._pinned(PINNED_ON_INSERTS)
            # The server gives up before we do: an insert must not continue when nobody waits for it.
            limit = self._time_limit(max(1, int(self._timeout_seconds * 0.8)))
        settings = {**pinned, **limit, "insert_deduplication_token": token}
        try:
            # The driver would copy bytes, to put the statement before them.
            body = cast("bytes", memoryview(rows))
            summary = client.raw_insert(
                table, column_names=columns, insert_block=body, settings=settings, fmt="TabSeparated"
            )
        except ProgrammingError as error:
            # Raised by the driver before it sends anything: a setting has become read-only since we last read them.
            self.close()
            raise StoreUnavailable(f"{brief(error)}. {lacks(self._address.username, 'a privilege')}") from error
        except ClickHouseError as error:
            self._forget_settings_after(error)
            raise translated(error, user=self._address.username) from error
        except Exception as error:
            raise OutcomeUnknown(f"{type(error).__name__}: {brief(error)}") from error
        # An answer without the count is not the server's: it is a proxy's page, or another program uses its port.
        return int(summary.summary.get("written_rows", 0))

    def settings(self) -> Mapping[str, Setting]:
        """Return every setting by name, as it is for our user now. Raises StoreUnavailable."""
        with self._translating():
            return self._read_settings(self._connected())

    def close(self) -> None:
        client, self._client, self._for_json = self._client, None, None
        if client is not None:
            client.close()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except EventStoreError:
            raise
        except ClickHouseError as error:
            self._forget_settings_after(error)
            raise _outcome(error)(brief(error) + lacking(error, user=self._address.username)) from error
        # TLS, the network, or the driver itself: the server has decided nothing, and the caller tries again.
        except Exception as error:
            raise StoreUnavailable(f"{type(error).__name__}: {brief(error)}") from error

    def _forget_settings_after(self, error: ClickHouseError) -> None:
        """Have the settings read again if the error is about them: the server was replaced, or the profile changed."""
        if _code(error) in _ABOUT_SETTINGS:
            self.close()

    def _time_limit(self, seconds: float) -> dict[str, float]:
        """Return the setting that lets a statement take `seconds`, or as long as the user's profile allows."""
        name, seconds = "max_execution_time", max(seconds, _LEAST_SECONDS)
        known = self._settings.get(name)
        if known is None or known.can_be(str(seconds)):
            return {name: seconds}
        return {} if known.is_fixed or not known.most else {name: min(seconds, float(known.most))}

    def _to_read_json(self, client: Client, sql: str) -> Mapping[str, str]:
        """Return the settings with which the statement's JSON functions find what is in every context.

        The parser that is the default reads nothing of a text that has an integer above 64 bits, until ClickHouse 26.7
        at least. The other one is slower.
        """
        if "JSON" not in sql:
            return {}
        needed = self._for_json  # another thread may close the connection, and forget it
        if needed is None:
            question = f"SELECT JSONHas('{{\"a\":{2**64}}}', 'a')"
            ((is_read,),) = client.query(question, settings=self._pinned(PINNED)).result_rows
            self._for_json = needed = {} if is_read else {"allow_simdjson": "0"}
        return needed

    def _pinned(self, wanted: Mapping[str, str]) -> dict[str, str]:
        if otherwise := fixed_otherwise(wanted, self._settings):
            is_reader = self._settings["readonly"].value == "1" if "readonly" in self._settings else False
            # So that the next attempt reads the settings again, and sees what was removed from the profile.
            self.close()
            if is_reader:
                raise StoreUnavailable(
                    lacks(self._address.username, "the privilege for this: its profile is read-only")
                )
            raise StoreUnavailable(
                f"the profile of the event store's user {self.user} changes what a statement means:"
                f" {'; '.join(otherwise)}. Remove this from the profile's constraints"
            )
        return pins(wanted, self._settings)

    def _connected(self) -> Client:
        with self._connecting:
            if self._client is None:
                client = self._connect()
                self._settings = self._read_settings(client)
                self._client = client
            return self._client

    def _read_settings(self, client: Client) -> Mapping[str, Setting]:
        fixed = {name for name, setting in client.server_settings.items() if setting.readonly}
        settings = {name: value for name, value in _TO_READ_SETTINGS.items() if name not in fixed}

        def one(sql: str) -> Sequence[Any]:
            # As one array: one row, so no limit can leave out a part of it.
            rows: Sequence[Sequence[Any]] = client.query(sql, settings=settings).result_rows
            if len(rows) != 1:
                raise StoreUnavailable(NOT_THE_STORES)
            found: Sequence[Any] = rows[0][0]
            return found

        columns = "name, value, toString(changed), toString(readonly), ifNull(min, ''), ifNull(max, ''), {default}"
        statement = f"SELECT groupArray(({columns})) FROM system.settings"
        try:
            found = one(statement.format(default='"default"'))
        except ClickHouseError:
            # An older server does not tell a setting's default.
            found = one(statement.format(default="''"))
        return {
            name: Setting(name, value, changed == "1", readonly == "1", least, most, default)
            for name, value, changed, readonly, least, most, default in found
        }

    def _connect(self) -> Client:
        address = self._address
        if address.folder:
            return _embedded(address.folder)
        try:
            client = clickhouse_connect.get_client(
                host=address.host,
                port=address.port,
                username=address.username,
                password=address.password,
                database=address.database,
                interface="https" if address.is_secure else "http",
                send_receive_timeout=self._timeout_seconds,
                # With a session, two threads could not share the client, and a lost answer would leave it locked.
                autogenerate_session_id=False,
                **dict(address.options),
            )
        except ClickHouseError as error:
            # The driver asks for the version and the settings before we can pin anything.
            if "Unexpected" in str(error):
                raise StoreUnavailable(
                    f"{NOT_THE_STORES}, and that its user's profile does not set `offset`"
                ) from error
            raise
        # Never follow a redirect: events must not be sent to a login page, for example.
        client.http_retries = Retry(1, redirect=False)  # type: ignore[attr-defined]
        return client


def _outcome(error: ClickHouseError) -> type[StoreUnavailable]:
    code = _code(error)
    if code in CODES_OF_LIMITS:
        return LimitReached
    return NotGranted if code == _NOT_GRANTED else StoreUnavailable


def _code(error: ClickHouseError) -> int | None:
    """Return the server's error code, or None if the error is not an answer of the server."""
    code: int | None = getattr(error, "code", None)
    return code


def _embedded(folder: str) -> Client:
    """Open the engine in this process. Its data is in the folder, which no other process may have open."""
    try:
        return clickhouse_connect.get_client(interface="chdb", path=folder)
    except ImportError as error:
        raise StoreUnavailable("chdb:// needs the package chdb: run `pip install chdb`") from error
    except ClickHouseError as error:
        raise StoreUnavailable(
            f"{brief(error)}: a chdb:// folder belongs to one process. Check that no other process has it open"
        ) from error
