"""The HTTP API of users. Anybody may sign up; the rest takes a session with Django's own permission.

What such an account may do to another one, the use cases decide, for the admin as well.
"""

from __future__ import annotations

from typing import Any, cast

from django.http import HttpRequest
from ninja import Router, Schema, Status

from backend.users.models import User
from backend.users.use_cases import (
    NOT_FOUND,
    CreateUser,
    CreateUserRequest,
    DeleteUser,
    DeleteUserOutcome,
    UpdateUser,
    UpdateUserOutcome,
    UpdateUserRequest,
)

router = Router(tags=["users"])


class UserOut(Schema):
    """A user as it is stored."""

    id: int
    email: str
    first_name: str
    last_name: str


class ErrorOut(Schema):
    """Why nothing was done."""

    error: str


class RefusedOut(Schema):
    """Why the request could not be taken."""

    detail: str


class InvalidField(Schema):
    """`loc` leads to the field, `msg` says what is wrong with it, and `type` is the name of the rule."""

    loc: list[str | int]
    msg: str
    type: str


class InvalidOut(Schema):
    """What is wrong with the request's values, field by field."""

    detail: list[InvalidField]


#: What every request with a body may get.
_OF_A_BODY: dict[int, Any] = {400: RefusedOut, 413: RefusedOut, 415: RefusedOut, 422: InvalidOut}
#: What every request that takes a session may get.
_OF_A_SESSION: dict[int, Any] = {401: RefusedOut, 403: ErrorOut, 404: ErrorOut}


@router.post("", response={201: UserOut, 409: ErrorOut, **_OF_A_BODY}, auth=None, summary="Create a user")
def create_user(request: HttpRequest, payload: CreateUserRequest) -> Status[Any]:  # noqa: ARG001 - the view signature of ninja
    """Creates the user and publishes `user_created`, both or neither. 409 when the email address is taken."""
    outcome = CreateUser().execute(payload)
    if outcome.result is None:
        return Status(409, {"error": outcome.error})
    return Status(201, outcome.result)


@router.get("/{int:user_id}", response={200: UserOut, **_OF_A_SESSION}, summary="Show a user")
def show_user(request: HttpRequest, user_id: int) -> Status[Any]:
    """The user as it is now. An account sees itself; others take the permission to view users."""
    viewer = _signed_in(request)
    if viewer.pk != user_id and not viewer.has_perm("users.view_user"):
        return Status(403, {"error": "The account lacks the permission"})
    user = User.objects.filter(pk=user_id).first()
    return Status(404, {"error": NOT_FOUND}) if user is None else Status(200, user)


@router.patch(
    "/{int:user_id}", response={200: UserOut, 409: ErrorOut, **_OF_A_BODY, **_OF_A_SESSION}, summary="Change a user"
)
def update_user(request: HttpRequest, user_id: int, payload: UpdateUserRequest) -> Status[Any]:
    """Changes what is given and publishes `user_updated` with what changed. 409 when the email address is taken."""
    outcome = UpdateUser().execute(user_id, payload, by=_signed_in(request))
    if outcome.result is None:
        return Status(_status(outcome), {"error": outcome.error})
    return Status(200, outcome.result)


@router.delete("/{int:user_id}", response={204: None, 409: ErrorOut, **_OF_A_SESSION}, summary="Delete a user")
def delete_user(request: HttpRequest, user_id: int) -> Status[Any]:
    """Deletes the user and publishes `user_deleted`. 409 while events about the user are still being delivered."""
    outcome = DeleteUser().execute(user_id, by=_signed_in(request))
    if outcome.error:
        return Status(_status(outcome), {"error": outcome.error})
    return Status(204, None)


def _signed_in(request: HttpRequest) -> User:
    """Whose session it is; the API's `auth` has let nobody else through."""
    return cast("User", request.user)


def _status(outcome: UpdateUserOutcome | DeleteUserOutcome) -> int:
    if outcome.refusal is not None:
        return 403
    return 404 if outcome.error == NOT_FOUND else 409
