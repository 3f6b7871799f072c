"""What stops a release, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from deploy.local.process import PROJECT
from deploy.release import notes, problems

CHANGELOG = """# Changelog

## Unreleased

- Later.

## 0.2.0 - 2026-12-01

### Added

- A thing.

## 0.1.0 - 2026-11-27

- The first.
"""


def built(folder: Path, *, version: str = "0.2.0", names: tuple[str, ...] = ("towpath/__init__.py",)) -> Path:
    """A folder with a wheel and a source, as a build leaves it."""
    folder.mkdir()
    with ZipFile(folder / f"towpath-{version}-py3-none-any.whl", "w") as wheel:
        for name in (*names, f"towpath-{version}.dist-info/METADATA"):
            wheel.writestr(name, "")
    (folder / f"towpath-{version}.tar.gz").touch()
    return folder


def test_what_agrees_is_released_with_its_section_of_the_change_log(tmp_path: Path) -> None:
    assert problems("v0.2.0", version="0.2.0", changelog=CHANGELOG, folder=built(tmp_path / "dist")) == []
    assert notes(CHANGELOG, "0.2.0") == "### Added\n\n- A thing."
    assert notes(CHANGELOG, "0.1.0") == "- The first."
    assert notes(CHANGELOG, "0.3.0") == ""


@pytest.mark.parametrize(
    ("tag", "changelog", "names", "said"),
    [
        ("v0.3.0", CHANGELOG, (), "the tag must be v0.2.0"),
        ("v0.2.0", "## Unreleased\n", (), "no section `## 0.2.0"),
        ("v0.2.0", "## 0.2.0 - 2026-12-01\n\n## 0.1.0 - 2026-11-27\n\n- A.\n", (), "no section `## 0.2.0"),
        ("v0.2.0", CHANGELOG, ("tests/x.py",), "would also install ['tests']"),
    ],
)
def test_what_does_not_agree_is_named(
    tmp_path: Path, tag: str, changelog: str, names: tuple[str, ...], said: str
) -> None:
    (found,) = problems(tag, version="0.2.0", changelog=changelog, folder=built(tmp_path / "dist", names=names))

    assert said in found


def test_files_of_an_earlier_build_are_not_released_with_it(tmp_path: Path) -> None:
    folder = built(tmp_path / "dist")
    (folder / "towpath-0.1.0.tar.gz").touch()

    (found,) = problems("v0.2.0", version="0.2.0", changelog=CHANGELOG, folder=folder)

    assert "towpath-0.1.0.tar.gz" in found


def test_the_next_release_of_this_checkout_would_pass(tmp_path: Path) -> None:
    """`make dist`: the wheel has one name, and the change log a section for the version in pyproject.toml."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "--directory", tmp_path], cwd=PROJECT, check=True)
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    check = [sys.executable, "-m", "deploy.release", "check", f"v{version}", str(tmp_path)]

    done = subprocess.run(check, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
