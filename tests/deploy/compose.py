"""docker-compose.yml as the tests read it, with the variables of an `.env` made by `deploy/new-env`."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from deploy.local.process import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = PROJECT / "docker-compose.yml"
EXAMPLE = PROJECT / ".env.example"
#: Services that run the application's image, and do not end by themselves.
ROLES = ("web", "scheduler", "dispatcher", "aggregator")

#: `$$` is a dollar sign; `${NAME}`, `${NAME:-default}`, `${NAME:?message}`.
_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Z_]+)(?::([-?])([^}]*))?\})")


def new_env(folder: Path) -> dict[str, str]:
    """The variables of a new `.env`, made in `folder` as a newcomer makes it."""
    shutil.copy(EXAMPLE, folder / ".env.example")
    subprocess.run([PROJECT / "deploy" / "new-env", folder], check=True, capture_output=True)
    return read_env(folder / ".env")


def read_env(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def variables() -> dict[str, str | None]:
    """Every variable of the compose file, and its default; None when compose refuses to start without it."""
    found: dict[str, str | None] = {}
    for _, name, kind, rest in _VARIABLE.findall(_without_comments(FILE.read_text())):
        if name:
            default = None if kind == "?" else rest
            assert found.setdefault(name, default) == default, f"{name} has two defaults"
    return found


def compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with the variables put in, as compose reads it."""

    def value(match: re.Match[str]) -> str:
        dollar, name, kind, rest = match.groups()
        if dollar:
            return "$"
        given = environment.get(name, "")
        if not given and kind == "?":
            raise KeyError(f"{name}: {rest}")
        return given or rest or ""

    def put_in(node: object) -> object:
        if isinstance(node, dict):
            return {key: put_in(child) for key, child in node.items()}
        if isinstance(node, list):
            return [put_in(child) for child in node]
        return _VARIABLE.sub(value, node) if isinstance(node, str) else node

    content = put_in(_parsed())
    assert isinstance(content, dict)
    return content


@cache
def _parsed() -> object:
    """The file, read once: every process of a deployment asks for its environment."""
    content: object = yaml.safe_load(FILE.read_text())
    return content


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
