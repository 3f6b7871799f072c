"""The entry point of a WSGI server."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings")
application = get_wsgi_application()

# Now rather than during the first request: views, and all that they import.
get_resolver().url_patterns  # noqa: B018 - a property that loads
# What is loaded stays. The garbage collector would look at all of it again every few requests, and stop them meanwhile.
gc.collect()
gc.freeze()
