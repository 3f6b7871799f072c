"""A virtual environment that a wheel can be installed into and taken out of; all else it borrows from the tests."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_environment(folder: Path) -> Path:
    """Make one in the folder; return its scripts' folder."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A .pth file of ours, and not the other folder's own: those bring the checkout.
    (site_packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"
