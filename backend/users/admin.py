"""Users in the admin. Adding one goes through the same use case as the API, so it publishes the same event."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseRedirect

from backend.users.models import OutboxUser, User
from backend.users.use_cases import CreateUser, CreateUserRequest


class AddUserForm(forms.ModelForm[User]):
    """What `CreateUser` needs, checked the way it checks."""

    class Meta:
        model = User
        fields = ("email", "first_name", "last_name")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                CreateUserRequest(**{name: cleaned[name] for name in self.Meta.fields})
            except ValueError as error:
                raise forms.ValidationError(str(error)) from error
        return cleaned


class _LostRace(Exception):  # noqa: N818 - never leaves this module
    """Somebody took the address between the form's check and the insert."""


@admin.register(User)
class UserAdmin(admin.ModelAdmin[User]):
    list_display = ("email", "first_name", "last_name", "is_active", "is_staff", "created_at")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "first_name", "last_name")
    ordering = ("-id",)
    show_full_result_count = False
    readonly_fields = ("created_at", "updated_at", "last_login")
    filter_horizontal = ("groups", "user_permissions")
    exclude = ("password",)

    def get_form(self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001, FBT002 - Django's signature
        if obj is None:
            return AddUserForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> Any:  # noqa: ANN401 - Django's type
        return AddUserForm.Meta.fields if obj is None else super().get_fields(request, obj)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return super().changeform_view(request, *args, **kwargs)
        except _LostRace as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.path)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: ANN401, FBT001 - Django's signature
        if change:
            super().save_model(request, obj, form, change)
            return
        outcome = CreateUser().execute(
            CreateUserRequest(email=obj.email, first_name=obj.first_name, last_name=obj.last_name)
        )
        if outcome.result is None:
            raise _LostRace(outcome.error)
        obj.__dict__.update(outcome.result.__dict__)


@admin.register(OutboxUser)
class OutboxUserAdmin(admin.ModelAdmin[OutboxUser]):
    """Undelivered events, to look at: only the pipeline writes here."""

    list_display = ("id", "user", "xid")
    list_select_related = ("user",)
    show_full_result_count = False

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: OutboxUser | None = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: OutboxUser | None = None) -> bool:
        return False
