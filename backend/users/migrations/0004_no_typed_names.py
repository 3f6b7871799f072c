from django.db import migrations


class Migration(migrations.Migration):
    """Removes what django-axes kept of failed and of successful sign-ins: names in clear. A lock of the last 15 minutes ends."""

    dependencies = [
        ("axes", "0010_accessattemptexpiration"),
        ("users", "0003_row_limits"),
    ]

    operations = [
        migrations.RunSQL(
            "TRUNCATE axes_accessattempt, axes_accesslog, axes_accessfailurelog CASCADE", migrations.RunSQL.noop
        ),
    ]
