"""Each rule of tests/prose.toml refuses what it is there for, and nothing else."""

from __future__ import annotations

import pytest

from deploy.local.process import PROJECT
from tests.prose import RULES, check


def advice(text: str, *, page: str = "docs/page.md") -> list[str]:
    return [found.advice for found in check(text, page=page)]


@pytest.mark.parametrize("rule", RULES["words"], ids=lambda rule: rule["instead"])
def test_a_word_to_avoid_is_found_in_markdown_docstrings_comments_and_messages(rule: dict[str, str]) -> None:
    found = [f"write {rule['instead']}"]

    assert advice(rule["bad"]) == found
    assert advice(f'"""{rule["bad"]}"""\n', page="backend/x.py") == found
    assert advice(f"x = 1\n# {rule['bad']}\n", page="backend/x.py") == found
    assert advice(f'raise Error(f"{rule["bad"]}")\n', page="backend/x.py") == found


@pytest.mark.parametrize(
    "text",
    [
        "There is no promise about the order.",
        "It is no longer there.",
        "They are also in the outbox.",
        "It takes up to a minute.",
        "Run `git go on at once`.",
        "```\nat once\n```",
    ],
)
def test_ordinary_english_and_code_are_left_alone(text: str) -> None:
    assert advice(text) == []


def test_a_line_has_one_sentence() -> None:
    assert advice("One sentence. Another one.") == ["begin a line with each sentence"]
    assert advice("- One sentence.\n  Another one (e.g. this).\n\n10. Item `a.B`, v1.2, J. Doe.") == []
    assert advice("| One. Two | Three. Four |") == []


def test_a_line_can_be_read_beside_another() -> None:
    assert advice("word " * 30) == ["break the line: 150 characters, at most 120"]
    assert advice("word " * 30 + "[link](https://example.org)") == []


def test_a_first_page_has_short_sentences() -> None:
    long = "word " * 20 + "\n" + "word " * 6 + "end."

    assert advice(long, page="README.md") == ["make it two sentences: 27 words, at most 25"]
    assert advice(long) == []
    assert advice("word " * 20 + "end.\n" + "Word " * 20 + "end.", page="README.md") == []


def test_a_finding_names_its_line() -> None:
    (found,) = check("x = 1\n\n# fine\n# at once\n", page="backend/x.py")

    assert str(found) == "backend/x.py:4: 'at once': write immediately"


def test_every_exception_has_a_reason_and_is_still_needed() -> None:
    for each in RULES["allowed"]:
        assert each["reason"]
        assert any(each["text"] in path.read_text() for pattern in RULES["files"] for path in PROJECT.glob(pattern))
