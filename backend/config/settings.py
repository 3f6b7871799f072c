"""Settings: the only reader of the environment, checked at start, every error at once.

Each variable is explained in README.md, "Settings".
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import django_stubs_ext
from periodiq import PeriodiqMiddleware

from backend.config.broker_url import with_safe_defaults
from backend.config.environment import Environment, database_settings
from backend.config.logs import configure_logging
from pipeline.lifecycle import PipelineLifecycle

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parents[2]

_env = Environment(os.environ, fallback_file=BASE_DIR / ".local" / "stack.env")

# --- The application ---------------------------------------------------------------------------------------------

DEBUG = _env.flag("DEBUG", default=False)
SECRET_KEY = _env.key("SECRET_KEY", default="not-a-secret-debug-only" if DEBUG else None, may_be_weak=DEBUG)
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
    "axes",
    "django_dramatiq",
    "ninja",
    "backend.outbox",
    "backend.eventlog",
    "backend.users",
    "pipeline",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "backend.config.content_security.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "backend.outbox.middleware.EventContextMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
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
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
# Failed logins are counted in PostgreSQL, so that all web processes count together. By name and address: a stranger
# who knows an operator's name cannot lock them out, unless a proxy gives both the same address.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
#: Off: a line of its own at each start of each process.
AXES_VERBOSE = False
#: The field of the admin's form; axes would look for the model's (`email`), find nothing, and count nobody.
AXES_USERNAME_FORM_FIELD = "username"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
# The admin's own files are served from where they are installed: there is nothing to collect.
WHITENOISE_USE_FINDERS = True
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# --- The three services. An unset URL means the local stack's ----------------------------------------------------

DATABASE_URL = _env.url(
    "DATABASE_URL", "postgresql://towpath@127.0.0.1:54329/towpath", schemes=("postgresql", "postgres")
)
RABBITMQ_URL = _env.url("RABBITMQ_URL", "amqp://127.0.0.1:56729", schemes=("amqp", "amqps"))
EVENT_STORE_URL = _env.url("EVENT_STORE_URL", _env.url("CLICKHOUSE_URL", "clickhouse://127.0.0.1:18129/default"))

DATABASES: dict[str, Any] = {"default": database_settings(DATABASE_URL)}
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
EVENT_HASH_KEY = _env.key("EVENT_HASH_KEY", default=SECRET_KEY, may_be_weak=DEBUG)
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
#: A request's body may not be larger. A sign-up is a few hundred bytes.
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
#: True behind a proxy that speaks TLS and says so in X-Forwarded-Proto (overwriting what the client sent there):
#: cookies over TLS only, everything else is redirected, and browsers remember it for a year.
HTTPS_ONLY = _env.flag("HTTPS_ONLY", default=False)
SESSION_COOKIE_SECURE = HTTPS_ONLY
CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_SSL_REDIRECT = HTTPS_ONLY
#: Probes and scrapers come from inside, without the proxy.
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS_ONLY else None
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS_ONLY
# Preloading (W021) cannot be taken back, and speaks for every host of the domain: its owner's decision, not ours.
SILENCED_SYSTEM_CHECKS = ["security.W021"]

_env.check()
