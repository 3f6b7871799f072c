"""Read the environment once, and report everything that is wrong with it at once.

A value comes from the process's environment or, where the variable is unset, from the file a running local
stack writes (`.local/stack.env`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import environ
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


T = TypeVar("T")
N = TypeVar("N", int, float)


class Environment:
    """Typed reads of variables. A bad value is noted, not raised: `check()` raises once, naming every one."""

    def __init__(self, variables: Mapping[str, str], *, fallback_file: Path) -> None:
        self._variables = {**_read_env_file(fallback_file), **{k: v for k, v in variables.items() if v != ""}}
        self._problems: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self._variables.get(name, default)

    def flag(self, name: str, *, default: bool) -> bool:
        def parse(raw: str) -> bool:
            known = {
                "1": True,
                "true": True,
                "yes": True,
                "on": True,
                "0": False,
                "false": False,
                "no": False,
                "off": False,
            }
            return known[raw.strip().lower()]

        return self._parse(name, parse, default, "true or false")

    def names(self, name: str, default: list[str]) -> list[str]:
        raw = self._variables.get(name)
        return default if raw is None else [part.strip() for part in raw.split(",") if part.strip()]

    def whole_number(self, name: str, default: int, *, minimum: int = 1) -> int:
        return self._parse(name, _at_least(int, minimum), default, f"a whole number, {minimum} or more")

    def seconds(self, name: str, default: float, *, minimum: float = 0.0) -> float:
        return self._parse(name, _at_least(float, minimum), default, f"a number of seconds, {minimum:g} or more")

    def secret(self, name: str, *, default: str | None) -> str:
        """A value without which nothing may start, unless `default` is given."""
        value = self._variables.get(name, default)
        if value is None:
            self.problem(f"{name} is not set: set it to a long random text (or DEBUG=true on a developer's machine)")
            return ""
        return value

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def check(self) -> None:
        """Raise ImproperlyConfigured with one line for each bad variable read since the last check, if there is any."""
        problems, self._problems = self._problems, []
        if problems:
            raise ImproperlyConfigured("The environment is not usable:\n  - " + "\n  - ".join(problems))

    def _parse(self, name: str, parse: Callable[[str], T], default: T, expected: str) -> T:
        raw = self._variables.get(name)
        if raw is None:
            return default
        try:
            return parse(raw)
        except (ValueError, KeyError):
            self.problem(f"{name} is {raw!r}: it must be {expected}")
            return default


def _at_least(kind: Callable[[str], N], minimum: float) -> Callable[[str], N]:
    def parse(raw: str) -> N:
        number = kind(raw)
        if not minimum <= number < float("inf"):
            raise ValueError(raw)
        return number

    return parse


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def database_settings(url: str) -> dict[str, object]:
    """Django's DATABASES entry for a `postgresql://` URL; what the URL says in its query goes to libpq.

    Raises ImproperlyConfigured when it is not a PostgreSQL URL.
    """
    settings: dict[str, object] = environ.Env.db_url_config(url)
    if settings.get("ENGINE") != "django.db.backends.postgresql":
        raise ImproperlyConfigured("it must be a postgresql:// URL")
    return settings


#: What an unset DATABASE_URL means.
LOCAL_DATABASE_URL = "postgresql://towpath@127.0.0.1:54329/towpath"

#: This process's environment.
env = Environment(os.environ, fallback_file=Path(__file__).resolve().parents[2] / ".local" / "stack.env")
