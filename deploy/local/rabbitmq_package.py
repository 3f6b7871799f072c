"""The distribution's rabbitmq-server package: found, or installed without starting the distribution's own node."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.local.errors import PackageMissingError

_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "rabbitmq-server")
_REMEDY = "RabbitMQ is not installed. Type: sudo apt-get update && sudo " + " ".join(_INSTALL)


def installed_server() -> Path:
    """The newest RabbitMQ installation; installs the package when it may, else raises PackageMissingError."""
    found = _find()
    if found is None:
        _install()
        found = _find()
    if found is None:
        raise PackageMissingError(_REMEDY)
    return found


def _find() -> Path | None:
    installations = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return installations[-1].parents[1] if installations and shutil.which("erl") else None


def _install() -> None:
    sudo = _become_root()
    if sudo is None or shutil.which("apt-get") is None:
        raise PackageMissingError(_REMEDY)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "install"
        script.write_text(_SCRIPT)
        done = subprocess.run(
            [*sudo, "/bin/sh", str(script)], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise PackageMissingError(f"{_REMEDY}\nTried it, it said:\n{(done.stdout + done.stderr)[-2000:]}")


def _become_root() -> tuple[str, ...] | None:
    """The words in front of a command that needs root; None when that would ask for a password."""
    if os.geteuid() == 0:
        return ()
    sudo = ("sudo", "-n")
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


# The package starts the distribution's node, which would take ports 5672 and 4369 or fail because they are taken.
# policy-rc.d is Debian's way to forbid that; what was there before comes back, whatever happens.
_SCRIPT = f"""
set -e
policy=/usr/sbin/policy-rc.d
restore() {{ rm -f "$policy"; if [ -e "$policy.towpath" ]; then mv "$policy.towpath" "$policy"; fi; }}
trap restore EXIT
if [ -e "$policy" ]; then mv "$policy" "$policy.towpath"; fi
printf '#!/bin/sh\\nexit 101\\n' > "$policy"
chmod 755 "$policy"
apt-get update
{" ".join(_INSTALL)}
if command -v systemctl > /dev/null; then systemctl disable rabbitmq-server.service || true; fi
"""
