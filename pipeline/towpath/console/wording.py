"""Numbers as a person reads them in passing: three digits, and a unit."""

from __future__ import annotations

#: Where there is nothing to measure.
NONE = "\N{EN DASH}"


def seconds(length: float | None) -> str:
    """`0.8 s`, `64 s`, `12 min`, `3.4 h`, `4 days`; a dash for None."""
    if length is None:
        return NONE
    if length < 10:  # noqa: PLR2004 - below, a tenth says something
        return f"{length:.1f} s"
    if length < 120:  # noqa: PLR2004 - two minutes
        return f"{length:.0f} s"
    if length < 7200:  # noqa: PLR2004 - two hours
        return f"{length / 60:.0f} min"
    return f"{length / 3600:.1f} h" if length < 172_800 else f"{length / 86_400:.0f} days"  # noqa: PLR2004 - two days


def milliseconds(length: float) -> str:
    """`24 ms`."""
    return f"{length * 1000:.0f} ms" if length >= 0.001 else "1 ms"  # noqa: PLR2004 - less is nobody's concern


def count(number: float) -> str:
    """`31,870`."""
    return f"{number:,.0f}"


def rate(number: float | None) -> str:
    """`418/s`, `0.4/s`; a dash for None."""
    if number is None:
        return NONE
    return f"{number:.1f}/s" if 0 < number < 10 else f"{number:,.0f}/s"  # noqa: PLR2004 - below, a tenth says something
