"""Masking: which part of a context holds the value of a path, and nothing but that part changes.

A context is rewritten as a text, and not parsed and dumped: numbers that no float holds, the order of keys, escapes and
spaces stay as they are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The keys that lead to a value. Through an array, they lead to a value of each element.
Path = tuple[str, ...]
#: Where a value begins in the text, and where it ends, in characters.
Cut = tuple[int, int]

#: What stands in the place of a column's value, and of a context's, as JSON.
MASK = "***"
MASK_JSON = f'"{MASK}"'
#: In the place of a whole context.
MASK_OF_CONTEXT = '{"erased":true}'

_SPACE = re.compile(r"[ \t\n\r]*")
#: Numbers stay the text that they are. Python's parser also takes what JSON does not have, such as NaN: it is found.
_DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


def cuts(context: str, paths: Sequence[Path]) -> list[Cut]:
    """Where the values of the paths are, in their order; without those that are masked. Of a key that an object has
    twice, every value. Raises ValueError for a context that is not JSON."""
    return [(start, end) for start, end, _ in _find(context, paths) if context[start:end] != MASK_JSON]


def texts(context: str, path: Path) -> list[str]:
    """The values of a path, as texts: of an array, those of its elements; null has none.

    Raises ValueError for a context that is not JSON.
    """
    return [text for _, _, value in _find(context, [path]) for text in _texts(value)]


def with_mask(context: str, places: Sequence[Cut], mask: str) -> str:
    """The context with the mask in these places, which are in order."""
    parts, after = [], 0
    for start, end in places:
        parts += [context[after:start], mask]
        after = end
    return "".join([*parts, context[after:]])


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case bool():
            yield "true" if value else "false"
        case list():
            for one in value:
                yield from _texts(one)


def _find(context: str, paths: Sequence[Path]) -> list[tuple[int, int, Any]]:
    found: list[tuple[int, int, Any]] = []
    try:
        end = _walk(context, _after_space(context, 0), paths, found)
        if _after_space(context, end) != len(context):
            raise ValueError  # noqa: TRY301 - as what the parser raises
    except (ValueError, IndexError, RecursionError):
        # Without the cause, which shows the context.
        raise ValueError("the context is not JSON") from None
    return found


def _walk(text: str, start: int, paths: Sequence[Path], found: list[tuple[int, int, Any]]) -> int:
    """Note the values of the paths in the value that begins here; where it ends."""
    if () in paths or not paths or text[start] not in "{[":
        value, end = _DECODER.raw_decode(text, start)
        if () in paths:
            found.append((start, end, value))
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
