"""For a project that adopts Towpath: `from towpath.conf.settings import *` at the top of its settings.

Settings below it win (docs/adopting.md). The values come from the variables `TOWPATH_...` (docs/settings.md).
"""

from __future__ import annotations

import os

from towpath.conf.config import Config
from towpath.conf.dramatiq import AUTODISCOVERED_MODULES, broker
from towpath.conf.environment import Environment

__all__ = ["DRAMATIQ_AUTODISCOVER_MODULES", "DRAMATIQ_BROKER", "TOWPATH"]

TOWPATH = Config.from_environment(Environment(os.environ, prefix="TOWPATH_"))
DRAMATIQ_BROKER = broker(TOWPATH)
DRAMATIQ_AUTODISCOVER_MODULES = AUTODISCOVERED_MODULES
