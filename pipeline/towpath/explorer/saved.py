"""Saved views, and the columns that a person has chosen.

Anyone can see a shared view's name and query, but only the events that they may see themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from django.db import transaction
from django.db.models import Q

from towpath.explorer import access
from towpath.explorer.columns import read as read_columns
from towpath.explorer.events import EventsViewShared
from towpath.explorer.models import Preference, SavedView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.explorer.state import State

#: The most views of one person: nobody could find their way through more.
MOST_VIEWS = 100
_MOST_CHARACTERS = 80


class NotSaved(Exception):
    """A view cannot be saved. The text tells the person why."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A view that comes with the explorer."""

    name: str
    query: str

    @property
    def url(self) -> str:
        return f"?{urlencode({'q': self.query, 'range': '30d'})}"


#: What an auditor asks first. Patterns for the ends of names find an application's own types.
AUDITS = (
    Ready("Failed sign-ins", "type:*login_failed,*log_in_failed,*sign_in_failed"),
    Ready(
        "Permission changes",
        "type:*permission*,*role_changed OR has:context.changes.is_superuser OR has:context.changes.is_staff"
        " OR has:context.changes.user_permissions OR has:context.changes.groups",
    ),
    Ready("Exports", "type:*exported,*export_ended"),
    Ready("Deletions", "type:*_deleted,*_dropped,*_erased,*_discarded"),
    Ready(
        "Who read the log",
        "type:events_searched,events_page_read,event_opened,events_exported,events_access_refused,log_read",
    ),
)


def views_of(user: Any) -> Sequence[SavedView]:
    """Return a person's own views and those that others share, ordered by name."""
    found = SavedView.objects.filter(Q(owner=user) | Q(is_shared=True)).select_related("owner")
    return list(found.order_by("name", "pk"))


def save(user: Any, name: str, state: State, *, is_shared: bool) -> SavedView:
    """Save a state under a name, and return the view. It replaces the person's view of that name. Raises NotSaved."""
    name, parameters = _checked(name), urlencode(state.parameters())
    with transaction.atomic():
        before = SavedView.objects.select_for_update().filter(owner=user, name=name).first()
        if before is None and SavedView.objects.filter(owner=user).count() >= MOST_VIEWS:
            raise NotSaved(f"You have {MOST_VIEWS} views. Delete one first.")
        view, _ = SavedView.objects.update_or_create(
            owner=user, name=name, defaults={"parameters": parameters, "is_shared": is_shared}
        )
        if is_shared or (before and before.is_shared):
            _tell(user, view)
    return view


def rename(user: Any, number: int, name: str) -> None:
    """Give a person's own view another name. Raises NotSaved, or SavedView.DoesNotExist."""
    name = _checked(name)
    with transaction.atomic():
        view = SavedView.objects.select_for_update().get(pk=number, owner=user)
        if SavedView.objects.filter(owner=user, name=name).exclude(pk=number).exists():
            raise NotSaved(f"You already have a view called {name}. Choose another name.")
        view.name = name
        view.save(update_fields=["name"])
        if view.is_shared:
            _tell(user, view)


def share(user: Any, number: int, *, is_shared: bool) -> None:
    """Share a person's own view with everyone, or stop sharing it. Raises SavedView.DoesNotExist."""
    with transaction.atomic():
        view = SavedView.objects.select_for_update().get(pk=number, owner=user)
        if view.is_shared is not is_shared:
            view.is_shared = is_shared
            view.save(update_fields=["is_shared"])
            _tell(user, view)


def delete(user: Any, number: int) -> None:
    """Delete a person's own view. Raises SavedView.DoesNotExist."""
    with transaction.atomic():
        view = SavedView.objects.select_for_update().get(pk=number, owner=user)
        view.delete()
        if view.is_shared:
            view.is_shared = False
            _tell(user, view)


def remember_columns(user: Any, state: State) -> None:
    """Make the state's columns the person's default, or forget that default if the state has no columns."""
    if state.chosen is None:
        Preference.objects.filter(owner=user).delete()
    else:
        names = ",".join(column.name for column in state.chosen)
        Preference.objects.update_or_create(owner=user, defaults={"columns": names})


def with_columns_of(user: Any, state: State) -> State:
    """Return the state with the person's default columns, unless it has columns of its own: a link shows what it
    says."""
    if state.chosen is not None:
        return state
    names = Preference.objects.filter(owner=user).values_list("columns", flat=True).first()
    try:
        return replace(state, chosen=read_columns(names, state.own) or None) if names else state
    # The project no longer has one of the columns.
    except ValueError:
        return state


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not name or not name.isprintable() or len(name) > _MOST_CHARACTERS:
        raise NotSaved(f"Give the view a name of at most {_MOST_CHARACTERS} characters.")
    return name


def _tell(user: Any, view: SavedView) -> None:
    query = dict(parse_qsl(view.parameters)).get("q", "")
    access.record(user, EventsViewShared(name=view.name, query=query, is_shared=view.is_shared))
