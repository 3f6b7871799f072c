"""Settings, which alone read the environment (with towpath.py), checked at start, every error at once.

Each variable is explained in README.md, "Settings".
"""

from __future__ import annotations

import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from backend.config.environment import LOCAL_DATABASE_URL, database_settings
from backend.config.environment import env as _env
from backend.config.logs import configure_logging

# --- The application ---------------------------------------------------------------------------------------------

DEBUG = _env.flag("DEBUG", default=False)
SECRET_KEY = _env.secret("SECRET_KEY", default="not-a-secret-debug-only" if DEBUG else None)
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

# --- The database; the other two services are in towpath.py ------------------------------------------------------

DATABASE_URL = _env.text("DATABASE_URL", LOCAL_DATABASE_URL)

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

# --- The pipeline: last, because it checks all that was read -----------------------------------------------------

from backend.config.towpath import *  # noqa: E402, F403
