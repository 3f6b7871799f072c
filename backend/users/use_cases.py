"""What the application does with users. Each use case is one transaction: the change and its event, or neither.

`by` is the account that asks for it, whose rights are looked at (rights.py). Without it the code asks for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backend.users.events import Change, UserCreated, UserDeleted, UserRefused, UserUpdated
from backend.users.models import User
from backend.users.rights import Actor, NotAllowedError, refused
from towpath import publish
from towpath.outbox.models import Outbox

__all__ = [
    "CreateUser",
    "CreateUserOutcome",
    "CreateUserRequest",
    "DeleteUser",
    "DeleteUserOutcome",
    "UpdateAccountRequest",
    "UpdateUser",
    "UpdateUserOutcome",
    "UpdateUserRequest",
    "UserCreated",
]

#: Without one of these a superuser is none in the admin.
_FLAGS = ("is_active", "is_staff", "is_superuser")

EMAIL_TAKEN = "User with this email already exists"
NOT_FOUND = "There is no such user"


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    return value


def _deliverable_in_form(value: str) -> str:
    import email_validator  # noqa: PLC0415 - a twentieth of every process's start, and workers validate nothing

    # The address is stored as it was typed: the check's normalised form is not used.
    email_validator.validate_email(value, check_deliverability=False, test_environment=True)
    return value


Name = Annotated[str, Field(max_length=150), AfterValidator(_without_nul)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_deliverable_in_form)]


class CreateUserRequest(BaseModel):
    """Raises pydantic's ValidationError, which names the field, when a value cannot be stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # The examples are what the page of the API's documentation fills in.
    email: Annotated[Email, Field(examples=["ada@example.com"])]
    first_name: Annotated[Name, Field(examples=["Ada"])]
    last_name: Annotated[Name, Field(examples=["Lovelace"])]


@dataclass(frozen=True, slots=True)
class CreateUserOutcome:
    """`result` is the new user, or None with the reason in `error`."""

    result: User | None
    error: str


class CreateUser:
    """Creates a user and publishes `user_created`, both or neither."""

    EMAIL_TAKEN = EMAIL_TAKEN

    def execute(self, request: CreateUserRequest) -> CreateUserOutcome:
        """Of requests that race for one email, exactly one gets the user; the others get the error and no event."""
        user = User(email=request.email, first_name=request.first_name, last_name=request.last_name)
        user.set_unusable_password()
        try:
            # The unique index decides the race. A look-up before the insert would not: both could find nothing.
            User.objects.add(user)
        except IntegrityError as error:
            if not _is_about_email(error):
                raise
            return CreateUserOutcome(result=None, error=EMAIL_TAKEN)
        return CreateUserOutcome(result=user, error="")


class UpdateUserRequest(BaseModel):
    """New values; None leaves a value as it is. Raises ValidationError, which names the field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    email: Annotated[Email | None, Field(examples=["ada@example.org"])] = None
    first_name: Annotated[Name | None, Field(examples=["Augusta Ada"])] = None
    last_name: Annotated[Name | None, Field(examples=["King"])] = None


class UpdateAccountRequest(UpdateUserRequest):
    """What only an administrator may change."""

    is_active: bool | None = None
    is_staff: bool | None = None
    is_superuser: bool | None = None
    #: Primary keys, all of them.
    groups: list[int] | None = None
    user_permissions: list[int] | None = None


@dataclass(frozen=True, slots=True)
class UpdateUserOutcome:
    """`result` is the user as it is now, or None with the reason in `error`."""

    result: User | None
    error: str
    #: What was published if the account that asked may not do this.
    refusal: UserRefused | None = None


class UpdateUser:
    """Changes a user and publishes `user_updated` with what changed, both or neither; no event if nothing did."""

    PERMISSION = "users.change_user"

    def execute(self, user_id: int, request: UpdateUserRequest, *, by: User | None = None) -> UpdateUserOutcome:
        """The values before are those of this change: any other change of the user at the same time waits."""
        try:
            with transaction.atomic():
                actor = None if by is None else Actor.locked(by, permission=self.PERMISSION)
                user = User.objects.select_for_update().filter(pk=user_id).first()
                if user is None:
                    return UpdateUserOutcome(result=None, error=NOT_FOUND)
                if actor is not None:
                    _require_to_update(actor, user, request)
                if changes := _apply(request, user):
                    publish(UserUpdated(user_id=user.pk, changes=changes))
        except NotAllowedError as error:
            refusal = refused(self.PERMISSION, f"user:{user_id}", error)
            return UpdateUserOutcome(result=None, error=refusal.reason, refusal=refusal)
        except IntegrityError as error:
            if not _is_about_email(error):
                raise
            return UpdateUserOutcome(result=None, error=EMAIL_TAKEN)
        return UpdateUserOutcome(result=user, error="")


@dataclass(frozen=True, slots=True)
class DeleteUserOutcome:
    """`error` is empty, or says why the user is still there."""

    error: str
    #: What was published if the account that asked may not do this.
    refusal: UserRefused | None = None


class DeleteUser:
    """Deletes a user and publishes `user_deleted`, both or neither.

    Not while an event that is read through the user's row is undelivered: deleting the row would lose the event. That
    takes a second or two after the user was created (longer while the event store is away), and the caller is told
    to try again.
    """

    PERMISSION = "users.delete_user"
    UNDELIVERED = "Events about this user are still being delivered. Try again in a few seconds"

    def execute(self, user_id: int, *, by: User | None = None) -> DeleteUserOutcome:
        """A publisher of an event about the user waits at the same time, and then finds no user."""
        try:
            return self._delete(user_id, by)
        except NotAllowedError as error:
            refusal = refused(self.PERMISSION, f"user:{user_id}", error)
            return DeleteUserOutcome(error=refusal.reason, refusal=refusal)

    def _delete(self, user_id: int, by: User | None) -> DeleteUserOutcome:
        with transaction.atomic():
            actor = None if by is None else Actor.locked(by, permission=self.PERMISSION)
            user = User.objects.select_for_update().filter(pk=user_id).first()
            if user is None:
                return DeleteUserOutcome(error=NOT_FOUND)
            if actor is not None:
                actor.require_to_act_on(user)
                actor.require_another_superuser(user)
            event = UserDeleted(user_id=user.pk, email=user.email, first_name=user.first_name, last_name=user.last_name)
            try:
                user.delete()
            except ProtectedError as error:
                # Raised before anything is deleted.
                if not all(isinstance(one, Outbox) for one in error.protected_objects):
                    raise
                return DeleteUserOutcome(error=self.UNDELIVERED)
            publish(event)
        return DeleteUserOutcome(error="")


def _require_to_update(actor: Actor, user: User, request: UpdateUserRequest) -> None:
    """Raise NotAllowedError if the actor may not change this account, or not in this way."""
    actor.require_to_act_on(user)
    if not isinstance(request, UpdateAccountRequest):
        return
    actor.require_to_grant(
        is_superuser=bool(request.is_superuser),
        is_staff=bool(request.is_staff),
        groups=request.groups or (),
        permissions=request.user_permissions or (),
    )
    if any(getattr(user, flag) and getattr(request, flag) is False for flag in _FLAGS):
        actor.require_another_superuser(user)


def _apply(request: UpdateUserRequest, user: User) -> dict[str, Change]:
    """Save what is asked for and is not so already; that, before and after."""
    changes: dict[str, Change] = {}
    update_fields = ["updated_at"]
    for name, new in request.model_dump(exclude_none=True).items():
        is_membership = name in {"groups", "user_permissions"}
        old = sorted(getattr(user, name).values_list("pk", flat=True)) if is_membership else getattr(user, name)
        if old == new:
            continue
        changes[name] = Change(old=old, new=new)
        if is_membership:
            getattr(user, name).set(new)
        else:
            setattr(user, name, new)
            update_fields.append(name)
    if changes:
        user.save(update_fields=update_fields)
    return changes


def _is_about_email(error: IntegrityError) -> bool:
    """True if the unique index on the email address refused the row."""
    diagnostics = getattr(error.__cause__, "diag", None)
    return "email" in (getattr(diagnostics, "constraint_name", None) or "")
