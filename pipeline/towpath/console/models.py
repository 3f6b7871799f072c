"""What people may do in the console, as Django permissions. Looking and acting are separate ones."""

from __future__ import annotations

from django.db import models

#: Without it, there is no page.
VIEW = "towpath_console.view_pipeline"
#: Without it, there is no button, and an action is refused.
OPERATE = "towpath_console.operate_pipeline"


class Permissions(models.Model):
    """No table: Django's permissions need a model that they belong to."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (
            ("view_pipeline", "Can see the state of the pipeline"),
            ("operate_pipeline", "Can pause, resume, recover, replay and drop"),
        )
