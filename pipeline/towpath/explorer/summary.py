"""A context in one line: its first plain values, with their names. The context may be cut off."""

from __future__ import annotations

import contextlib
import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A line has no room for more.
MOST_MEMBERS = 8
#: The most characters of one value.
MOST_CHARACTERS = 120
#: The most levels of objects and arrays that are spelled out. Below them, the line says only how much there is.
_MOST_DEPTH = 3
#: The most elements of an array that are spelled out.
_MOST_ELEMENTS = 3

#: The members of an object that says how a value was changed.
_CHANGES = {("old", "new"), ("before", "after")}

_SPACE = re.compile(r"[ \t\n\r]*")


class Written(str):
    """A number as it is written in the context, so that no digit is lost, as it could be in a float."""

    __slots__ = ()


#: A JSON decoder that keeps every number as it is written.
decoder = json.JSONDecoder(parse_int=Written, parse_float=Written, parse_constant=Written)


def members(context: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of the context's object, as far as the text goes and is JSON. Numbers are `Written`."""
    at = _skip(context, 0)
    if context[at : at + 1] != "{":
        return
    # Most contexts are whole, and decoding them as a whole is several times as fast.
    with contextlib.suppress(ValueError, RecursionError):
        yield from decoder.decode(context).items()
        return
    at += 1
    try:
        while True:
            at = _skip(context, at)
            if context[at : at + 1] != '"':
                return
            key, at = scanstring(context, at + 1, True)
            at = _skip(context, at)
            if context[at : at + 1] != ":":
                return
            value, at = decoder.raw_decode(context, _skip(context, at + 1))
            at = _skip(context, at)
            # A number at the end of a cut text may have lost digits, or its exponent except for the letter.
            if context[at : at + 1] not in {",", "}"}:
                return
            yield key, value
            at += 1
    except (ValueError, RecursionError):
        return


def summary(context: str) -> list[tuple[str, str]]:
    """Return names and values for one line. It is empty if the context is not an object."""
    found: list[tuple[str, str]] = []
    for key, value in members(context):
        for name, text in _plain(key, value, _MOST_DEPTH):
            found.append((name, text))
            if len(found) == MOST_MEMBERS:
                return found
    return found


def plain_text(value: Any, depth: int = _MOST_DEPTH) -> str:
    """Return a value of a context as one line of text, of at most MOST_CHARACTERS and an ellipsis.

    Arrays are spelled out to this depth. A context may have thousands of levels, more than a function can call itself.
    """
    match value:
        case str():
            text = " ".join(value.split())
        case True | False | None:
            text = {True: "true", False: "false", None: "null"}[value]
        case dict():
            text = f"{{{len(value)}}}"
        case list():
            if len(value) <= _MOST_ELEMENTS and depth:
                text = ", ".join(plain_text(each, depth - 1) for each in value)
            else:
                text = "1 item" if len(value) == 1 else f"{len(value)} items"
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _plain(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and tuple(value) in _CHANGES:
        yield name, " → ".join(map(plain_text, value.values()))
    elif isinstance(value, dict) and value and depth:
        for key, inner in value.items():
            yield from _plain(f"{name}.{key}", inner, depth - 1)
    else:
        yield name, plain_text(value)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
