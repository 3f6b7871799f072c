"""The explorer's permissions, and what it remembers about people.

Each right has its own permission: reading, exporting, and sharing views.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models

#: Required for every page.
VIEW = "towpath_explorer.view_events"
#: Required to download events as a file.
EXPORT = "towpath_explorer.export_events"
#: Required to share one's own view with everybody.
SHARE = "towpath_explorer.share_views"


class Permissions(models.Model):
    """A model without a table: Django's permissions must belong to a model."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (
            ("view_events", "Can search and read events"),
            ("export_events", "Can export events"),
            ("share_views", "Can share views with everybody"),
        )


class Access(models.Model):
    """Something that was recorded in the last minutes. Only `towpath.explorer.access` reads and writes it."""

    #: The SHA-256 of who did what, which the table itself does not reveal.
    digest = models.CharField(max_length=64, primary_key=True)
    at = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "towpath_explorer_access"
        default_permissions = ()


class SavedView(models.Model):
    """A named state of the page: one person's own, or shared with everybody."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=80)
    #: The query part of the page's URL.
    parameters = models.TextField()
    is_shared = models.BooleanField(default=False)

    class Meta:
        db_table = "towpath_explorer_view"
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=("owner", "name"), name="towpath_explorer_view_name")]


class Preference(models.Model):
    """What the explorer remembers about a person."""

    owner = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="+")
    #: As the page's URL has them.
    columns = models.TextField()

    class Meta:
        db_table = "towpath_explorer_preference"
        default_permissions = ()
