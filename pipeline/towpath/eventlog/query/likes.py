"""A pattern as SQL's LIKE has it, with a backslash before what means itself: the same in every store."""

from __future__ import annotations

import re


def like(parts: tuple[str, ...]) -> str:
    """The operand of LIKE."""
    return "%".join(re.sub(r"([\\%_])", r"\\\1", part) for part in parts)
