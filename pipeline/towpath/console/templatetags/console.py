"""Numbers and sentences, as the console writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django import template
from django.utils.html import format_html

from towpath.console import wording
from towpath.console.runbook import inline

if TYPE_CHECKING:
    from django.utils.safestring import SafeString

register = template.Library()
register.filter("seconds", wording.seconds)
register.filter("count", wording.count)
register.filter("rate", wording.rate)
register.filter("clock", wording.clock)
register.filter("moment", wording.moment)
register.filter("inline", inline)


@register.simple_tag
def is_metric(name: str, of: str = "") -> SafeString:
    """Attributes: this number is that metric's, of the outbox or shift with this name. A test compares the two."""
    return format_html('data-metric="{}" data-of="{}"', name, of)
