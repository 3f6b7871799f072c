"""gunicorn's own lines, as everything else's: `gunicorn --logger-class backend.config.gunicorn_logs.Logger`.

gunicorn writes them in a format of its own, and the master before any settings are loaded. So they are loaded here, and
what would go to its stderr or stdout goes where all logs go.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from gunicorn import glogging

if TYPE_CHECKING:
    from gunicorn.config import Config


class Logger(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        importlib.import_module(os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings"))
        for logger, target in ((self.error_log, cfg.errorlog), (self.access_log, cfg.accesslog)):
            if target == "-":
                logger.handlers.clear()
                logger.propagate = True
