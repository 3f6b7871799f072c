"""A release: what its tag, its files and its change log must agree on, and what is said of it.

    python -m deploy.release check v0.1.0 dist     exit code 1, and what is wrong, unless all of it agrees
    python -m deploy.release notes v0.1.0          the version's section of CHANGELOG.md

Needs no package beside Python's own.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

_PROJECT = Path(__file__).resolve().parents[1]
#: The one name that the wheel puts into another project's environment.
_PACKAGE = "towpath"


def notes(changelog: str, version: str) -> str:
    """The section of a version in the change log, without its heading; empty without one."""
    section = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    found = re.search(section, changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def problems(tag: str, *, version: str, changelog: str, folder: Path) -> list[str]:
    """What does not agree, and how to fix it; empty when everything does."""
    found = []
    if tag != f"v{version}":
        found.append(f"The tag is {tag}, and pyproject.toml has version {version}: the tag must be v{version}.")
    if not notes(changelog, version):
        found.append(f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`: cut one from Unreleased.")
    expected = {f"{_PACKAGE}-{version}-py3-none-any.whl", f"{_PACKAGE}-{version}.tar.gz"}
    built = {path.name for path in folder.iterdir()}
    if built != expected:
        found.append(f"{folder} holds {sorted(built)}, not {sorted(expected)}: empty it and build again.")
    for wheel in folder.glob("*.whl"):
        names = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
        if foreign := names - {_PACKAGE, f"{_PACKAGE}-{version}.dist-info"}:
            found.append(f"{wheel.name} would also install {sorted(foreign)}: leave it out in pyproject.toml.")
    return found


def main() -> int:
    """Check a release, or print its notes."""
    what, tag, *rest = sys.argv[1:]
    changelog = (_PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    if what == "notes":
        sys.stdout.write(notes(changelog, tag.removeprefix("v")) + "\n")
        return 0
    version = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]["version"]
    found = problems(tag or f"v{version}", version=version, changelog=changelog, folder=Path(*rest))
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
