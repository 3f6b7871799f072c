"""Numbers of a query and of a context: whole ones of 64 bits exactly, all others as the nearest 64-bit float."""

from __future__ import annotations

import re

#: JSON's form of a number; larger exponents are beyond any float.
NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?"
_WHOLE = re.compile(r"-?[0-9]+")

SMALLEST_WHOLE, LARGEST_WHOLE = -(2**63), 2**64 - 1
#: Digits of the longest whole number of 64 bits; longer texts are not converted.
_DIGITS = 20


def whole(text: str) -> int | None:
    """The number, if it is written without point and exponent and fits into 64 bits."""
    if not _WHOLE.fullmatch(text) or len(text.lstrip("-")) > _DIGITS:
        return None
    number = int(text)
    return number if SMALLEST_WHOLE <= number <= LARGEST_WHOLE else None


def number(text: str) -> int | float:
    """What a number in a query is compared as. Infinite if it is beyond the largest float."""
    exact = whole(text)
    return float(text) if exact is None else exact
