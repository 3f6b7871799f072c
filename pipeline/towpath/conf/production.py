"""What a project must set before it runs anywhere but on its author's machine.

Services that are not set are the local stack's, on 127.0.0.1. In production that is a forgotten variable, so a process
that would look there ends at its start. Production is where Django's own DEBUG is off, outside of tests.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured

from towpath.conf.config import knobs
from towpath.conf.current import config


def forgotten_services() -> Iterator[tuple[str, str]]:
    """Yield the variable of each service that is not set, and the address that stands for it."""
    for knob in knobs():
        # While it is empty, a variable without a default stands for another one.
        if knob.kind == "URL" and knob.default and getattr(config(), knob.name) == knob.default:
            yield config().variable_prefix + knob.variable, str(knob.default)


def require_services() -> None:
    """Raise ImproperlyConfigured, which names each variable, if a service is not set in production."""
    if settings.DEBUG or hasattr(mail, "outbox"):  # Django's test runners make that
        return
    if forgotten := [*forgotten_services()]:
        lines = (f"\n  - {variable} is not set: it would be {address}" for variable, address in forgotten)
        raise ImproperlyConfigured(
            "With DEBUG off, every service must be set:" + "".join(lines) + "\nSee docs/settings.md."
        )
