"""Migrations of a project that stand without Towpath: with a copy of the one module of ours that they name.

Each app gets a copy of its own beside its migrations, to be squashed, moved or deleted with them. Nothing of what the
migrations describe is changed.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from django.db.migrations.loader import MigrationLoader

from towpath.outbox import fields

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODULE = fields.__name__
#: Django takes no module whose name begins so for a migration.
_COPY = "_outbox_fields"


def find() -> list[Path]:
    """Return the files of migrations that name Towpath, other than Towpath's own."""
    return sorted(path for path, _ in _files() if re.search(r"\btowpath\b", path.read_text(encoding="utf-8")))


def free() -> list[Path]:
    """Let every migration that names our fields name a copy of them; return what was written.

    Each file is complete at each moment, and a second run does what a first one has not done. Raises OSError.
    """
    written = []
    for path, package in _files():
        text = path.read_text(encoding="utf-8")
        freed = re.sub(rf"\b{re.escape(_MODULE)}\b", f"{package}.{_COPY}", text)
        if freed != text:
            copy = path.with_name(f"{_COPY}.py")
            # The copy first: a migration that names it can be read from then on.
            for target, content in ((copy, _copy_text()), (path, freed)):
                _replace(target, content)
            written += [copy, path]
    return list(dict.fromkeys(written))


def _files() -> Iterator[tuple[Path, str]]:
    """Each migration on disk that is not Towpath's own: its file, and the package that it is in."""
    for (app_label, _), migration in MigrationLoader(None, ignore_no_migrations=True).disk_migrations.items():
        module = sys.modules[migration.__module__]
        if app_label != "towpath" and module.__file__ and module.__file__.endswith(".py"):
            yield Path(module.__file__), migration.__module__.rpartition(".")[0]


def _copy_text() -> str:
    origin = f"# A copy of {_MODULE} of towpath {version('towpath')}, for migrations that once made an outbox.\n"
    return origin + Path(fields.__file__).read_text(encoding="utf-8")


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
