"""The HTTP API of users."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router, Schema, Status

from backend.users.use_cases import CreateUser, CreateUserRequest

router = Router(tags=["users"])


class UserOut(Schema):
    """A user that was created."""

    id: int
    email: str
    first_name: str
    last_name: str


class ErrorOut(Schema):
    """Why nothing was created."""

    error: str


@router.post("", response={201: UserOut, 409: ErrorOut}, summary="Create a user")
def create_user(request: HttpRequest, payload: CreateUserRequest) -> Status[Any]:  # noqa: ARG001 - the view signature of ninja
    """Creates the user and publishes `user_created`, both or neither. 409 when the email address is taken."""
    outcome = CreateUser().execute(payload)
    if outcome.result is None:
        return Status(409, {"error": outcome.error})
    return Status(201, outcome.result)
