"""The permissions of the console. No table."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="Permissions",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"))
            ],
            options={
                "managed": False,
                "default_permissions": (),
                "permissions": (
                    ("view_pipeline", "Can see the state of the pipeline"),
                    ("operate_pipeline", "Can pause, resume, recover, replay and drop"),
                ),
            },
        )
    ]
