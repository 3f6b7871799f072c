"""Is a worker or the scheduler alive? Its heartbeat answers, without Django, and without asking any service.

    python -m towpath.probe --role aggregator      exit code 0: alive; 1: dead or wedged; 2: wrong usage

The heartbeat is a file in HEARTBEAT_DIR (TOWPATH_HEARTBEAT_DIR, in a project that has adopted Towpath). The process
renews it only while its work makes progress (towpath/telemetry/heartbeat.py), and says in it by when it will be
renewed. A service that is down is not a reason to restart a worker that waits for it.

This module imports only the standard library, so that a probe every few seconds costs next to nothing. It reads
HEARTBEAT_DIR itself, because Django's settings take a second to load.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

#: `worker`: one that listens to all queues.
ROLES = ("dispatcher", "aggregator", "scheduler", "worker")


def silence(folder: Path, role: str) -> str:
    """Return why the process of this role counts as dead; empty if it is alive."""
    path = folder / role
    try:
        beat = json.loads(path.read_text())
        # Seconds since the machine was started: the same clock in all processes, and it is never set.
        age_seconds = time.monotonic() - float(beat["at"])
        within_seconds = float(beat["within_seconds"])
    except FileNotFoundError:
        return f"no heartbeat at {path}: check that the {role} has started, with the same HEARTBEAT_DIR"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path} cannot be read as a heartbeat: {type(error).__name__} {error}"
    if age_seconds < 0:
        return f"the heartbeat {path} is from before this machine was started"
    if age_seconds > within_seconds:
        return f"the {role}'s last heartbeat is {age_seconds:.0f} s old, more than {within_seconds:.0f} s"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m towpath.probe", description="Is this process alive?")
    # Without white space around it, as the process itself reads it.
    folder = (os.environ.get("TOWPATH_HEARTBEAT_DIR") or os.environ.get("HEARTBEAT_DIR") or "").strip()
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument("--dir", default=folder, help="default: TOWPATH_HEARTBEAT_DIR, or HEARTBEAT_DIR")
    options = parser.parse_args(arguments)
    if not options.dir:
        parser.error(
            "the folder of the heartbeats is not set: set HEARTBEAT_DIR as for the process itself, or give --dir"
        )
    reason = silence(Path(options.dir), options.role)
    if reason:
        sys.stderr.write(f"{reason}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
