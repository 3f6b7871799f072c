"""The entry point of scheduler and workers: dramatiq or periodiq, with the logs of the settings from the first line on.

    python -m towpath.conf.launch dramatiq django_dramatiq.setup towpath.actors --processes 1 --queues dispatch
    python -m towpath.conf.launch periodiq --verbose django_dramatiq.setup towpath.actors

Both programs set up `logging` for text before they import what they run, dramatiq's master for good; both leave it as
it is when somebody has been there before them. So the settings (DJANGO_SETTINGS_MODULE) are loaded first. Then the
program's own entry point runs, as its console script would run it.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def main() -> None:
    """The command line: the program, and its own arguments."""
    program, *arguments = sys.argv[1:] or [""]
    found = entry_points(group="console_scripts", name=program)
    if not found:
        sys.stderr.write("python -m towpath.conf.launch PROGRAM ARGUMENT ...: PROGRAM is dramatiq or periodiq\n")
        sys.exit(2)
    settings = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not settings:
        sys.stderr.write("Set DJANGO_SETTINGS_MODULE to the project's settings, such as mysite.settings.\n")
        sys.exit(2)
    try:
        importlib.import_module(settings)
    except ImproperlyConfigured as error:
        sys.exit(str(error))  # as manage.py
    # Told to reload (SIGHUP), dramatiq's master executes this script.
    sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
    (entry_point,) = found
    sys.exit(entry_point.load()())


if __name__ == "__main__":
    main()
