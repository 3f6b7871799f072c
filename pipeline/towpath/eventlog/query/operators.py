"""How a field of a query compares with a value."""

from __future__ import annotations

from enum import StrEnum


class Operator(StrEnum):
    """How a field compares with a value."""

    IS = ":"
    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="
