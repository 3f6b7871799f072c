"""Two more permissions: to export events, and to share views."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("towpath_explorer", "0001_initial")]

    operations = [
        migrations.AlterModelOptions(
            name="permissions",
            options={
                "default_permissions": (),
                "managed": False,
                "permissions": (
                    ("view_events", "Can search and read events"),
                    ("export_events", "Can export events"),
                    ("share_views", "Can share views with everybody"),
                ),
            },
        )
    ]
