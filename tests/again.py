"""`python -m tests.again` in place of `python -m pytest`: what failed gets one more run, and its result counts.

Tests that kill and time real processes (marker `timing`) can fail on a machine that stalls. No other test may: each
test that needed its second run is printed and written to flaky.txt, and the run fails if one of them is without the
marker. A run that was broken off has no second one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_FLAKY = Path("flaky.txt")


class _SecondRun:
    """A plugin of pytest: which tests failed in the run before, and which of them run now."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        #: By name: True if the test has the marker.
        self.has_marker: dict[str, bool] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        assert config.cache is not None
        self.failed = set(config.cache.get("cache/lastfailed", {}))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.has_marker = {item.nodeid: item.get_closest_marker("timing") is not None for item in session.items}

    def left_out(self) -> list[str]:
        """What failed and did not run again; of a file that could not be imported, everything."""
        return sorted(
            name
            for name in self.failed
            if not any(item == name or item.startswith(f"{name}::") for item in self.has_marker)
        )


def main(arguments: list[str]) -> int:
    # What is chosen by a marker (`make faults`) is the second part of one check, and adds to the file.
    marked = arguments[arguments.index("-m") :][:2] if "-m" in arguments else []
    if not marked:
        _FLAKY.unlink(missing_ok=True)
    # Nothing of a run before this one's: `--last-failed` would take it for what failed now.
    first = subprocess.run([sys.executable, "-m", "pytest", "--cache-clear", *arguments], check=False).returncode
    if first != pytest.ExitCode.TESTS_FAILED:
        return first
    rerun = _SecondRun()
    second = pytest.main([*marked, "--last-failed", "--last-failed-no-failures", "none"], plugins=[rerun])
    if second != pytest.ExitCode.OK or rerun.left_out():
        _print("Failed twice, or not run again", rerun.left_out())
        return int(second) or 1
    notes = {True: "times real processes", False: "NOT marked `timing`"}
    lines = [f"{name}  ({notes[is_marked]})" for name, is_marked in sorted(rerun.has_marker.items())]
    with _FLAKY.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    _print("Passed in the second run only", lines)
    return 0 if all(rerun.has_marker.values()) else 1


def _print(title: str, lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in (f"\n{title}:", *lines)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
