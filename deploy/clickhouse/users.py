"""users.sql as data: what it grants to each user, and each user's profile.

A server that cannot make users by SQL takes the same rights from a file, word by word.
"""

from __future__ import annotations

import re
from pathlib import Path

USERS_SQL = Path(__file__).with_name("users.sql")
#: Each user's name, without the `towpath_` before it.
SHORT_NAMES = ("migrator", "writer", "reader", "verifier", "explorer", "keeper")

#: Behind a setting that the user's own queries may not change, or within bounds only.
_CONST = " CONST"
_BOUNDS = re.compile(r" MIN (\S+) MAX (\S+)$")


def statements() -> list[str]:
    """The statements of users.sql, without comments."""
    text = re.sub(r"--[^\n]*", "", USERS_SQL.read_text())
    return [" ".join(statement.split()) for statement in text.split(";") if statement.strip()]


def grants(user: str) -> list[str]:
    """What is granted to the user, each as `GRANT ... ON ...`."""
    found = (re.fullmatch(r"(GRANT .*) TO ([\w, ]+)", statement) for statement in statements())
    return [match[1] for match in found if match and user in match[2].split(", ")]


def profile(user: str) -> dict[str, str]:
    """The settings of the user's profile; empty when it has none."""
    return {name: _BOUNDS.sub("", value).removesuffix(_CONST).strip("'") for name, value in _assignments(user)}


def fixed(user: str) -> list[str]:
    """The settings of its profile that no query of the user may change."""
    return [name for name, value in _assignments(user) if value.endswith(_CONST)]


def bounds(user: str) -> dict[str, tuple[str, str]]:
    """The settings of its profile that its queries may change between a least and a most value."""
    found = ((name, _BOUNDS.search(value)) for name, value in _assignments(user))
    return {name: (match[1], match[2]) for name, match in found if match}


def _assignments(user: str) -> list[tuple[str, str]]:
    for statement in statements():
        match = re.fullmatch(rf"CREATE SETTINGS PROFILE OR REPLACE {user} SETTINGS (.*)", statement)
        if match:
            return [(name, value) for name, _, value in (part.partition(" = ") for part in match[1].split(", "))]
    return []
