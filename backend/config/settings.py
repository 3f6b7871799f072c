"""Settings, which alone read the environment, checked at start, every error reported together.

docs/settings.md explains each variable.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import django_stubs_ext

from backend.config.database import database_settings
from towpath.conf.config import Config
from towpath.conf.dramatiq import AUTODISCOVERED_MODULES, broker
from towpath.conf.environment import Environment
from towpath.conf.logs import configure_logging

# Generic classes of Django's admin, as django-stubs has them.
django_stubs_ext.monkeypatch()

# The file that a running local stack writes gives what the environment does not.
_env = Environment(os.environ, fallback_file=Path(__file__).resolve().parents[2] / ".local" / "stack.env")

# --- The application ---------------------------------------------------------------------------------------------

DEBUG = _env.flag("DEBUG", default=False)
SECRET_KEY = _env.key("SECRET_KEY", default="not-a-secret-debug-only" if DEBUG else None, may_be_weak=DEBUG)
ALLOWED_HOSTS = _env.names("ALLOWED_HOSTS", ["127.0.0.1", "localhost"] if DEBUG else [])
CSRF_TRUSTED_ORIGINS = _env.names("CSRF_TRUSTED_ORIGINS", [])

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
    "towpath",
    "towpath.explorer",
    "towpath.console",
    "towpath.pages",
    "django_htmx",
    "backend.users",
]
MIDDLEWARE = [
    "towpath.outbox.client_address.ClientAddressMiddleware",
    "backend.config.api.JsonErrorsMiddleware",
    "towpath.watch.health.HealthMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "backend.config.content_security.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "towpath.outbox.middleware.EventContextMiddleware",
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
#: Where the explorer sends people who are not signed in.
LOGIN_URL = "admin:login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
# Failed logins are counted in PostgreSQL, so that all web processes count together. By name and address: a stranger
# who knows an operator's name cannot lock them out, unless a proxy gives both the same address (TRUSTED_PROXIES).
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
#: Off: a line of its own at each start of each process.
AXES_VERBOSE = False
#: The field of the admin's form; axes would look for the model's (`email`), find nothing, and count nobody.
AXES_USERNAME_FORM_FIELD = "username"
AXES_USERNAME_CALLABLE = "backend.users.throttling.hashed_name"
AXES_HANDLER = "backend.users.throttling.Handler"
#: Sign-ins are events; a second list would have the names in clear.
AXES_DISABLE_ACCESS_LOG = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
# The admin's own files are served from where they are installed: there is nothing to collect.
WHITENOISE_USE_FINDERS = True
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# --- The database ------------------------------------------------------------------------------------------------

DATABASE_URL = _env.url(
    "DATABASE_URL", "postgresql://towpath@127.0.0.1:24329/towpath", schemes=("postgresql", "postgres")
)

DATABASES: dict[str, Any] = {"default": database_settings(DATABASE_URL)}
DATABASES["default"]["CONN_MAX_AGE"] = None
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["OPTIONS"] = {
    # A dead peer is noticed within seconds, even in the middle of a statement; libpq waits for minutes.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    **DATABASES["default"]["OPTIONS"],
}

# --- Safe transport ----------------------------------------------------------------------------------------------

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

_LOG_JSON = _env.flag("LOG_JSON", default=not sys.stderr.isatty())
_LOG_LEVEL = _env.choice("LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))

# --- Towpath: after the rest, because it checks all that was read ------------------------------------------------

TOWPATH = Config.from_environment(_env, may_be_weak=DEBUG)
DRAMATIQ_BROKER = broker(TOWPATH)
DRAMATIQ_AUTODISCOVER_MODULES = AUTODISCOVERED_MODULES

if TOWPATH.tracing:
    MIDDLEWARE.insert(
        MIDDLEWARE.index("towpath.watch.health.HealthMiddleware") + 1, "towpath.outbox.spans.RequestSpans"
    )

# --- Logs --------------------------------------------------------------------------------------------------------

LOGGING_CONFIG = None
configure_logging(
    json=_LOG_JSON,
    level=_LOG_LEVEL,
    secrets=(
        SECRET_KEY,
        TOWPATH.event_hash_key,
        TOWPATH.seal_key,
        DATABASE_URL,
        TOWPATH.rabbitmq_url,
        *TOWPATH.store_urls.values(),
    ),
)
