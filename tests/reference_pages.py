"""The pages of docs/reference/, from the code: commands, metrics, events, the HTTP API.

python -m tests.reference_pages     writes them
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import django
from django.core.management import load_command_class
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from deploy.local.process import PROJECT
from towpath.management.arguments import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = PROJECT / "docs" / "reference"
_WRITTEN = "`python -m tests.reference_pages` writes this page from the code.\n"
#: Options that Django gives to each command.
_DJANGOS = {"-h", "--version", "-v", "--settings", "--pythonpath", "--traceback", "--no-color", "--force-color"}
_DJANGOS |= {"--skip-checks"}


def pages() -> dict[str, str]:
    """Each page's name and text, as they must be."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "commands.md": _commands,
        "metrics.md": _metrics,
        "events.md": _events,
        "api.md": _api,
    }
    return {name: "\n".join(make()) + "\n" for name, make in makers.items()}


def _commands() -> Iterator[str]:
    yield f"# Which commands are there?\n\n{_WRITTEN}"
    yield "Exit code 0: all is well.\nExit code 1: a problem was found.\nExit code 2: wrong usage."
    for name in ("pipeline", "eventlog"):
        parser = load_command_class("towpath", name).create_parser("manage.py", name)
        for action, text, sub in _actions(parser):
            yield f"\n## {name} {action}\n\n{_sentence(text)}"
            yield from _options(sub)
            for what, help_, inner in _actions(sub):
                yield f"\n### {name} {action} {what}\n\n{_sentence(help_)}"
                yield from _options(inner)
            if sub.epilog:
                yield "\n```\n" + "\n".join(line.strip() for line in sub.epilog.splitlines()[1:]) + "\n```"


def _actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """The name, the help and the parser of each action."""
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in group._choices_actions}
            for name, sub in group.choices.items():
                yield name, told.get(name, ""), sub


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = [
        f"| `{_usage(option)}` | {_cell(parser._get_formatter()._expand_help(option) if option.help else '')} |"
        for option in parser._actions
        if not _DJANGOS & set(option.option_strings) and not isinstance(option, argparse._SubParsersAction)
    ]
    if rows:
        yield "\n".join(["", "| argument | meaning |", "| --- | --- |", *rows])


def _usage(option: argparse.Action) -> str:
    """How a person types it."""
    kind = {int: "NUMBER", float: "NUMBER", moment: "TIME"}.get(option.type, "TEXT")
    values = "|".join(map(str, option.choices)) if option.choices else str(option.metavar or kind)
    if option.nargs != 0:
        values += {"*": " ...", "+": " ...", "...": " ..."}.get(str(option.nargs), "")
    if not option.option_strings:
        return values.replace("|", "\\|") if option.choices else option.dest
    return option.option_strings[-1] + ("" if option.nargs == 0 else f" {values}".replace("|", "\\|"))


def _metrics() -> Iterator[str]:
    from towpath.telemetry import metrics

    yield f"# Which metrics are there?\n\n{_WRITTEN}"
    yield "[How do I monitor Towpath?](../operating.md#metrics) says who serves them, and which one to alert on.\n"
    yield "| metric | kind | labels | meaning |\n| --- | --- | --- | --- |"
    for name, one in vars(metrics).items():
        if name.startswith("_"):
            continue
        match one:
            case metrics.LedgerGauge():
                label = f"`{one.label}`" if one.label else ""
                yield f"| `{one.name}` | gauge, of the ledger | {label} | {one.help} |"
            case MetricWrapperBase():
                kind = "histogram" if isinstance(one, Histogram) else one._type
                series = one._name + ("_total" if kind == "counter" else "")
                yield f"| `{series}` | {kind} | {_code(one._labelnames)} | {_cell(one._documentation)} |"


def _events() -> Iterator[str]:
    from towpath.outbox.registry import catalogue

    yield f"# Which events does Towpath publish?\n\n{_WRITTEN}"
    yield "Those of `users` are the sample application's."
    yield "`python manage.py eventlog events` lists those of your project.\n"
    yield "| event | what happened | fields | outbox | version |\n| --- | --- | --- | --- | --- |"
    for each in catalogue():
        fields = _code(each.schema.get("properties", {}))
        yield f"| `{each.type}` | {_cell(each.description)} | {fields} | `{each.outbox}` | {each.version} |"


def _api() -> Iterator[str]:
    from backend.config.api import api

    yield f"# Which HTTP endpoints are there?\n\n{_WRITTEN}"
    yield "`/api/openapi.json` is the whole document, with every field.\n`/api/docs` is a page to try it.\n"
    yield "| endpoint | what it does | answers |\n| --- | --- | --- |"
    for path, methods in sorted(api.get_openapi_schema()["paths"].items()):
        for method, each in methods.items():
            answers = ", ".join(f"`{code}`" for code in sorted(map(str, each["responses"])))
            yield f"| `{method.upper()} {path}` | {_cell(_says(each))} | {answers} |"


def _says(operation: dict[str, Any]) -> str:
    return str(operation.get("description") or operation.get("summary") or "").partition("\n\n")[0]


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    """The text of a help, which begins small and has no full stop, as a sentence a line."""
    return (text[:1].upper() + text[1:]).rstrip(".").replace(". ", ".\n") + "."


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings")
    os.environ.setdefault("DEBUG", "true")
    django.setup()
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
