"""Masking: finds the part of a context that holds the value of a path, and changes only that part.

A context is rewritten as text, not parsed and dumped: numbers beyond any float, the order of keys, escapes and spaces
stay as they are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The keys that lead to a value. Through an array, they lead to a value of each element.
Path = tuple[str, ...]
#: Where a value begins and ends in the text, in characters.
Cut = tuple[int, int]

#: What replaces a column's value, and a value in a context (as JSON).
MASK = "***"
MASK_JSON = f'"{MASK}"'
#: What replaces a whole context.
MASK_OF_CONTEXT = '{"erased":true}'

_SPACE = re.compile(r"[ \t\n\r]*")
#: Numbers stay text. Python's parser also accepts what JSON does not have, such as NaN: it is found as well.
_DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


def cuts(context: str, paths: Sequence[Path]) -> list[Cut]:
    """Return where the values of the paths are, in order, without those that are already masked. If an object has a key
    twice, every value counts. Raises ValueError for a context that is not JSON."""
    return [(start, end) for start, end in _find(context, paths) if context[start:end] != MASK_JSON]


def with_mask(context: str, places: Sequence[Cut], mask: str) -> str:
    """Return the context with the mask in these places, which must be in order."""
    parts, after = [], 0
    for start, end in places:
        parts += [context[after:start], mask]
        after = end
    return "".join([*parts, context[after:]])


def _find(context: str, paths: Sequence[Path]) -> list[Cut]:
    found: list[Cut] = []
    try:
        end = _walk(context, _after_space(context, 0), paths, found)
        if _after_space(context, end) != len(context):
            raise ValueError  # noqa: TRY301 - as what the parser raises
    except (ValueError, IndexError, RecursionError):
        # Without the cause, which shows the context.
        raise ValueError("the context is not JSON") from None
    return found


def _walk(text: str, start: int, paths: Sequence[Path], found: list[Cut]) -> int:
    """Note the values of the paths in the value that begins here. Returns where it ends."""
    if () in paths or not paths or text[start] not in "{[":
        _, end = _DECODER.raw_decode(text, start)
        if () in paths:
            found.append((start, end))
        return end
    is_object = text[start] == "{"
    closing = "}" if is_object else "]"
    at = _after_space(text, start + 1)
    if text[at] == closing:
        return at + 1
    while True:
        on = paths
        if is_object:
            if text[at] != '"':
                raise ValueError
            key, at = json.decoder.scanstring(text, at + 1, False)  # type: ignore[attr-defined]
            at = _after_space(text, at)
            if text[at] != ":":
                raise ValueError
            at = _after_space(text, at + 1)
            on = [path[1:] for path in paths if path[0] == key]
        at = _after_space(text, _walk(text, at, on, found))
        if text[at] == closing:
            return at + 1
        if text[at] != ",":
            raise ValueError
        at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
