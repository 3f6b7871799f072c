"""What is wrong with the text of a query, and where."""

from __future__ import annotations

import re

#: How many characters of the query `pointed` shows before and after the position.
_SHOWN = 60


class QueryError(ValueError):
    """The text is not a query. The message is one line, which names the thing and says what to write instead."""

    def __init__(self, message: str, *, text: str, position: int) -> None:
        # Messages repeat what was typed, which may contain a line end or an escape sequence.
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
        self.text = text
        #: The offset of the first wrong character in the text, from 0 on, or the text's end.
        self.position = position

    def pointed(self) -> str:
        """Two lines for a terminal: the text around the position, and below it a caret and the message."""
        start = max(0, self.position - _SHOWN)
        # One column per character: a line end or an escape sequence must not move the caret.
        shown = re.sub(r"[^ -~\u00a0-\ud7ff\ue000-\uffef]", "\N{REPLACEMENT CHARACTER}", self.text[start:])
        return f"{shown[: 2 * _SHOWN]}\n{' ' * (self.position - start)}^ {self}"
