"""Settings: the only reader of the environment, checked at start, every error at once.

Each variable is explained in README.md, "Settings".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured
from periodiq import PeriodiqMiddleware

from backend.config.broker_url import with_safe_defaults
from backend.config.environment import Environment, database_settings
from backend.config.logs import configure_logging
from backend.eventlog import store
from pipeline.lifecycle import PipelineLifecycle

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parents[2]

_env = Environment(os.environ, fallback_file=BASE_DIR / ".local" / "stack.env")

# --- The application ---------------------------------------------------------------------------------------------

DEBUG = _env.flag("DEBUG", default=False)
SECRET_KEY = _env.secret("SECRET_KEY", default="not-a-secret-debug-only" if DEBUG else None)
ALLOWED_HOSTS = _env.names("ALLOWED_HOSTS", ["127.0.0.1", "localhost"] if DEBUG else [])
CSRF_TRUSTED_ORIGINS = _env.names("CSRF_TRUSTED_ORIGINS", [])

#: Goes into the `environment` column of every event.
ENVIRONMENT = _env.text("ENVIRONMENT", "local")

ROOT_URLCONF = "backend.config.urls"
WSGI_APPLICATION = "backend.config.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_dramatiq",
    "ninja",
    "backend.outbox",
    "backend.eventlog",
    "backend.users",
    "pipeline",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "backend.outbox.middleware.EventContextMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_USER_MODEL = "users.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
# The admin's own files are served from where they are installed: there is nothing to collect.
WHITENOISE_USE_FINDERS = True
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# --- The three services. An unset URL means the local stack's ----------------------------------------------------

DATABASE_URL = _env.text("DATABASE_URL", "postgresql://towpath@127.0.0.1:54329/towpath")
RABBITMQ_URL = _env.text("RABBITMQ_URL", "amqp://127.0.0.1:56729")
EVENT_STORE_URL = _env.text("EVENT_STORE_URL", _env.text(store.URL_ALIAS, store.DEFAULT_URL))
try:
    EVENT_STORE_URL = store.completed(EVENT_STORE_URL, database_url=DATABASE_URL)
except ImproperlyConfigured as error:
    _env.problem(f"EVENT_STORE_URL: {error}")

DATABASES: dict[str, Any] = {}
try:
    DATABASES["default"] = database_settings(DATABASE_URL)
except (ImproperlyConfigured, ValueError) as error:
    _env.problem(f"DATABASE_URL: {error}")
else:
    DATABASES["default"]["CONN_MAX_AGE"] = None
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    DATABASES["default"]["OPTIONS"] = {
        # A dead peer is noticed within seconds, also in the middle of a statement; libpq waits for minutes.
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        **DATABASES["default"].get("OPTIONS", {}),
    }

# --- The pipeline ------------------------------------------------------------------------------------------------

#: The dispatcher looks for committed outbox rows this often.
DISPATCH_INTERVAL_SECONDS = _env.seconds("DISPATCH_INTERVAL_SECONDS", 1.0, minimum=0.01)
#: Ids in one message, at most. Aggregator threads x BATCH_IDS must reach WINDOW_MAX_ROWS, or windows do not fill.
BATCH_IDS = _env.whole_number("BATCH_IDS", 1000)
#: A window closes at this many rows,
WINDOW_ROWS = _env.whole_number("WINDOW_ROWS", 1000)
#: (growing on to this many while every writer is busy and ids are waiting,)
WINDOW_MAX_ROWS = _env.whole_number("WINDOW_MAX_ROWS", 10_000)
#: or this many payload bytes,
WINDOW_BYTES = _env.whole_number("WINDOW_BYTES", 32 * 1024 * 1024, minimum=1024)
#: or this long after its first id. The dispatcher gathers for DISPATCH_INTERVAL_SECONDS already; this is for the
#: messages of one look to come together, and every look leaves its last window waiting for so long.
WINDOW_LINGER_SECONDS = _env.seconds("WINDOW_LINGER_SECONDS", 0.1)
#: Windows one aggregator process writes at the same time, each with a database connection of its own.
WINDOW_WRITERS = _env.whole_number("WINDOW_WRITERS", 2)
#: Dispatching pauses while more than this many windows' worth of ids is between dispatch and ack.
MAX_OPEN_WINDOWS = _env.whole_number("MAX_OPEN_WINDOWS", 16)
#: A window whose owner has not renewed its lease for this long is taken over.
LEASE_SECONDS = _env.seconds("LEASE_SECONDS", 10.0, minimum=0.1)
#: A batch that no aggregator has sealed for this long is sealed by recovery.
UNSEALED_SECONDS = _env.seconds("UNSEALED_SECONDS", 15.0, minimum=0.1)
#: A stopping worker ends within this time: it delivers what it has sealed, the rest is recovered by others.
SHUTDOWN_SECONDS = _env.seconds("SHUTDOWN_SECONDS", 20.0, minimum=1.0)
#: How long the event store may take for one insert.
STORE_TIMEOUT_SECONDS = _env.seconds("STORE_TIMEOUT_SECONDS", 30.0, minimum=1.0)
#: The key of `Hashed` fields. One of its own, so that SECRET_KEY can be changed without the hashes.
EVENT_HASH_KEY = _env.text("EVENT_HASH_KEY", SECRET_KEY)
#: An event's context may not be larger.
EVENT_CONTEXT_MAX_BYTES = _env.whole_number("EVENT_CONTEXT_MAX_BYTES", 16 * 1024 * 1024)

#: For tests only: where a process shall die (pipeline/failpoints.py).
FAILPOINTS = _env.text("FAILPOINTS", "")

DRAMATIQ_BROKER: dict[str, Any] = {
    "BROKER": "dramatiq.brokers.rabbitmq.RabbitmqBroker",
    "OPTIONS": {"url": with_safe_defaults(RABBITMQ_URL), "confirm_delivery": True},
    # In full, because the defaults of django-dramatiq 0.15 do not import under dramatiq 2. Left out on purpose:
    # TimeLimit (it raises in the middle of transactions) and AdminMiddleware (it writes three rows per message).
    "MIDDLEWARE": [
        # A tick means "make sure a shift is running", which holds however old the tick is; periodiq's own
        # default drops ticks older than 30 s, and with them the redelivered shift of a killed dispatcher.
        PeriodiqMiddleware(skip_delay=24 * 3600),
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "backend.outbox.middleware.EventContextCarrier",
        PipelineLifecycle(),
    ],
}
DRAMATIQ_AUTODISCOVER_MODULES = ["actors"]

# --- Logs and safe transport -------------------------------------------------------------------------------------

LOGGING_CONFIG = None
configure_logging(json=_env.flag("LOG_JSON", default=not sys.stderr.isatty()), level=_env.text("LOG_LEVEL", "INFO"))

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
#: True behind a proxy that speaks TLS: cookies are then sent over TLS only.
HTTPS_ONLY = _env.flag("HTTPS_ONLY", default=False)
SESSION_COOKIE_SECURE = HTTPS_ONLY
CSRF_COOKIE_SECURE = HTTPS_ONLY

_env.check()
