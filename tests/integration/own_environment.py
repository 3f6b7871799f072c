"""A virtual environment that a wheel can be installed into and taken out of; all else it borrows from the tests."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

#: The tests' own pip, which installs into the environment that runs it.
_PIP = """#!{python}
import sys
from pip._internal.cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class OwnEnvironment:
    """Its scripts, and where its Python finds packages."""

    scripts: Path
    site_packages: tuple[Path, ...]


def make_environment(folder: Path) -> OwnEnvironment:
    """Make one in the folder."""
    # Its own pip would take longer to install than all else that is done with it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    borrowed = Path(sysconfig.get_path("purelib"))
    # A .pth file of ours, and not the other folder's own: those bring the checkout.
    (site_packages / "borrowed.pth").write_text(f"{borrowed}\n")
    pip = folder / "bin" / "pip"
    pip.write_text(_PIP.format(python=folder / "bin" / "python"))
    pip.chmod(0o755)
    return OwnEnvironment(folder / "bin", (site_packages, borrowed))
