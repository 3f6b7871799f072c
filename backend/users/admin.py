"""Users and groups in the admin, through the same use cases as the API: the same rules, and the same events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from backend.users.events import UserRefused
from backend.users.groups import DeleteGroup, SaveGroup
from backend.users.models import User
from backend.users.rights import publish_refusal
from backend.users.use_cases import (
    CreateUser,
    CreateUserRequest,
    DeleteUser,
    UpdateAccountRequest,
    UpdateUser,
    UpdateUserRequest,
)


class _UserForm(forms.ModelForm[User]):
    """Checks what is typed the way the use case does."""

    def as_request(self) -> CreateUserRequest | UpdateUserRequest:
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                self.as_request()
            except ValueError as error:
                raise forms.ValidationError(str(error)) from error
        return cleaned


class AddUserForm(_UserForm):
    """What `CreateUser` needs."""

    class Meta:
        model = User
        fields = ("email", "first_name", "last_name")

    def as_request(self) -> CreateUserRequest:
        return CreateUserRequest(**{name: self.cleaned_data[name] for name in self.Meta.fields})


class ChangeUserForm(_UserForm):
    """What `UpdateUser` takes."""

    class Meta:
        model = User
        fields = tuple(UpdateAccountRequest.model_fields)

    def as_request(self) -> UpdateAccountRequest:
        return UpdateAccountRequest(
            **{
                name: sorted(value.values_list("pk", flat=True)) if isinstance(value, QuerySet) else value
                for name, value in self.cleaned_data.items()
                if name in UpdateAccountRequest.model_fields
            }
        )


class _Refused(Exception):
    """The use case does not do it, although the form's checks found nothing."""

    def __init__(self, error: str, refusal: UserRefused | None) -> None:
        super().__init__(error)
        self.refusal = refusal


class _ThroughUseCases(admin.ModelAdmin[Any]):
    """An admin whose `save_model` and `delete_model` raise _Refused when their use case refuses."""

    def changeform_view(self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        view = super().changeform_view
        verb = "change" if object_id else "add"
        return self._or_say_why_not(request, verb, object_id, lambda: view(request, object_id, *args, **kwargs))

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        view = super().changelist_view
        return self._or_say_why_not(request, "view", None, lambda: view(request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> Any:
        view = super().delete_view
        return self._or_say_why_not(request, "delete", object_id, lambda: view(request, object_id, *args, **kwargs))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for one in queryset:
            self.delete_model(request, one)

    def _or_say_why_not(
        self, request: HttpRequest, verb: str, object_id: str | None, view: Callable[[], HttpResponse]
    ) -> HttpResponse:
        """The view's answer; if the use case refuses, nothing of what the view did stays."""
        try:
            with transaction.atomic():
                return view()
        except _Refused as error:
            if error.refusal is not None:
                # The use case published it, too, and the view's transaction took that back.
                publish_refusal(error.refusal, _signed_in(request))
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.path)
        except PermissionDenied:
            if request.method == "POST":
                name = self.opts.model_name
                refusal = UserRefused(
                    action=f"{self.opts.app_label}.{verb}_{name}",
                    target=f"{name}:{object_id or ''}",
                    reason="The account lacks the permission",
                )
                publish_refusal(refusal, _signed_in(request))
            raise


def _signed_in(request: HttpRequest) -> User:
    """Whose session it is; the admin has let nobody else through."""
    return cast("User", request.user)


@admin.register(User)
class UserAdmin(_ThroughUseCases):
    list_display = ("email", "first_name", "last_name", "is_active", "is_staff", "created_at")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "first_name", "last_name")
    ordering = ("-id",)
    show_full_result_count = False
    readonly_fields = ("created_at", "updated_at", "last_login")
    filter_horizontal = ("groups", "user_permissions")
    form = ChangeUserForm

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        # As Django's own: `?password__startswith=` would tell anyone who may view users the hash, letter by letter.
        allowed: bool = super().lookup_allowed(lookup, value, request)
        return allowed and not lookup.startswith("password")

    def get_form(self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Django's signature
        if obj is None:
            return AddUserForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        return AddUserForm.Meta.fields if obj is None else super().get_fields(request, obj)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        if change:
            outcome = UpdateUser().execute(obj.pk, form.as_request(), by=_signed_in(request))
            result, error, refusal = outcome.result, outcome.error, outcome.refusal
        else:
            created = CreateUser().execute(form.as_request())
            result, error, refusal = created.result, created.error, None
        if result is None:
            raise _Refused(error, refusal)
        obj.__dict__.update(result.__dict__)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        outcome = DeleteUser().execute(obj.pk, by=_signed_in(request))
        if outcome.error:
            raise _Refused(outcome.error, outcome.refusal)


# Django's own saves without asking who grants what.
admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(_ThroughUseCases, DjangoGroupAdmin):
    def save_model(self, request: HttpRequest, obj: Group, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        permissions = sorted(form.cleaned_data["permissions"].values_list("pk", flat=True))
        outcome = SaveGroup().execute(
            obj.pk if change else None, name=form.cleaned_data["name"], permissions=permissions, by=_signed_in(request)
        )
        if outcome.result is None:
            raise _Refused(outcome.refusal.reason if outcome.refusal else "", outcome.refusal)
        obj.__dict__.update(outcome.result.__dict__)

    def delete_model(self, request: HttpRequest, obj: Group) -> None:
        if refusal := DeleteGroup().execute(obj.pk, by=_signed_in(request)).refusal:
            raise _Refused(refusal.reason, refusal)
