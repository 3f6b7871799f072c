"""What every store's SQL of a query has in common."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from towpath.eventlog.query.operators import Operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime


def like(parts: tuple[str, ...]) -> str:
    """Return the operand of LIKE, with a backslash before characters that stand for themselves."""
    return "%".join(re.sub(r"([\\%_])", r"\\\1", part) for part in parts)


def any_holds(conditions: Iterable[str]) -> str:
    """Return one condition: any of these holds."""
    return f"({' OR '.join(conditions)})"


def operator(how: Operator) -> str:
    """Return the operator of a comparison."""
    return "=" if how is Operator.IS else str(how)


def of_period(name: str, how: Operator, start: datetime, end: datetime, *, moment: Callable[[datetime], str]) -> str:
    """Return the comparison of a column with a period from `start` to before `end`. `moment` returns a time in SQL."""
    match how:
        case Operator.IS:
            return f"({name} >= {moment(start)} AND {name} < {moment(end)})"
        case Operator.BELOW | Operator.AT_LEAST:
            return f"({name} {how} {moment(start)})"
        case Operator.AT_MOST:
            return f"({name} < {moment(end)})"
        case Operator.ABOVE:
            return f"({name} >= {moment(end)})"
