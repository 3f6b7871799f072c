"""Loaded: what a receipt says of the text that was loaded, so that what is stored can be compared with it.

It is the SHA-256 of the text, and then 8 bytes of the SHA-256 of the names of the columns. While a column is being
added, some workers know it and others do not. Of the stored rows, they make texts with other columns: those differ from
what was loaded, and nothing is wrong.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Hexadecimal digits.
_OF_TEXT = 64
_OF_COLUMNS = 16


def said_of(text_digest: str, *, columns: Sequence[str]) -> str:
    """Return what a receipt says of a text with this SHA-256 and these columns, in hexadecimal digits."""
    return text_digest + _digest_of(columns)


def has_columns(said: str, columns: Sequence[str]) -> bool:
    """True if the text had these columns, in this order. Towpath 0.1 did not note them: then it is not known."""
    return said[_OF_TEXT:] == _digest_of(columns)


def _digest_of(columns: Sequence[str]) -> str:
    return sha256(",".join(columns).encode()).hexdigest()[:_OF_COLUMNS]
