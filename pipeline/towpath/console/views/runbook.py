"""The runbook, for people who have no checkout at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.shortcuts import render

from towpath.console.runbook import sections
from towpath.console.views.access import for_viewers
from towpath.pages.frame import frame

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


@for_viewers
def runbook(request: HttpRequest) -> HttpResponse:
    """Every section."""
    context = {"sections": list(sections().values())}
    return render(request, "towpath/console/runbook.html", frame(request, here="Pipeline") | context)
