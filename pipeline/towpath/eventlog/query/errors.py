"""What is wrong with the text of a query, and where."""

from __future__ import annotations

import re

#: Characters of the query that `pointed` shows before and after the position.
_SHOWN = 60


class QueryError(ValueError):
    """The text is not a query. The message is one line, which names the thing and says what to write instead."""

    def __init__(self, message: str, *, text: str, position: int) -> None:
        super().__init__(message)
        self.text = text
        #: The offset in the text, from 0 on: the place of the first character that is at fault, or the text's end.
        self.position = position

    def pointed(self) -> str:
        """Two lines for a terminal: the text around the position, and the message behind a caret below it."""
        start = max(0, self.position - _SHOWN)
        # One column for each character: a line's end or an escape sequence must not move the caret, or more.
        shown = re.sub(r"[^ -~\u00a0-\ud7ff\ue000-\uffef]", "\N{REPLACEMENT CHARACTER}", self.text[start:])
        return f"{shown[: 2 * _SHOWN]}\n{' ' * (self.position - start)}^ {self}"
