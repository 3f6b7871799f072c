"""The URLs of the console, below wherever a project includes them."""

from __future__ import annotations

from django.urls import path

from towpath.console.views.dispatch import pause, resume
from towpath.console.views.letters import drop, letters, replay
from towpath.console.views.page import live, page
from towpath.console.views.recovery import recover
from towpath.console.views.runbook import runbook

app_name = "console"

urlpatterns = [
    path("", page, name="page"),
    path("live", live, name="live"),
    path("runbook", runbook, name="runbook"),
    path("pause", pause, name="pause"),
    path("resume", resume, name="resume"),
    path("recover", recover, name="recover"),
    path("dead-letters", letters, name="letters"),
    path("dead-letters/replay", replay, name="replay"),
    path("dead-letters/drop", drop, name="drop"),
]
