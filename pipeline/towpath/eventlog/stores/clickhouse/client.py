"""Statements to a ClickHouse engine, with our settings pinned; the only module that speaks to its driver.

A server over HTTP, or the engine inside this process. Whatever the driver raises leaves here as one of the event
store's errors, with its type named.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError
from urllib3 import Retry

from towpath.eventlog.errors import EventStoreError, OutcomeUnknown, StoreUnavailable
from towpath.eventlog.stores.clickhouse.errors import brief, lacking, lacks, translated
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

#: What the query for the settings itself needs: every server knows these.
_TO_READ_SETTINGS = {"limit": "0", "offset": "0", "max_rows_to_read": "0", "max_result_rows": "0"}


#: Said of an answer that no ClickHouse gives to the question, when a proxy or another program answers.
NOT_THE_STORES = "the answer is not the event store's: is its URL right?"


#: ACCESS_DENIED.
_NOT_GRANTED = 497
#: UNKNOWN_SETTING, READONLY, SETTING_CONSTRAINT_VIOLATION.
_ABOUT_SETTINGS = frozenset({115, 164, 452})


class NotGranted(StoreUnavailable):
    """The user may not do this; what it may do is another matter."""


class ClickHouseClient:
    """Safe to share between threads; connects at first use."""

    def __init__(self, address: Address, *, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._client: Client | None = None
        self._settings: Mapping[str, Setting] = {}
        self._connecting = threading.Lock()

    @property
    def user(self) -> str:
        """The user whose privileges count."""
        return self._address.username or "default"

    @property
    def database(self) -> str:
        """The database that has our tables."""
        return self._address.database

    def query(self, sql: str, *, wanted: Mapping[str, str] = PINNED, **parameters: object) -> Sequence[Sequence[Any]]:
        """The rows of a statement, with a parameter for each `%(name)s`. Raises StoreUnavailable."""
        with self._translating():
            client = self._connected()
            return client.query(sql, parameters=parameters, settings=self._pinned(wanted)).result_rows

    def stream(self, sql: str, **parameters: object) -> Iterator[Sequence[Any]]:
        """The rows of a statement, as they come. Raises StoreUnavailable, also in the middle."""
        with self._translating():
            client = self._connected()
            with client.query_rows_stream(sql, parameters=parameters, settings=self._pinned(PINNED)) as rows:
                yield from rows

    def command(self, sql: str, *, wanted: Mapping[str, str] = PINNED, **parameters: object) -> None:
        """Raises StoreUnavailable."""
        with self._translating():
            self._connected().command(sql, parameters=parameters or None, settings=self._pinned(wanted))

    def insert(self, table: str, columns: Sequence[str], rows: bytes, *, token: str) -> int:
        """Write rows of COPY text; how many the server says that it took. Raises what the answer means for them."""
        with self._translating():
            client = self._connected()
            pinned = self._pinned(PINNED_ON_INSERTS)
        settings = {**pinned, **self._time_limit(), "insert_deduplication_token": token}
        try:
            summary = client.raw_insert(
                table, column_names=columns, insert_block=rows, settings=settings, fmt="TabSeparated"
            )
        except ProgrammingError as error:
            # The driver's own, before it sends anything: a setting is read-only since our last look at them.
            self.close()
            raise StoreUnavailable(f"{brief(error)}. {lacks(self._address.username, 'a privilege')}") from error
        except ClickHouseError as error:
            self._forget_settings_after(error)
            raise translated(error, user=self._address.username) from error
        except Exception as error:
            raise OutcomeUnknown(f"{type(error).__name__}: {brief(error)}") from error
        # An answer without the count is not the server's: a proxy's page, or something else on its port.
        return int(summary.summary.get("written_rows", 0))

    def settings(self) -> Mapping[str, Setting]:
        """Every setting, as it is for our user now. Raises StoreUnavailable."""
        with self._translating():
            return self._read_settings(self._connected())

    def close(self) -> None:
        client, self._client = self._client, None
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
            outcome = NotGranted if _code(error) == _NOT_GRANTED else StoreUnavailable
            raise outcome(brief(error) + lacking(error, user=self._address.username)) from error
        # TLS, the network, or the driver itself: nothing was decided, and the caller tries again.
        except Exception as error:
            raise StoreUnavailable(f"{type(error).__name__}: {brief(error)}") from error

    def _forget_settings_after(self, error: ClickHouseError) -> None:
        """The server has been replaced, or the profile changed: look at the settings again."""
        if _code(error) in _ABOUT_SETTINGS:
            self.close()

    def _time_limit(self) -> dict[str, int]:
        """The server gives up before we do: an insert must not go on when nobody waits for it any more."""
        seconds = max(1, int(self._timeout_seconds * 0.8))
        known = self._settings.get("max_execution_time")
        if known is None or known.can_be(str(seconds)):
            return {"max_execution_time": seconds}
        return {} if known.is_fixed or not known.most else {"max_execution_time": min(seconds, int(float(known.most)))}

    def _pinned(self, wanted: Mapping[str, str]) -> dict[str, str]:
        if otherwise := fixed_otherwise(wanted, self._settings):
            is_reader = self._settings["readonly"].value == "1" if "readonly" in self._settings else False
            # So that the next attempt sees what has been taken out.
            self.close()
            if is_reader:
                raise StoreUnavailable(lacks(self._address.username, "the right for this: its profile is read-only"))
            raise StoreUnavailable(
                f"the profile of the event store's user {self.user} changes what a statement means:"
                f" {'; '.join(otherwise)}. Take this out of the profile's constraints"
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
            # As one array: one row, of which no limit leaves out a part.
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
            # An older server, which does not say what a setting is by default.
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
                # With a session, two threads could not use one client, and a lost answer would leave it locked.
                autogenerate_session_id=False,
                **dict(address.options),
            )
        except ClickHouseError as error:
            # The driver asks for version and settings, before we can pin anything.
            if "Unexpected" in str(error):
                raise StoreUnavailable(f"{NOT_THE_STORES[:-1]}, or does its user's profile set `offset`?") from error
            raise
        # Events do not go wherever an answer points to, as to a login page.
        client.http_retries = Retry(1, redirect=False)  # type: ignore[attr-defined]
        return client


def _code(error: ClickHouseError) -> int | None:
    """The server's code; None of an error that is not an answer of the server."""
    code: int | None = getattr(error, "code", None)
    return code


def _embedded(folder: str) -> Client:
    """The engine in this process. Its data is in the folder, which no other process may have open."""
    try:
        return clickhouse_connect.get_client(interface="chdb", path=folder)
    except ImportError as error:
        raise StoreUnavailable("chdb:// needs the package chdb: type pip install chdb") from error
    except ClickHouseError as error:
        raise StoreUnavailable(f"{brief(error)}: chdb:// is for one process, is it open in another?") from error
