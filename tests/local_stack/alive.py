"""Whether a process is there."""

from __future__ import annotations

import psutil


def is_alive(pid: int) -> bool:
    """True if a process runs; a zombie that nobody collects does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
