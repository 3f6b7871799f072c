"""Packages of the distribution that bring a server: installed without starting the distribution's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.local.errors import PackageMissingError


def install(package: str) -> None:
    """Install the package when this account may; else raise PackageMissingError, with what to type."""
    command = f"apt-get install -y --no-install-recommends {package}"
    remedy = f"{package} is not installed. Run: sudo apt-get update && sudo {command}"
    sudo = _become_root()
    if sudo is None or shutil.which("apt-get") is None:
        raise PackageMissingError(remedy)
    print(f"\r  Installing {package} with apt-get, once: a minute or two", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "install"
        script.write_text(_SCRIPT.format(package=package, command=command))
        done = subprocess.run(
            [*sudo, "/bin/sh", str(script)], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise PackageMissingError(f"{remedy}\nTried it, it said:\n{(done.stdout + done.stderr)[-2000:]}")


def _become_root() -> tuple[str, ...] | None:
    """The words in front of a command that needs root; None when that would ask for a password."""
    if os.geteuid() == 0:
        return ()
    sudo = ("sudo", "-n")
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


# The package starts the distribution's server, which would take our ports or fail because they are taken.
# policy-rc.d is Debian's way to forbid that; what was there before comes back, whatever happens.
_SCRIPT = """
set -e
policy=/usr/sbin/policy-rc.d
restore() {{ rm -f "$policy"; if [ -e "$policy.towpath" ]; then mv "$policy.towpath" "$policy"; fi; }}
trap restore EXIT
if [ -e "$policy" ]; then mv "$policy" "$policy.towpath"; fi
printf '#!/bin/sh\\nexit 101\\n' > "$policy"
chmod 755 "$policy"
apt-get update
{command}
if command -v systemctl > /dev/null; then systemctl disable {package}.service || true; fi
"""
