"""The choice of a store by its URL: the only module that knows which stores there are."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from towpath import driver
from towpath.eventlog import columns
from towpath.eventlog.stores.clickhouse import url as clickhouse_url
from towpath.eventlog.stores.postgresql import url as postgresql_url

if TYPE_CHECKING:
    from towpath.eventlog.columns import Column
    from towpath.eventlog.store import Store

#: The local stack's event store.
DEFAULT_URL = "clickhouse://127.0.0.1:18129/default"

#: The database that `postgresql://`, without a host, means on the application's own server.
_OWN_DATABASE = "event_log"

#: Options that are for the application's own database: a search_path, a role, limits of a statement.
_OPTIONS_OF_ONE_DATABASE = frozenset({"options", "dbname", "application_name"})


def require_known(url: str) -> None:
    """Raise ImproperlyConfigured, which says what is wrong but never the password, unless the URL names a store."""
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme in clickhouse_url.SCHEMES:
        clickhouse_url.address(url)
    elif scheme in postgresql_url.SCHEMES:
        postgresql_url.parameters(url)
    else:
        raise ImproperlyConfigured(
            f"{scheme!r} is not a supported event store: use clickhouse://host:8123/database,"
            " postgresql://host:5432/database, postgresql:// or chdb:///folder"
        )


def with_server(url: str, *, database_url: str) -> str:
    """Return the URL with its server. `postgresql://` alone is a separate database next to the application's.

    Raises ImproperlyConfigured for a URL that names no store.
    """
    require_known(url)
    parts = urlsplit(url)
    if parts.scheme not in postgresql_url.SCHEMES:
        return url
    server = parts if parts.netloc else urlsplit(database_url)
    options = server.query if parts.netloc else _of_the_server(server.query)
    query = f"?{options}" if options else ""
    # By hand, because urlunsplit leaves out the slashes of an empty host, which means libpq's default.
    return f"{server.scheme}://{server.netloc}/{parts.path.strip('/') or _OWN_DATABASE}{query}"


def with_own_server(url: str) -> str:
    """Return `with_server` for the server that Django connects to, whatever is in a project's DATABASES."""
    require_known(url)
    parts = urlsplit(url)
    is_full = parts.scheme not in postgresql_url.SCHEMES or parts.netloc
    return with_server(url, database_url=url if is_full else _own_server())


def connect(
    url: str, *, timeout_seconds: float, own_columns: tuple[Column, ...] = (), setting: str = "EVENT_STORE_URL"
) -> Store:
    """Return the store of a URL, with the project's own columns. `postgresql://` without a server uses the
    application's.

    It connects at first use, so it can be made while the store is down. Raises ImproperlyConfigured, which names the
    setting that has the URL.
    """
    try:
        require_known(url)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{setting}: {error}") from None
    if problems := [*columns.problems(own_columns)]:
        raise ImproperlyConfigured(f"TOWPATH.columns: {'; '.join(problems)}")
    # Imported late, so that a process that never writes never loads a driver.
    if urlsplit(url).scheme in postgresql_url.SCHEMES:
        from towpath.eventlog.stores.postgresql.store import PostgreSQLStore  # noqa: PLC0415 - as said above

        return PostgreSQLStore(with_own_server(url), timeout_seconds=timeout_seconds, own_columns=own_columns)
    from towpath.eventlog.stores.clickhouse.store import ClickHouseStore  # noqa: PLC0415 - as said above

    return ClickHouseStore(url, timeout_seconds=timeout_seconds, own_columns=own_columns)


def _of_the_server(query: str) -> str:
    """Return the options of a URL that also apply to another database of the same server."""
    options = query.split("&")
    return "&".join(option for option in options if option.partition("=")[0] not in _OPTIONS_OF_ONE_DATABASE)


def _own_server() -> str:
    """Return a URL of the server that Django connects to. All of it is in the query, where a socket's folder can be,
    too."""
    parameters = connection.get_connection_params()
    for of_django in (*driver.OPTIONS_OF_DJANGO, *_OPTIONS_OF_ONE_DATABASE):
        parameters.pop(of_django, None)
    return "postgresql://?" + urlencode(parameters, quote_via=quote)
