"""The URL of a ClickHouse store, parsed and checked before anything connects. An unknown option is refused by name.

No message quotes the URL: it contains a password.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from urllib.parse import SplitResult

TLS_SCHEMES = frozenset({"clickhouses", "https"})
SCHEMES = frozenset({"clickhouse", "http", "chdb"}) | TLS_SCHEMES

#: Ports that the driver, too, takes for TLS.
_TLS_PORTS = frozenset({443, 8443})
_CONNECT_SECONDS = 5

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_COMPRESSIONS = frozenset({"lz4", "zstd", "br", "gzip"})
_TEXTS = (
    "ca_cert",
    "client_cert",
    "client_cert_key",
    "server_host_name",
    "http_proxy",
    "https_proxy",
    "proxy_path",
    "client_name",
)
_OPTIONS = ("database", "secure", "connect_timeout", "verify", "compress", *_TEXTS)
#: Options of other tools, and what to write instead.
_INSTEAD = {
    **dict.fromkeys(("user", "username", "password"), "write user:password@ before the host"),
    **dict.fromkeys(("host", "port"), "write them before the path"),
    "send_receive_timeout": "set STORE_TIMEOUT_SECONDS",
}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server over HTTP or, with a `folder`, of the engine in this process."""

    folder: str = ""
    host: str = ""
    port: int = 0
    username: str = ""
    password: str = ""
    database: str = "default"
    is_secure: bool = False
    #: Further arguments of the driver.
    options: tuple[tuple[str, Any], ...] = ()


def address(url: str) -> Address:
    """Return the address that the URL names.

    Raises ImproperlyConfigured, which says what is wrong, and quotes neither user nor password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured(
            "host and port cannot be read: write [::1]:8123 for an IPv6 address, a port from 1 to 65535, and"
            " percent-encode special characters in the password"
        ) from None
    if parts.fragment or "#" in url:
        raise ImproperlyConfigured("a # ends a URL: write %23 for one in the password")
    if parts.scheme != "chdb" and _has_rest_of_password(parts):
        raise ImproperlyConfigured("it has an @ after a / or ?: percent-encode special characters in the password")
    given = _given(parts)
    if parts.scheme == "chdb":
        return _embedded(parts, given)
    if not parts.hostname:
        raise ImproperlyConfigured("it names no host: write clickhouse://user:password@host:8123/database")
    if port == 0:
        raise ImproperlyConfigured("port 0 is not a valid port")
    is_secure = _is_secure(parts.scheme, port, given)
    return Address(
        host=parts.hostname,
        port=port or (8443 if is_secure else 8123),
        username=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=_database(parts, given),
        is_secure=is_secure,
        options=tuple(_driver_options(given).items()),
    )


def _has_rest_of_password(parts: SplitResult) -> bool:
    """True if a password seems to continue after the host. Errors about a database or an option would quote it."""
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.path or ("@" in parts.query and not set(names) <= set(_OPTIONS))


def _given(parts: SplitResult) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in given:
            raise ImproperlyConfigured(f"the option {name} is given twice: remove one")
        if not value:
            raise ImproperlyConfigured(f"the option {name} has no value: write one, or remove the option")
        given[name] = value
    return given


def _embedded(parts: SplitResult, given: dict[str, str]) -> Address:
    if given:
        raise ImproperlyConfigured(f"chdb:// takes no options: remove {', '.join(given)}")
    folder = parts.netloc + unquote(parts.path)
    if not folder.strip("/"):
        raise ImproperlyConfigured("chdb:// needs a folder for its events: chdb:///folder")
    return Address(folder=folder)


def _is_secure(scheme: str, port: int | None, given: dict[str, str]) -> bool:
    if "secure" not in given:
        return scheme in TLS_SCHEMES or port in _TLS_PORTS
    is_secure = _flag("secure", given["secure"])
    if scheme in TLS_SCHEMES and not is_secure:
        raise ImproperlyConfigured(f"secure is off, but {scheme}:// means TLS: write clickhouse://")
    return is_secure


def _database(parts: SplitResult, given: dict[str, str]) -> str:
    name = unquote(parts.path.strip("/"))
    if "/" in name:
        raise ImproperlyConfigured("the path must be the name of one database, as in clickhouse://host:8123/database")
    if "database" in given and name not in {"", given["database"]}:
        raise ImproperlyConfigured("the path and the option database name two databases: remove one of them")
    return given.get("database") or name or "default"


def _driver_options(given: dict[str, str]) -> dict[str, Any]:
    unknown = [name for name in given if name not in _OPTIONS]
    if unknown:
        hints = [f"{name} is not an option of this URL ({_INSTEAD.get(name, _PROFILE)})" for name in unknown]
        raise ImproperlyConfigured(f"{'; '.join(hints)}. It takes: {', '.join(sorted(_OPTIONS))}")
    options: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS}
    if "connect_timeout" in given:
        options["connect_timeout"] = _seconds("connect_timeout", given["connect_timeout"])
    if "verify" in given:
        options["verify"] = _flag("verify", given["verify"])
    if "compress" in given:
        compress = given["compress"].lower()
        options["compress"] = compress if compress in _COMPRESSIONS else _flag("compress", compress)
    options |= {name: given[name] for name in _TEXTS if name in given}
    return options


_PROFILE = "give a setting of ClickHouse to the user: ALTER USER ... SETTINGS ..."


def _flag(name: str, value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        known = " or ".join(("true", "false", *sorted(_COMPRESSIONS))) if name == "compress" else "true or false"
        raise ImproperlyConfigured(f"the option {name} must be {known}")
    return value.lower() in _TRUE


def _seconds(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise ImproperlyConfigured(f"the option {name} must be a whole number of seconds, 1 or more")
    return int(value)
