"""The language of everything that a person reads, held to the rules of tests/prose.toml.

    python -m tests.prose      names each place that breaks a rule, and what to write instead; exit code 1 if one does

Words are checked in Markdown, in strings and comments of Python, and in all of templates, alerts and other files.
Lines and sentences are checked in Markdown alone.
Tables, code and the names in backticks are nobody's prose: they are left out.
"""

from __future__ import annotations

import re
import sys
import tokenize
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.local.process import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES: dict[str, Any] = tomllib.loads((PROJECT / "tests" / "prose.toml").read_text())
_FENCED = re.compile(r"^\s*```.*?^\s*```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+", re.MULTILINE)
#: Where one sentence ends and the next begins on the same line. A number or an initial ends nothing.
_NEXT = re.compile(r"(?<!\.\.)(?<!\b[A-Z\d])(?<!\be\.g)(?<!\bi\.e)[.!?][)\"'*_]*\s+(?=[(\[\"'*_]*[A-Z`])")
_TEXT = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


@dataclass(frozen=True, slots=True)
class Finding:
    """A place that breaks a rule, and what to write instead."""

    page: str
    line: int
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text!r}: {self.advice}"


def findings() -> list[Finding]:
    """Everything that breaks a rule, in all files that are held to them."""
    return [
        finding
        for path in _files()
        for finding in check(path.read_text(encoding="utf-8"), page=path.relative_to(PROJECT).as_posix())
    ]


def check(text: str, *, page: str) -> Iterator[Finding]:
    """What breaks a rule in the text of a page, or of a module."""
    if page.endswith(".md"):
        yield from _words(page, enumerate(_without_code(text).splitlines(), start=1))
        yield from _lines(page, text)
        if page in RULES["first_pages"]:
            yield from _sentences(page, text)
    elif page.endswith(".py"):
        yield from _words(page, _strings_and_comments(text))
    else:
        yield from _words(page, enumerate(text.splitlines(), start=1))


def _files() -> list[Path]:
    """Every file that is held to the rules."""
    found = {path for pattern in RULES["files"] for path in PROJECT.glob(pattern)}
    return sorted(found - {path for pattern in RULES["left_out"] for path in PROJECT.glob(pattern)})


def _words(page: str, lines: Iterator[tuple[int, str]]) -> Iterator[Finding]:
    """Words that a reader should not meet."""
    for number, line in lines:
        for rule in RULES["words"]:
            for match in re.finditer(rule["pattern"], line, re.IGNORECASE):
                if not any(each["text"] in line for each in RULES["allowed"]):
                    yield Finding(page, number, match[0], f"write {rule['instead']}")


def _lines(page: str, text: str) -> Iterator[Finding]:
    """Lines with more than one sentence, or too long to be read beside another version of them."""
    longest = RULES["characters_in_a_line"]
    for number, line in enumerate(_without_code(text).splitlines(), start=1):
        if line.startswith(("|", "#", "<")):
            continue
        if found := _NEXT.search(_ITEM.sub("", line)):
            yield Finding(page, number, line[: found.end() + 20], "begin a line with each sentence")
        if len(line) > longest and not _LINK.search(line):
            yield Finding(page, number, line[:30], f"break the line: {len(line)} characters, at most {longest}")


def _sentences(page: str, text: str) -> Iterator[Finding]:
    """Sentences that are too long for a first page."""
    most = RULES["words_in_a_sentence"]
    plain = _LINK.sub(r"\1", _without_code(text))
    for paragraph in re.finditer(r"(?:^(?![|#<]).*\S.*\n?)+", plain, re.MULTILINE):
        line = plain.count("\n", 0, paragraph.start()) + 1
        for item in _ITEM.split(paragraph[0]):
            for sentence in re.split(r"(?<=[.!?:])[)*_]*\s+", " ".join(item.split())):
                if len(sentence.split()) > most:
                    advice = f"make it two sentences: {len(sentence.split())} words, at most {most}"
                    yield Finding(page, line, sentence[:40], advice)


def _without_code(text: str) -> str:
    """The text with code blanked out, each line where it was."""
    text = _FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    return _CODE.sub("`code`", text)


def _strings_and_comments(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a module's strings and comments, where they are."""
    for token in tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__):
        if token.type in _TEXT:
            yield from enumerate(token.string.splitlines(), start=token.start[0])


def main() -> int:
    """Name what breaks a rule."""
    found = findings()
    for each in found:
        sys.stdout.write(f"{each}\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
