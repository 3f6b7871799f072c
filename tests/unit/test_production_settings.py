"""Settings as in production: nothing that `check --deploy` warns of, no default that works, secrets from files."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deploy.local.process import PROJECT
from tests.forked import run_python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEY = "3Vb0QmJ-ZkYx8uTf1rWc6nHs9aLd2eGp7iKo4wEyRtUvXzSb5CqMjN_hPg"
SERVICES = {
    "DATABASE_URL": "postgresql://towpath:s3cret-of-postgres@db.internal:5432/towpath",
    "RABBITMQ_URL": "amqps://towpath:s3cret-of-rabbitmq@mq.internal:5671/towpath",
    "EVENT_STORE_URL": "clickhouses://writer:s3cret-of-clickhouse@ch.internal:8443/default",
}
PRODUCTION = {
    **SERVICES,
    "SECRET_KEY": KEY,
    "EVENT_HASH_KEY": KEY[::-1],
    "ALLOWED_HOSTS": "events.example.com",
    "HTTPS_ONLY": "true",
    "ENVIRONMENT": "production",
}


def manage(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """manage.py with these variables and none of the tests' own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return run_python("manage.py", *arguments, cwd=PROJECT, env={**kept, **environment})


def check(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return manage(environment, "check", "--deploy", "--fail-level", "WARNING")


def test_django_s_deployment_check_finds_nothing() -> None:
    done = check(PRODUCTION)

    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize(
    ("change", "warning"),
    [({"HTTPS_ONLY": "false"}, "security.W008"), ({"DEBUG": "true"}, "security.W018")],
)
def test_the_deployment_check_looks_at_these_settings(change: dict[str, str], warning: str) -> None:
    done = check({**PRODUCTION, **change})

    assert done.returncode == 1
    assert warning in done.stderr


def test_a_key_that_can_be_guessed_is_refused_outside_of_debug() -> None:
    done = check({**PRODUCTION, "SECRET_KEY": "not-a-secret-debug-only", "EVENT_HASH_KEY": "x" * 60})

    assert done.returncode == 1
    assert "- SECRET_KEY is too easy to guess" in done.stderr
    assert "- EVENT_HASH_KEY is too easy to guess" in done.stderr


def test_nothing_starts_without_a_key_outside_of_debug() -> None:
    without = {name: value for name, value in PRODUCTION.items() if not name.endswith("_KEY")}

    done = check(without)

    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("  - ")] == [
        line for line in done.stderr.splitlines() if "- SECRET_KEY is not set" in line
    ]


def test_nothing_is_missing_where_verification_and_the_explorer_have_no_user_of_their_own() -> None:
    assert not {"EVENT_STORE_VERIFIER_URL", "EVENT_STORE_EXPLORER_URL"} & {*PRODUCTION}

    errors = check(PRODUCTION).stderr
    assert "VERIFIER" not in errors
    assert "EXPLORER" not in errors


def settings_as_read(environment: Mapping[str, str]) -> dict[str, str]:
    """What the settings say in a process of their own."""
    code = (
        "import json; from django.conf import settings as s; print(json.dumps({"
        "'DATABASE_URL': s.DATABASE_URL, 'RABBITMQ_URL': s.TOWPATH.rabbitmq_url,"
        "'EVENT_STORE_URL': s.TOWPATH.event_store_url,"
        "'EVENT_STORE_VERIFIER_URL': s.TOWPATH.verifier_store_url,"
        "'EVENT_STORE_EXPLORER_URL': s.TOWPATH.explorer_store_url,"
        "'SECRET_KEY': s.SECRET_KEY, 'EVENT_HASH_KEY': s.TOWPATH.event_hash_key,"
        "'password': s.DATABASES['default']['PASSWORD']}))"
    )
    done = manage(environment, "shell", "--no-imports", "-c", code)
    assert done.returncode == 0, done.stderr
    values: dict[str, str] = json.loads(done.stdout)
    return values


def test_every_secret_can_come_from_a_file(tmp_path: Path) -> None:
    secrets = {name: PRODUCTION[name] for name in (*SERVICES, "SECRET_KEY", "EVENT_HASH_KEY")}
    secrets["EVENT_STORE_VERIFIER_URL"] = "clickhouses://verifier:s3cret-of-clickhouse@ch.internal:8443/default"
    secrets["EVENT_STORE_EXPLORER_URL"] = "clickhouses://explorer:s3cret-of-clickhouse@ch.internal:8443/default"
    environment = {name: value for name, value in PRODUCTION.items() if name not in secrets}
    for name, value in secrets.items():
        (tmp_path / name).write_text(f"{value}\n")
        environment[f"{name}_FILE"] = str(tmp_path / name)

    read = settings_as_read(environment)

    assert read == {**secrets, "password": "s3cret-of-postgres"}


@pytest.mark.parametrize("is_json", ["true", "false"])
def test_no_log_line_shows_the_key_that_signs_seals(is_json: str) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    code = (
        "import logging; from django.conf import settings;"
        "logging.getLogger('project').warning('the key is %s', settings.TOWPATH.seal_key)"
    )

    done = manage({**PRODUCTION, "SEAL_KEY": pem, "LOG_JSON": is_json}, "shell", "--no-imports", "-c", code)

    assert "the key is" in done.stderr
    assert pem.splitlines()[1] not in done.stderr


@pytest.mark.parametrize("name", ["EVENT_HASH_KEY", "SECRET_KEY"])
def test_hashes_of_events_have_a_key_of_their_own_or_the_secret_key(name: str) -> None:
    without = {key: value for key, value in PRODUCTION.items() if key != "EVENT_HASH_KEY" or name == key}
    code = (
        "from towpath.outbox.event import Event, Hashed\n"
        "class Called(Event): number: Hashed[str]\n"
        "print(Called(number='555').model_dump()['number'])"
    )

    done = manage(without, "shell", "--no-imports", "-c", code)

    assert done.stdout.strip() == hmac.new(PRODUCTION[name].encode(), b"555", "sha256").hexdigest(), done.stderr


def test_a_bad_url_is_named_and_not_shown() -> None:
    bad = {
        "DATABASE_URL": "mysql://towpath:s3cret-of-postgres@db.internal/towpath",
        # An unescaped slash in a password.
        "RABBITMQ_URL": "amqp://towpath:s3cret/of-rabbitmq@mq.internal/towpath",
        "EVENT_STORE_URL": "clickhouse://writer:s3cret-of-\N{DOUBLE QUESTION MARK}@ch.internal/default",
        "EVENT_STORE_EXPLORER_URL": "clickhouse://explorer:s3cret/of-clickhouse@ch.internal/default",
        "EVENT_STORE_VERIFIER_URL": "clickhouse://verifier:s3cret/of-clickhouse@ch.internal/default",
    }

    done = check({**PRODUCTION, **bad})

    assert done.returncode == 1
    assert all(f"- {name} " in done.stderr for name in bad)
    assert "s3cret" not in done.stdout + done.stderr


# --- What was forgotten ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgotten", ["RABBITMQ_URL", "EVENT_STORE_URL"])
def test_the_deployment_check_names_a_service_that_was_forgotten(forgotten: str) -> None:
    done = check({name: value for name, value in PRODUCTION.items() if name != forgotten})

    assert done.returncode == 1
    assert f"(pipeline.E021) {forgotten} is not set" in done.stderr
    assert done.stderr.count("E021") == 1
    assert "W004" not in done.stderr


def test_the_deployment_check_names_the_environment_of_events_that_was_forgotten() -> None:
    done = check({name: value for name, value in PRODUCTION.items() if name != "ENVIRONMENT"})

    assert "(pipeline.W004) ENVIRONMENT is not set: every event is stored with the environment 'local'" in done.stderr


LAUNCH = ("-m", "towpath.conf.launch")
WEB = "import backend.config.wsgi; print('started')"
STARTS = {
    "web": ("-c", WEB),
    "worker": ("manage.py", "pipeline", "run", "dispatcher"),
    "scheduler": (*LAUNCH, "periodiq", "django_dramatiq.setup", "towpath.actors"),
}


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "pipeline")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env={**kept, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "backend.config.settings", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("process", STARTS)
def test_no_process_starts_in_production_without_its_services(process: str) -> None:
    done = start({name: value for name, value in PRODUCTION.items() if name not in SERVICES}, *STARTS[process])

    assert done.returncode != 0
    assert "With DEBUG off, every service must be set" in done.stderr
    assert "RABBITMQ_URL is not set: it would be amqp://127.0.0.1" in done.stderr
    assert "EVENT_STORE_URL is not set: it would be clickhouse://127.0.0.1" in done.stderr


@pytest.mark.parametrize("given", [{"DEBUG": "true"}, SERVICES], ids=["with DEBUG", "with its services"])
def test_the_web_starts_with_debug_or_with_its_services(given: dict[str, str]) -> None:
    without = {name: value for name, value in PRODUCTION.items() if name not in SERVICES}

    assert start({**without, **given}, *STARTS["web"]).stdout.endswith("started\n")


def test_no_request_waits_for_a_collection_of_what_the_web_process_has_loaded() -> None:
    """A hundred thousand objects, which took 0.2 s of every few requests."""
    done = start(PRODUCTION, "-c", "import gc, backend.config.wsgi, backend.config.urls; print(len(gc.get_objects()))")

    assert int(done.stdout) < 1_000, done.stderr
