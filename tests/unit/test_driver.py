"""PostgreSQL's driver, as far as it shows without a server."""

from __future__ import annotations

import subprocess
import sys

from deploy.local.process import PROJECT

_WITHOUT_A_DRIVER = """
import sys
sys.modules["psycopg"] = sys.modules["psycopg2"] = None
import towpath.driver
"""


def test_a_project_without_a_driver_is_told_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_A_DRIVER],
        cwd=PROJECT,
        env={"PYTHONPATH": str(PROJECT / "pipeline")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "django.core.exceptions.ImproperlyConfigured: No driver for PostgreSQL is installed."
        ' Run `pip install "towpath[psycopg]"`, or "towpath[psycopg2]".'
    )
