"""The runbook, next to the problem: its sections as HTML, and which section is about which problem.

It is docs/runbook.md. Docs are not installed, so a wheel has a copy of this page in here (pyproject.toml).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from django.utils.html import format_html, format_html_join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.utils.safestring import SafeString

    from towpath.watch.problems import Kind, Problem

_INSTALLED = Path(__file__).with_name("runbook.md")
_OF_A_CHECKOUT = Path(__file__).parents[3] / "docs" / "runbook.md"

#: The section for a kind of problem, unless its own text names another.
_SECTIONS: dict[Kind, str] = {
    "unread": "TowpathUnmeasured",
    "store": "The event store is unavailable",
    "consumer": "A queue is stuck",
    "shift": "TowpathShiftSilent",
    "pause": "Dispatch is paused",
    "standstill": "TowpathEventsLate",
    "message": "A queue is stuck",
    "late": "TowpathEventsLate",
    "canary": "TowpathCanaryLate",
    "vacuum": "TowpathVacuumHeldBack",
    "receipt": "TowpathReceiptMismatch",
    "proof": "TowpathProofContradicted",
    "row": "TowpathDeadLetters",
    "outbox": "How to put rows back",
    "role": "Rows that wait on their own",
    "window": "TowpathEventsLate",
    "interruption": "TowpathShiftSilent",
}
_NAMED = re.compile(r"runbook\.md, ([\w -]+?)(?=[,.:;]|$| and )")
_ITEM = re.compile(r"(?:\d+\.|-) ")
_INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\[(?P<text>[^\]]+)\]\((?P<url>[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the runbook."""

    title: str
    anchor: str
    html: SafeString


@cache
def sections() -> dict[str, Section]:
    """Every section, by its title."""
    text = (_INSTALLED if _INSTALLED.exists() else _OF_A_CHECKOUT).read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {
        title: Section(title, anchor(title), _joined(_blocks(body)))
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def section_of(problem: Problem) -> Section | None:
    """Return what the runbook says about a problem."""
    named = _NAMED.search(problem.text)
    return sections().get(named[1] if named else "") or sections().get(_SECTIONS[problem.kind])


def anchor(title: str) -> str:
    """As links within docs/runbook.md have it."""
    return re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")


def inline(text: str) -> SafeString:
    """A line of the runbook, or of a problem: with code, emphasis, and links into the runbook."""
    found: list[str] = []
    at = 0
    for mark in _INLINE.finditer(text):
        found += [text[at : mark.start()], _marked(mark)]
        at = mark.end()
    return _joined([*found, text[at:]])


def _joined(parts: Iterable[str]) -> SafeString:
    """The parts behind each other; those that are not HTML are escaped."""
    return format_html_join("", "{}", ((part,) for part in parts))


def _marked(mark: re.Match[str]) -> str:
    if mark["code"]:
        return format_html("<code>{}</code>", mark["code"])
    if mark["strong"]:
        return format_html("<strong>{}</strong>", mark["strong"])
    # Other pages of the documentation are not here.
    if not mark["url"].startswith("#"):
        return mark["text"]
    # Even if a section is shown next to a problem.
    return format_html('<a href="runbook{}">{}</a>', mark["url"], mark["text"])


def _blocks(body: str) -> Iterator[SafeString]:
    """Paragraphs, lists, tables as text, and blocks of code: all that the runbook has."""
    for index, part in enumerate(re.split(r"^ *```\w*\n(.*?)^ *```$", body, flags=re.MULTILINE | re.DOTALL)):
        if index % 2:
            yield format_html('<pre class="code">{}</pre>', part.rstrip())
            continue
        for block in re.split(r"\n\s*\n", part.strip()):
            lines = block.splitlines()
            if not lines:
                continue
            if lines[0].startswith("|"):
                yield format_html('<pre class="code">{}</pre>', block)
            elif _ITEM.match(lines[0]):
                items = format_html_join("", "<li>{}</li>", ((inline(item),) for item in _items(lines)))
                yield format_html("<ol>{}</ol>", items)
            elif lines[0].startswith("#"):
                yield format_html("<h3>{}</h3>", inline(lines[0].lstrip("# ")))
            else:
                yield format_html("<p>{}</p>", inline(" ".join(line.strip() for line in lines)))


def _items(lines: list[str]) -> Iterator[str]:
    item = ""
    for line in lines:
        if (start := _ITEM.match(line)) and item:
            yield item
            item = ""
        item = f"{item} {line[start.end() :] if start else line.strip()}".strip()
    yield item
