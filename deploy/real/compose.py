"""docker-compose.yml from build to stop, in Docker of the Debian 13 tree (deploy/real/docker/show.sh).

Invariant: this machine's network, mounts and processes are as before: the engine, its containers and its bridges are in
namespaces of their own, and end with the process that made them.
"""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.process import PROJECT
from deploy.real import cache, tree
from deploy.real.cache import BuildFailed, NotPossible
from deploy.real.clickhouse import library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SCRIPTS = PROJECT / "deploy" / "real" / "docker"
#: The mounted hierarchies of control groups, in which Docker leaves empty groups behind.
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OUR_GROUP = "towpath-real"
#: What docker-compose.yml asks for, which a process without CAP_SYS_RESOURCE may not give beyond its own limit.
_OPEN_FILES = 262_144
_DIGEST = r"@sha256:[0-9a-f]{64}"


def show(say: Callable[[str], None]) -> str:
    """Build the image, bring the stack up, break it, stop it. What was shown, in a line.

    Raises NotPossible, or BuildFailed.
    """
    if not _CONTROL_GROUPS.is_dir() or not any(_CONTROL_GROUPS.iterdir()):
        raise NotPossible("no control groups are mounted, which Docker needs")
    say("installing Docker into the Debian 13 tree, unless it is there ...")
    servers = tree.docker()
    images = stand_ins()
    run = cache.folder() / "compose"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    _write_inputs(run, images)
    data = cache.built("docker", (cache.folder() / "trixie.recipe").read_text(), lambda _: None)
    shown = []
    try:
        for phase, network in (("build", ()), ("run", ("--net",))):
            enter = (_SCRIPTS / "enter.sh", servers, PROJECT, data, library(), run)
            words = (
                *tree.OWN_WORLD,
                "--uts",
                *network,
                "--",
                "env",
                "-i",
                f"PATH={tree.PATH}",
                *enter,
                "deploy/real/docker/show.sh",
                phase,
            )
            shown.append(_follow([str(word) for word in words], say))
    finally:
        _remove_control_groups()
    return shown[-1]


def stand_ins() -> Mapping[str, str]:
    """The images of others, by name without the digest, and what stands in for each: a target of the Dockerfile."""
    text = (PROJECT / "docker-compose.yml").read_text()
    found = {}
    for target in ("postgres", "rabbitmq", "clickhouse"):
        match = re.search(rf"image: (\S*{target}\S*?){_DIGEST}", text)
        if match is None:
            raise BuildFailed(f"docker-compose.yml names no image of {target}")
        found[match[1]] = target
    return {base_of_the_image(): "python", **found}


def base_of_the_image() -> str:
    """What deploy/Dockerfile begins with, without the digest."""
    match = re.search(rf"^ARG PYTHON=(\S+?){_DIGEST}$", (PROJECT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    if match is None:
        raise BuildFailed("deploy/Dockerfile names no base image by digest")
    return f"python:{match[1]}"


def _write_inputs(run: Path, images: Mapping[str, str]) -> None:
    """What show.sh finds in /srv/run."""
    (run / "images").write_text("".join(f"{name} {target}\n" for name, target in images.items()))
    (run / "python").write_text(base_of_the_image().removeprefix("python:"))
    (run / "base.tar").hardlink_to(tree.base_image())
    shutil.copy(PROJECT / ".env.example", run)
    subprocess.run([PROJECT / "deploy" / "new-env", run], check=True, capture_output=True)
    # An image that was built here has no digest of a registry's.
    services = {target: f"image: {name}" for name, target in images.items() if target != "python"}
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < _OPEN_FILES and not _may_raise_limits():
        services["clickhouse"] += ", ulimits: !reset null"
    lines = "".join(f"  {service}: {{{text}}}\n" for service, text in services.items())
    (run / "override.yml").write_text(f"services:\n{lines}")


def _may_raise_limits() -> bool:
    """True if this process has CAP_SYS_RESOURCE."""
    (mask,) = re.findall(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> 24 & 1)


def _follow(words: list[str], say: Callable[[str], None]) -> str:
    """Run it, and say each line that it prints; the last of them. Raises BuildFailed with the line that says why."""
    last = ""
    command = ["setpriv", "--pdeathsig=KILL", "--", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                last = line.rstrip() or last
                say(f"   {last}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BuildFailed(f"{last or 'it said nothing'} (logs: {cache.folder() / 'compose'})")
    return last


def _remove_control_groups() -> None:
    """Those that Docker has made; of those, what is empty, which is everything once all containers have ended."""
    for top in (*_CONTROL_GROUPS.glob(f"*/{_OUR_GROUP}"), _CONTROL_GROUPS / _OUR_GROUP):
        for group in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()
