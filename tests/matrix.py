"""`make matrix`: the tests with every Python that this machine has, each Django, and both drivers of PostgreSQL.

    python -m tests.matrix                      unit tests and a slice of the integration tests, everywhere
    python -m tests.matrix --only "3.12 6.1"    where all these words apply: a Python, a Django, a driver, "lowest"
    python -m tests.matrix --full               every test that `make test` runs

A Python has one environment, with the versions of requirements.lock. Above it, each combination has its own, with
Django and the driver: the newest ones, or, as "lowest", with every dependency in the lowest version that pyproject.toml
allows. Both are kept in MATRIX_CACHE (.local/matrix), beside the log of each combination.

Exit code 0 if all passed, 1 if one failed, 2 if no combination was chosen.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROJECT = Path(__file__).resolve().parents[1]
_CACHE = Path(os.environ.get("MATRIX_CACHE", _PROJECT / ".local" / "matrix")).resolve()

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: The oldest Python that each Django takes.
DJANGOS = {"5.2": "3.11", "6.0": "3.12", "6.1": "3.12"}
DRIVERS = ("psycopg2", "psycopg")

#: What differs by Django or driver: SQL and its results, COPY, errors, migrations, the event store on PostgreSQL, the
#: programs from end to end, a project that adopts Towpath.
SLICE = (
    "tests/unit",
    "tests/conformance/test_postgresql_store.py",
    "tests/integration/test_adopting.py",
    "tests/integration/test_backfill.py",
    "tests/integration/test_commands.py",
    "tests/integration/test_database_role.py",
    "tests/integration/test_deliver.py",
    "tests/integration/test_dispatch.py",
    "tests/integration/test_doctor.py",
    "tests/integration/test_driver.py",
    "tests/integration/test_end_to_end.py",
    "tests/integration/test_locked_tables.py",
    "tests/integration/test_own_columns.py",
    "tests/integration/test_packing.py",
    "tests/integration/test_publish.py",
    "tests/integration/test_setting_columns.py",
    "tests/integration/test_stored_content.py",
    "tests/integration/test_testing_kit.py",
    "tests/integration/test_user_use_cases.py",
    "tests/integration/test_window.py",
)

#: Files whose slow tests run as well, in the slice and in `--full`: docs/adopting.md, command for command.
ALL_OF = ("tests/integration/test_adopting.py",)

#: It starts gunicorn by its name, which only the environment below has: with that one's Django.
_NOT_HERE = (
    "--deselect=tests/deploy/test_compose.py::test_the_web_says_no_error_on_a_file_system_that_it_cannot_change",
)

_OUTCOME = re.compile(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Combination:
    python: str
    django: str
    driver: str
    versions: Literal["newest", "lowest"]

    @property
    def words(self) -> tuple[str, ...]:
        return (self.python, self.django, self.driver, self.versions)

    @property
    def folder(self) -> Path:
        return _CACHE / "-".join(self.words)


@dataclass(frozen=True, slots=True)
class Outcome:
    combination: Combination
    has_passed: bool
    installed: str
    tests: str
    seconds: float


def combinations() -> Iterator[Combination]:
    """Each Python with each Django that takes it and each driver; and the lowest versions, with the oldest of both."""
    for python in PYTHONS:
        for django, oldest in DJANGOS.items():
            if _number(python) >= _number(oldest):
                yield from (Combination(python, django, driver, "newest") for driver in DRIVERS)
    yield from (Combination(PYTHONS[0], next(iter(DJANGOS)), driver, "lowest") for driver in DRIVERS)


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def find_python(version: str) -> str | None:
    """Return the path of a Python of this version, if there is one that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    if ".".join(map(str, sys.version_info[:2])) == version:
        found.insert(0, sys.executable)
    for path in filter(None, found):
        command = [f"{path}", "-c", "import ensurepip"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return command[0]
    return None


def requirements(combination: Combination) -> list[str]:
    """What the combination's own environment has above that of its Python, for pip."""
    project = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]
    driver = project["optional-dependencies"][combination.driver]
    if combination.versions == "newest":
        return [f"django=={combination.django}.*", *driver]
    return [_lowest(Requirement(text)) for text in [*project["dependencies"], *driver]]


def _lowest(requirement: Requirement) -> str:
    (bound,) = (one.version for one in requirement.specifier if one.operator == ">=")
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={bound}"


def _install(log: Path, *command: object) -> None:
    with log.open("ab") as file:
        subprocess.run([f"{part}" for part in command], stdout=file, stderr=subprocess.STDOUT, check=True, cwd=_PROJECT)


def environment_of_python(version: str, path: str) -> Path:
    """The interpreter of an environment with everything in requirements.lock, made unless it is there."""
    lock = _PROJECT / "requirements.lock"
    folder = _CACHE / version
    python = folder / "bin" / "python"
    mark = folder / "installed"
    if not mark.exists() or mark.read_bytes() != lock.read_bytes():
        log = _CACHE / f"{version}.log"
        log.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _install(log, path, "-m", "venv", folder)
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
        _install(log, *pip, "--require-hashes", "--only-binary", ":all:", "--requirement", lock)
        mark.write_bytes(lock.read_bytes())
    return python


def environment_of(combination: Combination, base: Path) -> Path:
    """The interpreter of the combination's environment, made unless it is there."""
    wanted = "\n".join(requirements(combination))
    folder = combination.folder
    python = folder / "bin" / "python"
    mark = folder / "installed"
    if not mark.exists() or mark.read_text() != f"{base}\n{wanted}":
        log = folder.with_suffix(folder.suffix + ".pip.log")
        log.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _install(log, base, "-m", "venv", folder)
        (packages,) = folder.glob("lib/python*/site-packages")
        (below,) = base.parents[1].glob("lib/python*/site-packages")
        # What is installed here comes first.
        (packages / "below.pth").write_text(f"{below}\n{_PROJECT / 'pipeline'}\n")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        _install(log, *pip, "--only-binary", ":all:", "--upgrade", *wanted.splitlines())
        mark.write_text(f"{base}\n{wanted}")
    return python


def _installed(python: Path) -> str:
    """Python, Django and the driver that Django uses, by version; fails if Django uses another."""
    script = (
        "import platform, django; from django.db.backends.postgresql.base import Database as d;"
        "print(f'{platform.python_version()}  {django.get_version():<7} {d.__name__} {d.__version__.split()[0]}')"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(combination: Combination, path: str, *, is_full: bool) -> Outcome:
    """Install and test one combination."""
    began = time.monotonic()

    def outcome(installed: str, tests: str, *, has_passed: bool = False) -> Outcome:
        return Outcome(combination, has_passed, installed, tests, time.monotonic() - began)

    try:
        base = environment_of_python(combination.python, path)
        python = environment_of(combination, base)
        installed = _installed(python)
    except subprocess.CalledProcessError as error:
        return outcome("", f"cannot be installed: see the logs in {_CACHE} ({error.returncode})")
    if f" {combination.driver} " not in installed:
        return outcome(installed, f"Django uses another driver than {combination.driver}")
    everything = ["--numprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder", *_NOT_HERE]
    chosen = everything if is_full else ["-n", "2", *SLICE]
    log = combination.folder.with_suffix(combination.folder.suffix + ".log")
    environment = {**os.environ, "PYTHONPATH": f"{_PROJECT / 'pipeline'}"}
    pytest = [f"{python}", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    with log.open("wb") as file:
        codes = [
            subprocess.run(
                [*pytest, *arguments], cwd=_PROJECT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
            ).returncode
            for arguments in (chosen, ["-m", "slow", *ALL_OF])
        ]
    text = log.read_text(errors="replace")
    summaries = _OUTCOME.findall(text)
    if any(codes):
        for line in [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))][:20]:
            _print(f"    {line}")
    is_summed_up = len(summaries) == len(codes)
    tests = "; ".join(summaries) if is_summed_up else f"pytest ended with {max(codes, key=abs)}: see {log}"
    return outcome(installed, tests, has_passed=not any(codes))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="words that must all apply, such as '3.12 6.1 psycopg'")
    parser.add_argument("--full", action="store_true", help="every test, not the slice")
    arguments = parser.parse_args()

    chosen = [one for one in combinations() if set(arguments.only.split()) <= set(one.words)]
    pythons = {python: find_python(python) for python in dict.fromkeys(one.python for one in chosen)}
    here = [one for one in chosen if pythons[one.python]]
    for python in (python for python, path in pythons.items() if path is None):
        _print(f"Python {python} is not on this machine.")
    if not here:
        _print("There is nothing to test.")
        return 2
    _CACHE.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number, combination in enumerate(here, start=1):
        _print(f"[{number}/{len(here)}] {' '.join(combination.words)} ...")
        path = pythons[combination.python]
        assert path is not None
        outcomes.append(run(combination, path, is_full=arguments.full))
        _print(f"    {outcomes[-1].tests} ({outcomes[-1].seconds:.0f} s)")

    _print("\nresult  python  django  driver           versions  tests")
    for outcome in outcomes:
        installed = outcome.installed or "  ".join(outcome.combination.words[:3])
        result = "ok    " if outcome.has_passed else "FAILED"
        _print(f"{result}  {installed:<32} {outcome.combination.versions:<8}  {outcome.tests}")
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
