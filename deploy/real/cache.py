"""The cache of `make real`: each thing in it is built once, and again only when its recipe has changed.

Invariant: what a build that was broken off has left is never taken for finished.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.errors import tail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class NotPossible(Exception):
    """This machine cannot do it; the message says why."""


class BuildFailed(Exception):
    """A step of a build has failed; the message ends with the end of its log."""


def folder() -> Path:
    """REAL_CACHE, or the user's own cache folder."""
    given = os.environ.get("REAL_CACHE")
    return Path(given).resolve() if given else Path.home() / ".cache" / "towpath-real"


def built(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache, made by `build` unless this recipe has made it before."""
    place, made_by = folder() / name, folder() / f"{name}.recipe"
    if not made_by.exists() or made_by.read_text() != recipe:
        made_by.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        build(place)
        made_by.write_text(recipe)
    return place


def run(command: Sequence[str | Path], *, log: str, cwd: Path | None = None) -> None:
    """Run a step of a build, its output in a log of the cache. Raises BuildFailed."""
    file = folder() / "log" / f"{log}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as output:
        done = subprocess.run(command, cwd=cwd, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BuildFailed(f"{command[0]} ended with exit code {done.returncode}. The end of {file}:\n{tail(file)}")
