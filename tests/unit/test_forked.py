"""A program that is forked cannot tell the difference, but for the time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import PROJECT
from tests.forked import Forked, run_python
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

_WHAT_IT_HAS = """
import json, os, sys
has = {
    "environment": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
    "folder": os.getcwd(),
    "arguments": sys.argv,
    "path": sys.path,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "compiles": sys.dont_write_bytecode,
    "encoding": (sys.stdout.encoding, sys.stderr.encoding),
    "input": sys.stdin.read(),
}
print(json.dumps(has))
"""


@pytest.mark.parametrize(
    "program", [("program.py",), ("-c", _WHAT_IT_HAS), ("-m", "program")], ids=["file", "text", "module"]
)
@pytest.mark.parametrize("more", [{}, {"PYTHONPATH": "/one:/two", "PYTHONDONTWRITEBYTECODE": "1"}])
def test_it_has_what_a_process_of_its_own_has(tmp_path: Path, more: dict[str, str], program: tuple[str, ...]) -> None:
    (tmp_path / "program.py").write_text(_WHAT_IT_HAS)
    arguments = (*program, "a", "b")
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **more}

    forked = run_python(*arguments, cwd=tmp_path, env=environment)

    started = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(forked.stdout) == json.loads(started.stdout)
    assert (forked.returncode, forked.stderr) == (0, "")


def test_nothing_of_the_project_and_no_settings_are_there_before_it(tmp_path: Path) -> None:
    code = (
        "import sys; from django.conf import settings; assert not settings.configured;"
        "print([name for name in sys.modules if name.split('.')[0] in {'towpath', 'backend', 'deploy', 'tests'}])"
    )

    assert run_python("-c", code, cwd=tmp_path, env={}).stdout == "[]\n"


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0, "first\nlast\n"),
    ],
)
def test_its_end_is_told(tmp_path: Path, code: str, ended: int, said: str) -> None:
    done = run_python("-c", code, cwd=tmp_path, env={}, is_one_output=True)

    assert (done.returncode, done.stdout) == (ended, said)


def test_what_it_raises_is_printed(tmp_path: Path) -> None:
    done = run_python("-c", "raise ValueError('seen')", cwd=tmp_path, env={})

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("ValueError: seen\n")


def test_it_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    code = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(100)"

    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", code, cwd=tmp_path, env={}, timeout=2)

    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not _is_running(pid), seconds=20)


def test_a_module_that_was_written_again_is_imported_again(tmp_path: Path) -> None:
    for text in ("a", "bb"):
        (tmp_path / "changing.py").write_text(f"print({text!r})")

        done = run_python("-c", "import changing", cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"})

        assert done.stdout == f"{text}\n"


def test_it_finds_what_is_installed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "installed.py").write_text("print('found')")
    code = "import installed, django; import towpath"

    done = run_python("-c", code, cwd=PROJECT, env={}, site_packages=[tmp_path])

    assert (done.returncode, done.stdout) == (1, "found\n")
    assert done.stderr.endswith("No module named 'towpath'\n")


def test_a_session_of_its_own_is_killed_with_all_in_it_when_nobody_waits_any_more(tmp_path: Path) -> None:
    code = "import os, pathlib, time; pathlib.Path(f'{os.fork()}').write_text(''); time.sleep(100)"
    with (tmp_path / "log").open("wb") as log:
        program = Forked("-c", code, cwd=tmp_path, env={}, outputs=(log.fileno(), log.fileno()), is_session=True)
    eventually(lambda: len(list(tmp_path.iterdir())) == 3, seconds=20)
    (child,) = (int(path.name) for path in tmp_path.iterdir() if path.name not in {"log", "0"})
    assert os.getpgid(child) == os.getsid(program.pid) == program.pid != os.getpid()
    assert program.poll() is None

    program.close()

    eventually(lambda: not _is_running(child) and not _is_running(program.pid), seconds=20)


def test_a_signal_reaches_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        program = Forked("-c", "import time; time.sleep(100)", cwd=tmp_path, env={}, outputs=(log.fileno(),) * 2)

    program.send_signal(signal.SIGTERM)

    assert program.wait(20) == program.poll() == -signal.SIGTERM


def test_manage_py_works(tmp_path: Path) -> None:
    done = run_python("manage.py", "check", cwd=PROJECT, env=os.environ)

    assert "no issues" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
