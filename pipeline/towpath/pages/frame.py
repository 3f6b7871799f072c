"""The frame around a page: where a person can go from here, in which environment, and as whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.urls import NoReverseMatch, reverse

from towpath.conf.current import config

if TYPE_CHECKING:
    from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of the navigation."""

    name: str
    url: str
    is_here: bool


#: Name, and the URL pattern that it leads to. One that the project has no URL for is left out.
_PLACES = (("Events", "explorer:page"), ("Pipeline", "console:page"), ("Admin", "admin:index"))


def frame(request: HttpRequest, *, here: str) -> dict[str, Any]:
    """The context that `towpath/base.html` needs. `here` is the name of the place that the page belongs to."""
    return {
        "places": [place for name, pattern in _PLACES if (place := _place(request, name, pattern, here))],
        "environment": config().environment,
        "person": request.user.get_username(),
        "sign_out_url": _url("admin:logout"),
    }


def _place(request: HttpRequest, name: str, pattern: str, here: str) -> Place | None:
    url = _url(pattern)
    if not url or (name == "Admin" and not getattr(request.user, "is_staff", False)):
        return None
    return Place(name, url, is_here=name == here)


def _url(pattern: str) -> str:
    try:
        return reverse(pattern)
    except NoReverseMatch:
        return ""
