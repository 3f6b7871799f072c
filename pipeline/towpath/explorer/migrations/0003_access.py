"""What was recorded in the last minutes, so that repetitions are recorded once."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("towpath_explorer", "0002_export_and_share")]

    operations = [
        migrations.CreateModel(
            name="Access",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("at", models.DateTimeField(db_index=True)),
            ],
            options={"db_table": "towpath_explorer_access", "default_permissions": ()},
        )
    ]
