"""manage.py as an operator runs it."""

from __future__ import annotations

import os
import subprocess
import sys

from deploy.local.process import PROJECT


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with these variables changed; its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
