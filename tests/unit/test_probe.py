"""The probe: alive or dead by a file alone, without Django."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.process import PROJECT
from towpath.probe import main, silence


def write(folder: Path, *, age_seconds: float, within_seconds: float = 20) -> None:
    beat = {"at": time.monotonic() - age_seconds, "within_seconds": within_seconds, "pid": 1}
    (folder / "aggregator").write_text(json.dumps(beat))


def probe(folder: Path) -> int:
    return main(["--role", "aggregator", "--dir", str(folder)])


def test_a_fresh_heartbeat_is_alive(tmp_path: Path) -> None:
    write(tmp_path, age_seconds=1)

    assert probe(tmp_path) == 0


def test_an_old_heartbeat_is_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, age_seconds=30)

    assert probe(tmp_path) == 1
    assert "the aggregator's last heartbeat is 30 s old, more than 20 s" in capsys.readouterr().err


def test_no_heartbeat_is_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe(tmp_path) == 1
    assert "no heartbeat" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"at": "soon", "within_seconds": 1}', "{"])
def test_a_file_that_is_no_heartbeat_is_dead(tmp_path: Path, text: str) -> None:
    (tmp_path / "aggregator").write_text(text)

    assert "cannot be read as a heartbeat" in silence(tmp_path, "aggregator")


def test_a_heartbeat_from_before_the_machine_was_started_is_dead(tmp_path: Path) -> None:
    write(tmp_path, age_seconds=-60)

    assert "before this machine was started" in silence(tmp_path, "aggregator")


def test_a_role_that_does_not_exist_and_a_missing_folder_are_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEARTBEAT_DIR", raising=False)
    for arguments in (["--role", "dancer", "--dir", "x"], ["--role", "aggregator"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_the_probe_needs_nothing_but_the_standard_library_and_its_folder_s_name(tmp_path: Path) -> None:
    write(tmp_path, age_seconds=1)

    # -S: no installed package can be imported
    done = subprocess.run(
        [sys.executable, "-S", "-m", "towpath.probe", "--role", "aggregator"],
        cwd=PROJECT,
        env={"HEARTBEAT_DIR": f"{tmp_path}\r\n", "PYTHONPATH": "pipeline"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
