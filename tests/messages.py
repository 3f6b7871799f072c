"""Everything that Towpath, its sample application and its deployment say to a person, in one text.

Read it from top to bottom before a release.

python -m tests.messages     prints it
"""

from __future__ import annotations

import ast
import os
import re
import sys
from argparse import ArgumentParser, _SubParsersAction
from dataclasses import dataclass
from typing import TYPE_CHECKING

import django
import yaml
from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from deploy.local.process import PROJECT
from towpath.conf.config import knobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRODUCT = PROJECT / "pipeline" / "towpath"
#: The sample application, and what starts the stack: the first that a newcomer reads.
AROUND = (PROJECT / "backend", PROJECT / "deploy")
COMMANDS = ("pipeline", "eventlog")
_LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
#: Two words in a row are for people: patterns and types have none.
_WORDS = re.compile(r"(?<![\w.`])[A-Za-z][a-z]+[,:;.]? [a-z]{2,}(?![\w`(])")
_STATEMENT = re.compile(r"\n {4}|^\n|^\W*(SELECT|INSERT|UPDATE|WITH|COPY|LEFT JOIN)\b|^\{[A-Z_]+\}|(?<!%)%\(\w+\)s|::")
_EVENT_NAME = re.compile(r"[a-z]+(_[a-z]+)+")
_TEMPLATE_TAG = re.compile(r"{%.*?%}|{#.*?#}|<(script|style)\b.*?</\1>", re.DOTALL)
_SPOKEN_ATTRIBUTE = re.compile(r'\b(?:title|aria-label|placeholder|alt|content|data-[\w-]+)="([^"]* [^"]*)"')
_SCRIPT_TEXT = re.compile(r'"((?:[^"\\\n]|\\.)* (?:[^"\\\n]|\\.)*)"|`([^`]* [^`]*)`')


@dataclass(frozen=True, slots=True)
class Message:
    """A text for a person, where it stands, and as what: `raise TypeError`, `log.info`, `--help`, `title`."""

    place: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}  {self.kind}: {self.text}"


def messages() -> Iterator[Message]:
    """Return every message, in the order of the files."""
    for path in sorted(path for folder in (PRODUCT, *AROUND) for path in folder.rglob("*.py")):
        if "migrations" not in path.parts:
            yield from of_module(path)
    yield from of_commands()
    for knob in knobs():
        yield Message("settings", knob.variable, knob.meaning)
    for path in sorted(PRODUCT.rglob("*.html")):
        yield from of_template(path)
    for path in sorted(PRODUCT.rglob("*.js")):
        if "vendor" not in path.parts:
            yield from of_script(path)
    yield from of_alerts()
    for line in (PROJECT / "docs" / "runbook.md").read_text().splitlines():
        if line.startswith("#"):
            yield Message("docs/runbook.md", "title", line.lstrip("# "))


def of_module(path: Path) -> Iterator[Message]:
    """Return each text with two words in a row, the docstrings of errors, and the names of log events."""
    tree = ast.parse(path.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and path.name == "errors.py" and (told := ast.get_docstring(node)):
            yield Message(f"{path.relative_to(PROJECT)}:{node.lineno}", node.name, " ".join(told.split()))
    texts = [node for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr))]
    for node in sorted(texts, key=lambda node: (node.lineno, node.col_offset)):
        parent = parents.get(node)
        if isinstance(parent, (ast.Expr, ast.JoinedStr)):
            continue
        kind, text = _kind(node, parents), _text(node)
        is_event = kind.rpartition(".")[2] in _LOG_METHODS and _EVENT_NAME.fullmatch(text)
        if is_event or (_WORDS.search(re.sub(r"\{.*?\}", "{}", text)) and not _STATEMENT.search(text)):
            yield Message(f"{path.relative_to(PROJECT)}:{node.lineno}", kind, text)


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.FormattedValue(value=value):
            return "{" + ast.unparse(value) + "}"
    return ""


def _kind(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> str:
    """What is done with a text: raised, passed to a function, yielded, returned, or given a name."""
    while parent := parents.get(node):
        match parent:
            case ast.Raise(exc=ast.Call(func=function)):
                return f"raise {ast.unparse(function)}"
            case ast.Call(func=function) if not isinstance(parents.get(parent), ast.Raise):
                return ast.unparse(function).partition("\n")[0]
            case ast.Yield() | ast.Return():
                return type(parent).__name__.lower()
            case ast.Assign(targets=[target, *_]) | ast.AnnAssign(target=target):
                return ast.unparse(target)
            case ast.FunctionDef(name=name):
                return name
        node = parent
    return ""


def of_commands() -> Iterator[Message]:
    for name in COMMANDS:
        yield from _of_parser(load_command_class("towpath", name).create_parser("manage.py", name))


def _of_parser(parser: ArgumentParser) -> Iterator[Message]:
    for text in (parser.description, parser.epilog):
        if text:
            yield Message(parser.prog, "--help", text)
    djangos = {action.dest for action in BaseCommand().create_parser("", "")._actions}
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for choice in action._choices_actions:
                yield Message(f"{parser.prog} {choice.dest}", "help", choice.help or "")
            for child in dict.fromkeys(action.choices.values()):
                yield from _of_parser(child)
        elif action.help and action.dest not in djangos:
            yield Message(parser.prog, "/".join(action.option_strings) or action.dest, action.help)


def of_template(path: Path) -> Iterator[Message]:
    source = _TEMPLATE_TAG.sub(lambda tag: "\n" * tag[0].count("\n") + "\0", path.read_text())
    place = path.relative_to(PROJECT)
    for number, line in enumerate(
        re.sub(r"<[^>]*>", lambda tag: "\0" + "\n" * tag[0].count("\n"), source).splitlines(), 1
    ):
        if text := " ".join(line.replace("\0", " ").split()):
            yield Message(f"{place}:{number}", "text", text)
    for attribute in _SPOKEN_ATTRIBUTE.finditer(source):
        yield Message(
            f"{place}:{source.count(chr(10), 0, attribute.start()) + 1}", "attribute", attribute[1].replace("\0", "")
        )


def of_script(path: Path) -> Iterator[Message]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for found in _SCRIPT_TEXT.finditer(line.partition(" // ")[0]):
            text = found[1] or found[2]
            if re.match(r"[A-Z{$]\w*[ .]", text):
                yield Message(f"{path.relative_to(PROJECT)}:{number}", "script", text)


def of_alerts() -> Iterator[Message]:
    path = PROJECT / "deploy" / "prometheus" / "alerts.yml"
    for group in yaml.safe_load(path.read_text())["groups"]:
        for rule in group["rules"]:
            yield Message(f"{path.relative_to(PROJECT)}", rule["alert"], rule["annotations"]["summary"])


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings")
    os.environ.setdefault("DEBUG", "true")
    django.setup()
    for message in messages():
        sys.stdout.write(f"{message}\n")
