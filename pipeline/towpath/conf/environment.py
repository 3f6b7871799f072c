"""Read the environment once, and report everything that is wrong with it together.

A value comes from the process's environment or, if the variable is unset, from a fallback file (such as the one that a
running local stack writes). A secret may also be in a separate file, which `<NAME>_FILE` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


T = TypeVar("T")
N = TypeVar("N", int, float)

#: A shorter key could be found by trial: it signs sessions, and protects hashed values from being guessed.
_SHORTEST_KEY = 32
_FEWEST_CHARACTERS = 5
_A_KEY = "a long random text (python -c 'import secrets; print(secrets.token_urlsafe(50))')"


class Environment:
    """Typed reads of variables. A bad value is noted, not raised: `check()` raises once, naming every one.

    A variable is `prefix` plus the name, so variables of other programs with the same name are not read.
    """

    def __init__(self, variables: Mapping[str, str], *, prefix: str = "", fallback_file: Path | None = None) -> None:
        self.prefix = prefix
        self._own = {name: value for name, value in variables.items() if value != ""}
        self._variables = {**(_read_env_file(fallback_file) if fallback_file else {}), **self._own}
        self._problems: list[str] = []

    def text(self, name: str, default: str) -> str:
        raw = self._raw(name)
        return default if raw is None else raw.strip() or default

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
        raw = self._raw(name)
        return default if raw is None else [part.strip() for part in raw.split(",") if part.strip()]

    def choice(self, name: str, default: str, *, choices: Sequence[str]) -> str:
        """Return one of these words, whatever its case in the variable."""

        def parse(raw: str) -> str:
            return choices[choices.index(raw.strip().upper())]

        return self._parse(name, parse, default, f"one of {', '.join(choices)}")

    def whole_number(self, name: str, default: int, *, minimum: int = 1, maximum: int | None = None) -> int:
        expected = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
        return self._parse(name, _within(int, minimum, maximum), default, f"a whole number, {expected}")

    def seconds(self, name: str, default: float, *, minimum: float = 0.0) -> float:
        return self._parse(name, _within(float, minimum), default, f"a number of seconds, {minimum:g} or more")

    def secret(self, name: str, default: str) -> str:
        """Return a text, which may also be the content of the file that `<name>_FILE` names. No error ever quotes
        it."""
        variable = self.prefix + name
        path = self._own.get(f"{variable}_FILE")
        if path is None:
            raw = self._raw(name)
            return default if raw is None else raw
        if variable in self._own:
            self.note(f"{variable} and {variable}_FILE are both set: unset one of them")
            return default
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
            self.note(f"{variable}_FILE: cannot read {path!r} ({reason}): correct the path or the file's permissions")
            return default
        if not value:
            self.note(f"{variable}_FILE: {path!r} is empty: write the value into it")
            return default
        return value

    def key(self, name: str, *, default: str | None, may_be_weak: bool) -> str:
        """Return a secret that cannot be guessed. Without a default, nothing may start unless it is set."""
        problems_before = len(self._problems)
        value = self.secret(name, default or "")
        if value == default or len(self._problems) > problems_before:
            return value
        if not value:
            self.note(f"{self.prefix}{name} is not set: set it to {_A_KEY} (or DEBUG=true on a developer's machine)")
        elif not may_be_weak and _is_weak(value):
            self.note(f"{self.prefix}{name} is too easy to guess: set it to {_A_KEY}")
        return value

    def url(self, name: str, default: str, *, schemes: tuple[str, ...] = ()) -> str:
        """Return a secret that is a URL, with one of these schemes if any are named."""
        value = self.secret(name, default).strip()
        try:
            parts = urlsplit(value)
            # Read only for its check, which finds an unescaped character in a password.
            _ = parts.port
        except ValueError:
            self.note(
                f"{self.prefix}{name} is not a URL: percent-encode special characters in its user name and password"
            )
            return default
        if schemes and parts.scheme not in schemes:
            self.note(f"{self.prefix}{name} must be a {schemes[0]}:// URL")
            return default
        return value

    def note(self, text: str) -> None:
        self._problems.append(text)

    def check(self) -> None:
        """Raise ImproperlyConfigured if there is a bad variable since the last check, with one line for each."""
        problems, self._problems = dict.fromkeys(self._problems), []
        if problems:
            raise ImproperlyConfigured("The environment is not usable:\n  - " + "\n  - ".join(problems))

    def _raw(self, name: str) -> str | None:
        """Return what a variable is set to, or None."""
        raw = self._variables.get(self.prefix + name)
        try:
            (raw or "").encode()
        except UnicodeEncodeError:
            # Bytes that Python could not read: nothing could write them into a database.
            self.note(f"{self.prefix}{name} is not text in UTF-8: set it again")
            return None
        return raw

    def _parse(self, name: str, parse: Callable[[str], T], default: T, expected: str) -> T:
        raw = self._raw(name)
        if raw is None:
            return default
        try:
            return parse(raw)
        except (ValueError, KeyError):
            hint = ""
            if raw.startswith("tcp://"):
                # A service of that name makes Kubernetes set variables in every pod of its namespace.
                hint = (
                    " (Kubernetes sets it for a service of that name: set enableServiceLinks: false in the pod's spec)"
                )
            self.note(f"{self.prefix}{name} is {raw!r}: it must be {expected}{hint}")
            return default


def _is_weak(key: str) -> bool:
    """True if a key is short, monotonous, or an example of Django's."""
    return len(key) < _SHORTEST_KEY or len(set(key)) < _FEWEST_CHARACTERS or key.startswith("django-insecure-")


def _within(kind: Callable[[str], N], minimum: float, maximum: float | None = None) -> Callable[[str], N]:
    def parse(raw: str) -> N:
        number = kind(raw)
        if not minimum <= number < float("inf") or (maximum is not None and number > maximum):
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
