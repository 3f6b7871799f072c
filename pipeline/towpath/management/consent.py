"""Consent: what cannot be undone is done only if a person types the word for it, or has given --yes."""

from __future__ import annotations

from django.core.management.base import CommandError


def confirm(question: str, word: str, *, is_sure: bool) -> None:
    """Return if the person is sure, or types the word. Raises CommandError otherwise, or if there is no terminal."""
    if is_sure:
        return
    try:
        answer = input(question)
    except EOFError:
        raise CommandError(
            "Nothing was changed: there is no terminal to confirm it. Add --yes to skip the question."
        ) from None
    if answer.strip() != word:
        raise CommandError("Nothing was changed.")
