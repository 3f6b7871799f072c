"""Users in the admin. Everything goes through the same use cases as the API, so it publishes the same events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from backend.users.models import OutboxUser, User
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


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """The use case does not do it, although the form's checks found nothing: something has changed since."""


@admin.register(User)
class UserAdmin(admin.ModelAdmin[User]):
    list_display = ("email", "first_name", "last_name", "is_active", "is_staff", "created_at")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "first_name", "last_name")
    ordering = ("-id",)
    show_full_result_count = False
    readonly_fields = ("created_at", "updated_at", "last_login")
    filter_horizontal = ("groups", "user_permissions")
    form = ChangeUserForm

    def get_form(self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001, FBT002 - Django's signature
        if obj is None:
            return AddUserForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> Any:  # noqa: ANN401 - Django's type
        return AddUserForm.Meta.fields if obj is None else super().get_fields(request, obj)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self._or_say_why_not(request, lambda: super(UserAdmin, self).changeform_view(request, *args, **kwargs))

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self._or_say_why_not(request, lambda: super(UserAdmin, self).changelist_view(request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self._or_say_why_not(request, lambda: super(UserAdmin, self).delete_view(request, *args, **kwargs))

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: ANN401, ARG002, FBT001 - Django's signature
        outcome = UpdateUser().execute(obj.pk, form.as_request()) if change else CreateUser().execute(form.as_request())
        if outcome.result is None:
            raise _Refused(outcome.error)
        obj.__dict__.update(outcome.result.__dict__)

    def delete_model(self, request: HttpRequest, obj: User) -> None:  # noqa: ARG002 - Django's signature
        if error := DeleteUser().execute(obj.pk).error:
            raise _Refused(error)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            self.delete_model(request, user)

    def _or_say_why_not(self, request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
        """The view's answer; if the use case refuses, nothing of what the view did stays."""
        try:
            with transaction.atomic():
                return view()
        except _Refused as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.path)


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
