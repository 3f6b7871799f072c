"""Numbers of a query and of a context: whole ones of 64 bits exactly, all others as the nearest 64-bit float."""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction

from towpath.eventlog.query.operators import Operator

#: JSON's form of a number. Larger exponents are beyond any float.
NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?"
_WHOLE = re.compile(r"-?[0-9]+")

SMALLEST_WHOLE, LARGEST_WHOLE = -(2**63), 2**64 - 1
#: Digits of the longest whole number of 64 bits; longer texts are not converted.
_DIGITS = 20


def whole(text: str) -> int | None:
    """Return the number if it is written without point and exponent, and fits into 64 bits."""
    if not _WHOLE.fullmatch(text) or len(text.lstrip("-")) > _DIGITS:
        return None
    number = int(text)
    return number if SMALLEST_WHOLE <= number <= LARGEST_WHOLE else None


def number(text: str) -> int | float:
    """Return the value as which a number in a query is compared; infinite if it is beyond the largest float."""
    exact = whole(text)
    return float(text) if exact is None else exact


def of_wholes(how: Operator, wanted: Fraction, *, smallest: int, largest: int) -> bool | tuple[Operator, int]:
    """What whole numbers of a range have to fulfil, so that they compare so with any number: one of them, or no
    matter which they are."""
    match how:
        case Operator.IS:
            is_one = wanted.denominator == 1 and smallest <= wanted <= largest
            return (how, int(wanted)) if is_one else False
        case Operator.BELOW | Operator.AT_LEAST:
            bound, are_all_below = math.ceil(wanted), wanted > largest
        case Operator.AT_MOST | Operator.ABOVE:
            bound, are_all_below = math.floor(wanted), wanted >= largest
    is_below = how in {Operator.BELOW, Operator.AT_MOST}
    if are_all_below or wanted < smallest:
        return are_all_below is is_below
    return how, bound


def of_floats(how: Operator, wanted: float) -> bool | tuple[Operator, float]:
    """The same of 64-bit floats, of which `wanted` is one, or an int."""
    near = float(wanted)
    if near == wanted:
        return how, near
    if how is Operator.IS:
        return False
    below = near if near < wanted else math.nextafter(near, -math.inf)
    if how in {Operator.BELOW, Operator.AT_MOST}:
        return Operator.AT_MOST, below
    return Operator.AT_LEAST, math.nextafter(below, math.inf)


def before_rounding(how: Operator, wanted: float) -> list[tuple[Operator, Fraction]]:
    """What a number has to fulfil, exactly, so that the nearest float compares so with this float."""
    (bits,) = struct.unpack("<q", struct.pack("<d", wanted))
    # Half way between two floats, a number becomes the one whose last bit is 0.
    is_even = bits % 2 == 0
    low = (_exact(wanted) + _exact(math.nextafter(wanted, -math.inf))) / 2
    high = (_exact(wanted) + _exact(math.nextafter(wanted, math.inf))) / 2
    at_least = (Operator.AT_LEAST if is_even else Operator.ABOVE, low)
    at_most = (Operator.AT_MOST if is_even else Operator.BELOW, high)
    match how:
        case Operator.IS:
            return [at_least, at_most]
        case Operator.BELOW:
            return [(Operator.BELOW if is_even else Operator.AT_MOST, low)]
        case Operator.AT_MOST:
            return [at_most]
        case Operator.ABOVE:
            return [(Operator.ABOVE if is_even else Operator.AT_LEAST, high)]
        case Operator.AT_LEAST:
            return [at_least]


def _exact(value: float) -> Fraction:
    """What follows the largest float counts as if there were one more."""
    return Fraction(value) if math.isfinite(value) else Fraction(2**1024 if value > 0 else -(2**1024))
