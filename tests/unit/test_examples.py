"""Every command has examples in its help, and each example is one that the command takes."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import PROJECT
from towpath.management.commands import eventlog, pipeline
from towpath.management.examples import PIPELINE, actions_of

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator

COMMANDS = {"pipeline": pipeline.Command, "eventlog": eventlog.Command}


def parsers() -> Iterator[tuple[str, ArgumentParser]]:
    """Each action of both commands, and what is below it, by what people type."""
    for name, command in COMMANDS.items():
        for action, parser in actions_of(command().create_parser("manage.py", name)).items():
            yield f"{name} {action}", parser
            yield from ((f"{name} {action} {below}", nested) for below, nested in actions_of(parser).items())


def examples(parser: ArgumentParser) -> list[str]:
    head, *lines = parser.format_help().partition("examples:")[1:]
    assert head == "examples:"
    return [line.strip() for line in lines[0].strip().splitlines()]


@pytest.mark.parametrize(("typed", "parser"), [pytest.param(*one, id=one[0]) for one in parsers()])
def test_every_action_has_examples_and_takes_them(typed: str, parser: ArgumentParser) -> None:
    found = examples(parser)

    assert found
    for example in found:
        assert example.startswith(f"python manage.py {typed}")
        _, _, name, *arguments = shlex.split(example)
        parsed = COMMANDS[name]().create_parser("manage.py", name).parse_args(arguments)
        assert parsed.action == typed.split()[1]


def test_the_example_of_a_worker_is_the_one_that_the_page_about_metrics_advises() -> None:
    page = (PROJECT / "docs" / "operating.md").read_text()
    (advised,) = re.findall(r"run one worker process per container: `([^`]+)`", page)

    assert f"run aggregator {advised.replace(' ', '=')}" in PIPELINE["run"]


def test_there_are_as_many_as_people_know() -> None:
    assert len([*parsers()]) > 20
