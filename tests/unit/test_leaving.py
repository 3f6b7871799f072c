"""What an application's migrations keep of Towpath: one module, which needs Django only."""

from __future__ import annotations

import re
import subprocess
import sys

from backend.users.models import OutboxUserChange
from deploy.local.process import PROJECT
from towpath.outbox.context import bind

_MIGRATION = "backend.users.migrations.0001_initial"

_IMPORT_IT = f"""
import importlib, sys
from django.conf import settings

settings.configure(AUTH_USER_MODEL="users.User")
importlib.import_module({_MIGRATION!r})
print(*sorted(name for name in sys.modules if name.split(".")[0] == "towpath"))
"""


def test_migrations_of_an_application_name_nothing_but_the_fields() -> None:
    text = (PROJECT / f"{_MIGRATION.replace('.', '/')}.py").read_text()

    assert set(re.findall(r"\btowpath\.[\w.]+", text)) == {
        "towpath.outbox.fields",
        "towpath.outbox.fields.RowLimits",
        "towpath.outbox.fields.TableStorage",
        "towpath.outbox.fields.TransactionIndex",
        "towpath.outbox.fields.Xid8Field",
    }


def test_they_are_read_without_a_setting_or_an_application_of_towpath_s() -> None:
    path = f"{PROJECT}:{PROJECT / 'pipeline'}"
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_IT], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["towpath", "towpath.outbox", "towpath.outbox.fields"], done.stderr


def test_a_row_takes_what_is_bound_although_its_migration_has_a_plain_field() -> None:
    field = OutboxUserChange._meta.get_field("bound")

    with bind(actor="user:7"):
        row = OutboxUserChange(user_id=1)

    assert field.deconstruct()[1:] == ("django.db.models.JSONField", [], {"null": True, "editable": False})
    assert row.bound == {"actor": "user:7"}
