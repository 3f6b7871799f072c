"""The state in words, and what to do next: the first thing on the page, and at three in the morning the only one read.

It is made only of the problems of `pipeline status`. A problem's sentence says what is wrong first, and what to do
after a colon or a full stop. So it is cut there, and not written again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from towpath.console.runbook import Section, section_of
from towpath.watch.thresholds import Level, level_of_age, worst

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.watch.problems import Kind, Problem
    from towpath.watch.status import Status

#: Events flow despite these, or wait because a person wants them to.
_CAN_WAIT: frozenset[Kind] = frozenset({"pause", "vacuum", "row", "proof", "late"})
#: Where a sentence's second half begins.
_ENDS = (": ", ". ")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem in two halves, with the section of the runbook that is about it."""

    kind: Kind
    level: Level
    what: str
    next_step: str
    section: Section | None
    #: Names the section on the page, for a browser to keep it open: even when other problems come and go.
    keep: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state in one sentence. `troubles` are the reasons; the first one is that sentence."""

    level: Level
    title: str
    troubles: Sequence[Trouble]


def verdict(status: Status) -> Verdict:
    """Return what a person should read first."""
    troubles = [trouble(problem) for problem in status.found]
    troubles.sort(key=lambda one: one.level != "bad")
    troubles = [
        replace(one, keep=f"{one.kind}-{sum(other.kind == one.kind for other in troubles[:index])}")
        for index, one in enumerate(troubles)
    ]
    if troubles:
        level = worst(*(one.level for one in troubles), level_of_age(status.figures.oldest_age_seconds))
        return Verdict(level, troubles[0].what, troubles)
    return Verdict("ok", "Events are flowing" if status.figures.waiting else "All events are delivered", ())


def trouble(problem: Problem) -> Trouble:
    """Return a problem of `status`, cut in two."""
    what, next_step = _cut(problem.text, is_quoting=problem.kind == "pause")
    level: Level = "warn" if problem.kind in _CAN_WAIT else "bad"
    return Trouble(problem.kind, level, _capital(what), _capital(next_step), section_of(problem))


def _cut(text: str, *, is_quoting: bool) -> tuple[str, str]:
    """Cut at the first colon or full stop that is in neither backticks nor parentheses.

    Parentheses quote what services and people say, which may not close what it opens: then, and of a person's reason,
    the last end of one counts.
    """
    depth, is_code = 0, False
    for at, one in enumerate(() if is_quoting else text):
        if one == "`":
            is_code = not is_code
        elif not is_code:
            depth = max(0, depth + {"(": 1, ")": -1}.get(one, 0))
            if depth == 0 and text.startswith(_ENDS, at):
                return text[:at], text[at + 2 :]
    if depth or is_code or is_quoting:
        at = max(text.rfind(f"){end}") for end in _ENDS)
        if at >= 0:
            return text[: at + 1], text[at + 3 :]
    return text, ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
