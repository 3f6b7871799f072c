"""What must never be in a log line, an error or a traceback: the secrets of a process, and how they are blanked.

A text is blanked where it is made, because it may be printed anywhere: a project may have its own logs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

BLANK = "***"

#: A shorter secret is blanked only as a whole word: otherwise it would blank out parts of ordinary words.
_SHORT = 6
#: Names of parameters and options whose value is a secret.
_IS_SECRET = re.compile(r"pass(word|wd|phrase)?$|secret|token|^pwd$", re.IGNORECASE)
#: In any URL, the text between the user and the last @ is a password.
_IN_URL = re.compile(r"(\w\+?://[^\s/?#@:\"']*:)[^\s\"'/?#]*@")
_IN_QUERY = re.compile(r"([?&;]\w*(?:pass(?:word|wd|phrase)?|secret|token)=)[^\s&;\"']+", re.IGNORECASE)


_hidden: list[str] = []


def parts(secrets: Iterable[str]) -> list[str]:
    """Return every form in which these secrets may appear, longest first. Each secret is a plain value, or a URL (or
    several, separated by `;`) that contains passwords."""
    found = {form for secret in secrets for part in _secrets_of(secret) for form in _forms(part) if form}
    return sorted(found, key=len, reverse=True)


def blanked(text: str, forms: Iterable[str]) -> str:
    """Return the text without these secrets, and without the password of any URL."""
    text = _IN_QUERY.sub(rf"\1{BLANK}", _IN_URL.sub(rf"\1{BLANK}@", text))
    for form in forms:
        if len(form) >= _SHORT:
            text = text.replace(form, BLANK)
        elif form in text:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", BLANK, text)
    return text


def hide(secrets: Iterable[str]) -> None:
    """From now on, let `without_secrets` blank these secrets instead of earlier ones."""
    _hidden[:] = parts(secrets)


def without_secrets(text: str) -> str:
    """Return the text without the secrets of this process."""
    return blanked(text, _hidden)


def is_name_of_secret(name: str) -> bool:
    """True if the value of an option or parameter of this name is a secret."""
    return _IS_SECRET.search(name) is not None


def _secrets_of(secret: str) -> Iterator[str]:
    if "://" not in secret:
        yield secret
        return
    for url in re.split(r";(?=\w+://)", secret):
        authority, _, rest = url.partition("://")[2].partition("/")
        user, _, _ = authority.rpartition("@")
        name, _, password = user.partition(":")
        if password:
            yield password
            yield unquote(password)
            for pair in (f"{name}:{password}", f"{unquote(name)}:{unquote(password)}"):
                yield base64.b64encode(pair.encode()).decode()
        for parameter, value in parse_qsl((authority + rest).partition("?")[2], separator="&"):
            if is_name_of_secret(parameter):
                yield value


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield unquote(secret)
    yield unquote_plus(secret)
    # As it stands in a repr, and in JSON.
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
