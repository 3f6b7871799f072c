"""The distribution's rabbitmq-server package: found, or installed without starting the distribution's own node."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.local import debian_package
from deploy.local.errors import PackageMissingError

_PACKAGE = "rabbitmq-server"


def installed_server() -> Path:
    """The newest RabbitMQ installation; installs the package when it may, else raises PackageMissingError."""
    found = _find()
    if found is None:
        debian_package.install(_PACKAGE)
        found = _find()
    if found is None:
        raise PackageMissingError(f"{_PACKAGE} is installed, but neither its program nor Erlang's is found.")
    return found


def _find() -> Path | None:
    installations = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return installations[-1].parents[1] if installations and shutil.which("erl") else None
