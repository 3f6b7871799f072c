"""Keeps a set of processes running: started in order, restarted after a crash, ended in reverse order.

Invariants: at most one supervisor per folder (a file lock, which the kernel gives back however the holder ends); what
a dead supervisor left running is ended before anything is started, and only if it is certain to be its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import psutil

from deploy.local.credentials import write_private
from deploy.local.errors import AlreadyRunning, LocalStackError, StartFailed
from deploy.local.process import POLL_SECONDS, Process

if TYPE_CHECKING:
    from pathlib import Path

type_of_event = Literal["started", "ready", "crashed", "restarting", "stopped"]
