"""The documentation names only what exists, and leaves out no setting."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import tomllib
from typing import TYPE_CHECKING

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError

from deploy.local.process import PROJECT
from tests import reference_pages, variables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What is said of the present. (The change log speaks of the past.)
PAGES = sorted(
    page
    for page in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("deploy/**/*.md"))
    if page.name != "CHANGELOG.md"
)
#: Names of other programs, and of Django.
FOREIGN = {"DISABLE_SERVER_SIDE_CURSORS", "OTEL_EXPORTER_OTLP_ENDPOINT", "SET_NULL"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(PROJECT)) for page in PAGES])


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCED.sub("", page.read_text())


def command_lines(page: Path) -> Iterator[str]:
    """Everything on the page that is set as code, a line each."""
    for language, block in FENCED.findall(page.read_text()):
        if language not in {"python", "sql", "xml", "yaml"}:
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose(page))


def source() -> str:
    """All code and configuration but the tests, which name whatever a page names."""
    kinds = ("py", "toml", "yml", "yaml", "sql", "xml", "conf", "json", "sh")
    folders = ("backend", "pipeline", "deploy")
    files = [
        *(path for folder in folders for kind in kinds for path in PROJECT.glob(f"{folder}/**/*.{kind}")),
        *(PROJECT / name for name in ("Makefile", "manage.py", "pyproject.toml", "docker-compose.yml", ".env.example")),
    ]
    return "\n".join(path.read_text() for path in files if path.is_file())


# --- Commands ----------------------------------------------------------------------------------------------------


@each_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))

    named = {target for line in command_lines(page) for target in re.findall(r"\bmake ([a-z-]+)", line)}

    assert named <= targets


@each_page
def test_every_module_that_is_run_exists(page: Path) -> None:
    modules = {name for line in command_lines(page) for name in re.findall(r"python3? -m ([\w.]+)", line)}

    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@each_page
def test_every_management_command_is_understood(page: Path) -> None:
    """Each is given to the command's own parser, with one of its alternatives (`a|b`) after the other."""
    problems = []
    for line in command_lines(page):
        for words in re.findall(r"manage\.py ([^;&]*)", line):
            problems += [
                f"{' '.join(arguments)}: {error}" for arguments in alternatives(words) if (error := refusal(arguments))
            ]

    assert problems == []


def alternatives(words: str) -> list[tuple[str, ...]]:
    """`a b|c NUMBER ... [--d]` as the command lines (a, b) and (a, c): what stands for something else is left out."""
    arguments = shlex.split(words.split(" | ", maxsplit=1)[0], comments=True)
    given = [argument for argument in arguments if re.fullmatch(r"[\w|./:=@*,+ -]+", argument) and argument != "..."]
    return list(
        itertools.product(
            *(word.split("|") for word in given if not re.fullmatch(r"[A-Z_]+.*", word) or not word.isupper())
        )
    )


def refusal(arguments: tuple[str, ...]) -> str:
    """Why the command line is not one; empty when it is."""
    name, *rest = arguments
    app = get_commands().get(name)
    if app is None:
        return "there is no such command"
    command = app if isinstance(app, BaseCommand) else load_command_class(app, name)
    try:
        command.create_parser("manage.py", name).parse_args(rest)
    except CommandError as error:
        # A command that is only spoken of needs no action.
        return "" if not rest and "required" in str(error) else str(error)
    except SystemExit as stop:
        return f"exit code {stop.code}"
    return ""


@each_page
def test_every_extra_exists_and_is_installed_from_the_checkout_beside_the_project(page: Path) -> None:
    """As docs/adopting.md has it: no index has Towpath's releases."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    commands = [line for line in command_lines(page) if re.search(r"pip install .*towpath\[", line)]

    assert [line for line in commands if not re.fullmatch(r'pip install "\.\./towpath\[\w+\]"', line)] == []
    assert {re.split(r"[\[\]]", line)[1] for line in commands} <= extras.keys()


def test_a_pull_request_asks_for_what_a_change_must_pass() -> None:
    required = re.findall(r"^make \w+", (PROJECT / ".ci" / "run").read_text(), re.MULTILINE)

    (asked,) = re.findall(
        r"^- \[ \] (.+) pass$", (PROJECT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text(), re.MULTILINE
    )

    assert re.findall(r"`(.+?)`", asked) == required


@pytest.mark.parametrize("page", sorted(PROJECT.glob("docs/decisions/0*.md")), ids=lambda page: page.stem)
def test_every_decision_says_when_to_revisit_it(page: Path) -> None:
    assert re.fullmatch(r"Revisit when .+\.", page.read_text().strip().split("\n\n")[-1].replace("\n", " "))


# --- Settings ----------------------------------------------------------------------------------------------------


@each_page
def test_every_name_in_capitals_is_one_of_the_project_s(page: Path) -> None:
    """A setting that was renamed or removed is found here, and so is a misspelt one."""
    known = set(re.findall(r"[A-Z][A-Z0-9_]+", source())) | variables.every_variable()
    known |= {f"TOWPATH_{name}" for name in variables.every_variable()}

    named = {
        name for line in command_lines(page) for name in re.findall(r"(?<![\w.])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", line)
    }

    assert named - known - FOREIGN == set()


# --- Tests -------------------------------------------------------------------------------------------------------


@each_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    """A claim with the name of its test is worth what the test is worth, but not less."""
    files = list(PROJECT.glob("tests/**/*.py"))
    known = {path.stem for path in files}
    known |= {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}

    named = {name for line in command_lines(page) for name in re.findall(r"\btest_\w+", line)}

    assert named - known == set()


# --- Links -------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]


@pytest.mark.parametrize("page", [*PAGES, PROJECT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@each_page
def test_every_table_ends_with_an_empty_line(page: Path) -> None:
    """Text that follows the last row immediately would be one more row."""
    lines = prose(page).splitlines()

    followers = [after for line, after in itertools.pairwise(lines) if line.startswith("|") and line.endswith("|")]

    assert [line for line in followers if line.strip() and not line.startswith(("|", "<!--"))] == []


def test_every_page_answers_the_question_under_which_the_index_has_it() -> None:
    index = PROJECT / "docs" / "README.md"
    listed = re.findall(r"^- \[(.*)\]\((.*)\)$", index.read_text(), re.MULTILINE)
    pages = {page for page in PROJECT.glob("docs/**/*.md") if page != index and not re.match(r"\d", page.name)}

    titles = {page: page.read_text().partition("\n")[0].removeprefix("# ") for page in pages}

    assert {index.parent / link: title for title, link in listed} == titles
    assert [title for title in titles.values() if not title.endswith("?")] == []
    assert "docs/README.md" in links(PROJECT / "README.md")


def test_every_decision_is_listed_under_its_title() -> None:
    index = PROJECT / "docs" / "decisions" / "README.md"
    listed = re.findall(r"^\| (\d+) \| \[(.*)\]\((.*)\) \|$", index.read_text(), re.MULTILINE)

    titles = {page.name: page.read_text().partition("\n")[0] for page in index.parent.glob("0*.md")}

    assert {name: f"# {number}. {title}" for number, title, name in listed} == titles


@pytest.mark.parametrize("name", ["commands.md", "metrics.md", "events.md", "api.md"])
def test_a_page_of_the_reference_says_what_the_code_says(name: str) -> None:
    assert (reference_pages.FOLDER / name).read_text() == reference_pages.pages()[name], "run: make docs"


def test_the_reference_has_no_other_page() -> None:
    assert {path.name for path in reference_pages.FOLDER.iterdir()} == reference_pages.pages().keys()


def test_the_checks_find_what_is_wrong() -> None:
    assert refusal(("pipeline", "status", "--json")) == ""
    assert refusal(("pipeline", "dance"))
    assert refusal(("pipeline", "status", "--loud"))
    assert refusal(("dance",))
    assert alternatives("pipeline deadletters list|show NUMBER ...  # all") == [
        ("pipeline", "deadletters", "list"),
        ("pipeline", "deadletters", "show"),
    ]
