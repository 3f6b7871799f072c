"""A project's migrations, changed so that they work without Towpath: they import a copy of the one module they need.

Each app gets its own copy beside its migrations, to be squashed, moved or deleted with them. What the migrations
describe does not change.
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
#: Django does not take a module whose name begins with an underscore for a migration.
_COPY = "_outbox_fields"


def find() -> list[Path]:
    """Return the files of migrations that mention Towpath, except Towpath's own."""
    return sorted(path for path, _ in _files() if re.search(r"\btowpath\b", path.read_text(encoding="utf-8")))


def free() -> list[Path]:
    """Make every migration that imports our fields import a copy of them, and return the files that were written.

    Each file is complete at any moment, and a second run does what an interrupted one has left. Raises OSError.
    """
    written = []
    for path, package in _files():
        text = path.read_text(encoding="utf-8")
        freed = re.sub(rf"\b{re.escape(_MODULE)}\b", f"{package}.{_COPY}", text)
        if freed != text:
            copy = path.with_name(f"{_COPY}.py")
            # The copy first, so that a migration never imports a module that does not exist.
            for target, content in ((copy, _copy_text()), (path, freed)):
                _replace(target, content)
            written += [copy, path]
    return list(dict.fromkeys(written))


def _files() -> Iterator[tuple[Path, str]]:
    """Yield (file, package) of each migration on disk, except Towpath's own."""
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
