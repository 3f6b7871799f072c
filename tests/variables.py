"""The variables that the settings read: the product's by its fields, the sample application's by its code."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from deploy.local.process import PROJECT
from towpath.conf.config import knobs

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Reads of `Environment` that also take `<NAME>_FILE`.
_SECRET = {"secret", "key", "url"}


def every_variable() -> set[str]:
    """Also those that name the file of a secret."""
    return settings() | {f"{name}_FILE" for name in secrets()}


def settings() -> set[str]:
    """One name for each, and the other names that some have."""
    return {name for knob in knobs() for name in knob.names} | {name for name, _ in _of_the_sample()}


def secrets() -> set[str]:
    """Those among them whose value can also be the content of a file."""
    ours = {name for knob in knobs() if knob.is_secret for name in knob.names}
    return ours | {name for name, kind in _of_the_sample() if kind in _SECRET}


def _of_the_sample() -> Iterator[tuple[str, str]]:
    """Each variable that backend/config/settings.py reads, and how it is read."""
    path = PROJECT / "backend" / "config" / "settings.py"
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="_env"), attr=kind), args=[ast.Constant(str(name)), *_]):
                yield name, kind
            case ast.Call(func=ast.Attribute(value=ast.Name(id="_env"))):
                raise AssertionError(f"{path}:{node.lineno}: which variable is read must be plain")
