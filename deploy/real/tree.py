"""A Debian 13 tree with the servers that this machine's own release does not have, and how to run a program in it.

Invariant: nothing is ever mounted where this machine sees it. Each program has mounts and process ids of its own, which
the kernel takes away with the program's first process, however that ends.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local import debian_package
from deploy.real import cache
from deploy.real.cache import NotPossible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SUITE = "trixie"
_SERVERS = ("rabbitmq-server", "postgresql-17")
_DOCKER = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "iptables", "iproute2", "curl")
#: In the tree, where no variable of this machine's says where programs are.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The mirror may be reached in a way that only this machine knows: its options of apt, its authorities of TLS.
_MAKE = r"""
set -eu
tree=$1 mirror=$2
debootstrap --variant=minbase --include=ca-certificates trixie "$tree" "$mirror"
grep -ls '^Acquire::' /etc/apt/apt.conf.d/* | while read -r file; do cp "$file" "$tree/etc/apt/apt.conf.d/"; done
cp -L /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
if [ -e /etc/pip.conf ]; then cp -L /etc/pip.conf "$tree/etc/"; fi
cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
echo force-unsafe-io >"$tree/etc/dpkg/dpkg.cfg.d/unsafe-io"
# No package may start its server.
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
tar --create --one-file-system --directory "$tree" --file "$tree.tar.draft" .
mv "$tree.tar.draft" "$tree.tar"
"""
_INSTALL = r"""
set -eu
tree=$1; shift
mount -t proc proc "$tree/proc"
chroot "$tree" apt-get update
chroot "$tree" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
chroot "$tree" apt-get clean
"""
_ENTER = r"""
set -eu
tree=$1; shift
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
while [ "$1" != -- ]; do
    mkdir -p "$tree$2"
    mount --bind "$1" "$tree$2"
    shift 2
done
shift
exec chroot "$tree" "$@"
"""
OWN_MOUNTS = ("unshare", "--mount", "--propagation=private")
#: `--kill-child`: the first process of the new ids dies with the one that waits for it here, and all others with it.
OWN_WORLD = (*OWN_MOUNTS, "--pid", "--fork", "--kill-child", "--ipc")


def servers() -> Path:
    """The tree with RabbitMQ and PostgreSQL. Raises NotPossible, or BuildFailed."""
    _check_machine()
    source = mirror()

    def make(place: Path) -> None:
        _run_in_own_mounts(_MAKE, str(place), source, log="debootstrap")
        _run_in_own_mounts(_INSTALL, str(place), *_SERVERS, log="servers")

    return cache.built(_SUITE, f"{_MAKE}{_INSTALL}{_SERVERS}", make)


def base_image() -> Path:
    """The tree as a tar file, as it was before any server came into it."""
    return servers().with_suffix(".tar")


def docker() -> Path:
    """The tree with Docker as well. Raises NotPossible, or BuildFailed."""
    place = servers()

    def install(_marker: Path) -> None:
        _run_in_own_mounts(_INSTALL, str(place), *_DOCKER, log="docker-packages")

    # Of the tree that it is in.
    made_by = place.with_name(f"{place.name}.recipe").stat().st_mtime_ns
    cache.built(f"{_SUITE}-docker", f"{_DOCKER}{made_by}", install)
    return place


def entered(tree: Path, command: Sequence[str], *, binds: Mapping[Path, str]) -> tuple[str, ...]:
    """The words that run a command in the tree as root, with folders of this machine at places in it.

    The command has the network of this machine and processes of its own. It is killed with the process that these words
    start.
    """
    places = [word for source, target in binds.items() for word in (str(source.resolve()), target)]
    return (*OWN_WORLD, "--", "/bin/sh", "-c", _ENTER, "enter", str(tree), *places, "--", *command)


def _run_in_own_mounts(script: str, *arguments: str, log: str) -> None:
    words = (*OWN_MOUNTS, "--", "env", f"PATH={PATH}", "/bin/sh", "-c", script, "build", *arguments)
    cache.run(words, log=log)


def _check_machine() -> None:
    """Raises NotPossible, unless a tree can be made and entered here."""
    if os.geteuid() != 0:
        raise NotPossible("it needs root, for mounts and chroot")
    if platform.machine() != "x86_64":
        raise NotPossible(f"the packages are for x86_64, this is {platform.machine()}")
    for command in ("unshare", "chroot", "setpriv"):
        if shutil.which(command) is None:
            raise NotPossible(f"{command} is not installed")
    if shutil.which("debootstrap", path=PATH) is None:
        debian_package.install("debootstrap")
    try:
        cache.run((*OWN_WORLD, "--", "mount", "-t", "tmpfs", "none", "/mnt"), log="can-mount")
    except cache.BuildFailed as error:
        raise NotPossible(f"it may not mount in a namespace of its own: {error}") from error


def mirror(etc: Path = Path("/etc/apt")) -> str:
    """Where this machine's own apt gets Debian from. Raises NotPossible."""
    for file in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in file.read_text().split("\n\n"):
            fields: dict[str, str] = dict(re.findall(r"^(\w[\w-]*):\s*(.*)$", stanza, re.MULTILINE))
            uri = fields.get("URIs", "").split()
            if uri and re.search(r"/debian/?$", uri[0]) and fields.get("Enabled") != "no":
                return uri[0]
    for file in (etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))):
        text = file.read_text() if file.exists() else ""
        if match := re.search(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+/debian/?)\s", text, re.MULTILINE):
            return match[1]
    raise NotPossible("/etc/apt names no mirror of Debian")
