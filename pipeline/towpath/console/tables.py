"""Dead letters, windows and every outbox in Django's admin: read-only.

A table may have millions of rows. So nothing here counts them, sorts by a column without an index, or lists the values
of a column. The newest rows are shown, up to a limit. The address of a page changes neither order nor selection: by a
condition on a payload, people could find out what it says without reading it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_permission_codename
from django.core.paginator import Paginator
from django.db import DatabaseError, models, transaction
from django.utils.functional import cached_property
from django.utils.html import format_html

from towpath import driver
from towpath.console.actions import person
from towpath.console.models import VIEW
from towpath.events import LogRead
from towpath.flow.deadletters import event_of
from towpath.flow.operating import storable
from towpath.models import DeadLetter, Window
from towpath.outbox.models import Outbox, all_outboxes
from towpath.outbox.publishing import publish

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite
    from django.http import HttpRequest, HttpResponse

#: The most rows that can be paged through. Anyone who needs an older one knows its number.
MOST_ROWS = 1000
#: The explorer's, if it is installed.
_READ_EVENTS = "towpath_explorer.view_events"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # Django's is not generic at run time
    """Pages of the first rows, up to the limit: found by index, and not counted."""

    @cached_property
    def count(self) -> int:
        return len(self.object_list.values_list("pk")[:MOST_ROWS])  # type: ignore[attr-defined]


class _Newest(ChangeList):
    def get_ordering(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> list[Any]:  # noqa: ARG002 - Django's
        return [*(self.model_admin.ordering or ())]


class _ReadOnly(admin.ModelAdmin[Any]):
    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 0
    sortable_by = ()
    actions = None

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:  # noqa: ARG002 - Django's
        return _Newest

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:  # noqa: ARG002 - Django's
        return False

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return request.user.has_perm(VIEW) or super().has_view_permission(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: models.Model | None = None) -> bool:
        return False


class DeadLetterAdmin(_ReadOnly):
    """Rows that the event store refuses. What is done about them is done in the console."""

    list_display = ("id", "outbox", "row_id", "at", "first_line")
    ordering = ("-id",)

    @admin.display(description="error")
    def first_line(self, letter: DeadLetter) -> str:
        return letter.error.partition("\n")[0][:200]


class WindowAdmin(_ReadOnly):
    """Windows and receipts, the newest first."""

    list_display = ("number", "id", "rows", "sealed_at", "acked_at", "attempts", "last_error")
    list_display_links = ("number", "id")
    ordering = ("-number",)


class OutboxAdmin(_ReadOnly):
    """Undelivered events. The list does not read what they say; the page of one shows it, and that is recorded."""

    list_display = ("id", "xid")
    ordering = ("-id",)
    readonly_fields = ("event",)

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Seeing the pipeline's state and reading what events say are separate permissions."""
        if obj is None:
            return super().has_view_permission(request)
        return self._may_read(request)

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> Any:
        return super().get_list_display_links(request, list_display) if self._may_read(request) else None

    def _may_read(self, request: HttpRequest) -> bool:
        own = get_permission_codename("view", self.opts)
        return request.user.has_perm(f"{self.opts.app_label}.{own}") or request.user.has_perms([VIEW, _READ_EVENTS])

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows = super().get_queryset(request)
        payload = [field.name for field in self.opts.concrete_fields if field.column == self.model.payload_column]
        return rows.defer(*payload)

    def get_fields(self, _request: HttpRequest, _obj: models.Model | None = None) -> Any:
        hidden = {self.model.payload_column}
        return [*(field.name for field in self.opts.concrete_fields if field.column not in hidden), "event"]

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        # Before it is shown: without a record, nothing is shown.
        if self._may_read(request):
            with transaction.atomic():
                publish(
                    LogRead(
                        tool="admin",
                        rows=1,
                        detail=storable(f"{self.opts.db_table} {object_id}"),
                        read_by=person(request),
                    )
                )
        return super().change_view(request, object_id, *args, **kwargs)

    @admin.display(description="as it would be stored")
    def event(self, row: Outbox) -> str:
        try:
            with transaction.atomic():
                found = event_of(self.opts.db_table, int(row.pk))
        except DatabaseError as error:
            if not driver.is_privilege_missing(error):
                raise
            return "The web process's PostgreSQL role may not read the contents of undelivered events."
        return format_html("<pre>{}</pre>", json.dumps(found, default=str, indent=2, ensure_ascii=False))


def register(site: AdminSite) -> None:
    """Show the tables in the admin, except those that the project registers itself."""
    shown: list[tuple[type[models.Model], type[_ReadOnly]]] = [(DeadLetter, DeadLetterAdmin), (Window, WindowAdmin)]
    shown += [(outbox, OutboxAdmin) for outbox in all_outboxes().values()]
    for model, model_admin in shown:
        if not site.is_registered(model):
            site.register(model, model_admin)
