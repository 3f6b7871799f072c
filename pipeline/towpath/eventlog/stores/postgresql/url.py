"""The URL of a PostgreSQL store, parsed and checked before anything connects. An option that cannot work here is
refused by name.

No message quotes the URL: it contains a password.
"""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from towpath import driver

SCHEMES = frozenset({"postgresql", "postgres"})

#: Options of libpq that cannot work here, and why.
_REFUSED = {
    "replication": "it is for replication only",
    "service": "write host and database into the URL",
    "servicefile": "write host and database into the URL",
}
_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_UNREADABLE = "it cannot be read: percent-encode special characters in the password, and check host, port and options"


def parameters(url: str) -> dict[str, Any]:
    """Return libpq's parameters. Raises ImproperlyConfigured, which says what is wrong, and does not quote the URL."""
    try:
        found = driver.parameters_of(url)
    except ValueError as error:
        # The only message of libpq that cannot quote a password.
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        why = f"{unknown[1]} is not an option of libpq" if unknown else _UNREADABLE
        raise ImproperlyConfigured(why) from None
    for name, why in _REFUSED.items():
        if name in found:
            raise ImproperlyConfigured(f"the option {name} cannot be used, {why}")
    if found.get("sslmode", "prefer") not in _MODES:
        raise ImproperlyConfigured(f"the option sslmode must be one of {', '.join(sorted(_MODES))}")
    if found.get("target_session_attrs") in {"read-only", "standby", "prefer-standby"}:
        raise ImproperlyConfigured(
            "the option target_session_attrs must ask for a session that can write: use read-write"
        )
    if not str(found.get("connect_timeout", "1")).isdigit():
        raise ImproperlyConfigured("the option connect_timeout must be a whole number of seconds")
    if "client_encoding" in found and found["client_encoding"].upper().replace("-", "") not in {"UTF8", "AUTO"}:
        raise ImproperlyConfigured("the option client_encoding must be UTF8: rows are sent in it")
    return found
