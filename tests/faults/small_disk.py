"""A file system of its own for one folder: small, fillable, and gone with the test, however the test ends."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deploy.local.errors import StartError
from deploy.local.process import Process, Program, setpriv

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOUNTED = "mounted"
#: $1: the folder, $2: an empty one, $3: bytes.
_MOUNT = f"""
set -e
mount -t tmpfs -o "size=$3" tmpfs "$2"
cp -a "$1/." "$2"
mount --bind "$2" "$1"
echo {_MOUNTED}
exec sleep infinity
"""
_MEBIBYTE = 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class CannotMountError(Exception):
    """This machine lets nobody mount here."""


class SmallDisk:
    """`folder` on a tmpfs with `free_mebibytes` to spare, for the processes that are put `onto` it.

    In a mount namespace that a process of its own holds open, so that a program can be started again on the same disk,
    and nothing stays mounted when the test is killed.
    """

    def __init__(self, folder: Path, *, free_mebibytes: int, draft: Path) -> None:
        """`draft` is any empty folder."""
        self._folder = folder.resolve()
        size = sum(file.lstat().st_size for file in folder.rglob("*")) + free_mebibytes * _MEBIBYTE
        self._holder = Process(
            Program(
                name="small-disk",
                argv=("unshare", "--mount", "sh", "-c", _MOUNT, "sh", str(self._folder), str(draft), str(size)),
                log=draft.with_suffix(".log"),
                ready_text=_MOUNTED,
            )
        )

    def __enter__(self) -> Self:
        self._holder.start()
        try:
            self._holder.wait_until_ready()
        except StartError as error:
            raise CannotMountError(str(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()

    @contextlib.contextmanager
    def under(self, process: Process) -> Iterator[None]:
        """The process is restarted on the disk, and at the end on the folder as it was before."""
        off = process.program
        # A process that enters a mount namespace stands in its root folder.
        back = ("sh", "-c", 'cd "$0" && exec "$@"', str(off.folder))
        onto = (*self._inside(), *back, *setpriv(off), *off.argv)
        process.stop()
        process.program = replace(off, argv=onto, privileges=())
        try:
            process.start()
            process.wait_until_ready()
            yield
        finally:
            process.kill()
            process.program = off
            process.start()
            process.wait_until_ready()

    def fill(self) -> None:
        """Until not a byte is free."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while filler.write(bytes(_CHUNK_BYTES)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def give_back(self) -> None:
        self._filler.unlink(missing_ok=True)

    def make_read_only(self, name: str) -> None:
        """A subfolder, for processes that open files in it from now on."""
        target = str(self._folder / name)
        self._call("mount", "--bind", "-o", "ro", target, target)

    def make_writable(self, name: str) -> None:
        self._call("umount", "--lazy", str(self._folder / name))

    @property
    def _filler(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self._folder}/filler")

    def _inside(self) -> tuple[str, ...]:
        return ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--")

    def _call(self, *command: str) -> None:
        subprocess.run([*self._inside(), *command], check=True, capture_output=True)
