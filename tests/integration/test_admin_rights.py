"""What the admin may do with evidence: look at it. Holds for models that are registered later, too."""

from __future__ import annotations

from django.contrib import admin
from django.test import RequestFactory

from backend.users.models import OutboxUser
from tests.integration.superusers import superuser
from towpath.outbox.models import Outbox


def test_nobody_adds_changes_or_deletes_undelivered_events_or_the_ledger() -> None:
    request = RequestFactory().get("/admin/")
    request.user = superuser()
    evidence = {
        model: site
        for model, site in admin.site._registry.items()
        if issubclass(model, Outbox) or model._meta.app_label == "towpath"
    }
    assert OutboxUser in evidence

    for model, site in evidence.items():
        rights = site.get_model_perms(request)
        assert rights == {"add": False, "change": False, "delete": False, "view": True}, model
        assert site.get_actions(request) == {}, model
