"""What the application does with users. Each use case is one transaction: the change and its event, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import email_validator
from django.db import IntegrityError, transaction
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backend.users.events import UserCreated
from backend.users.models import OutboxUser, User

__all__ = ["CreateUser", "CreateUserOutcome", "CreateUserRequest", "UserCreated"]


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    return value


def _deliverable_in_form(value: str) -> str:
    # The address is stored as it was typed: the check's normalised form is not used.
    email_validator.validate_email(value, check_deliverability=False, test_environment=True)
    return value


Name = Annotated[str, Field(max_length=150), AfterValidator(_without_nul)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_deliverable_in_form)]


class CreateUserRequest(BaseModel):
    """Raises pydantic's ValidationError, which names the field, when a value cannot be stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    email: Email
    first_name: Name
    last_name: Name


@dataclass(frozen=True, slots=True)
class CreateUserOutcome:
    """`result` is the new user, or None with the reason in `error`."""

    result: User | None
    error: str


class CreateUser:
    """Creates a user and publishes `user_created`, both or neither."""

    EMAIL_TAKEN = "User with this email already exists"

    def execute(self, request: CreateUserRequest) -> CreateUserOutcome:
        """Of requests that race for one email, exactly one gets the user; the others get the error and no event."""
        user = User(email=request.email, first_name=request.first_name, last_name=request.last_name)
        user.set_unusable_password()
        try:
            # The unique index decides the race. A look-up before the insert would not: both could find nothing.
            with transaction.atomic():
                user.save(force_insert=True)
                OutboxUser.objects.create(user=user)
        except IntegrityError as error:
            if not _is_about_email(error):
                raise
            return CreateUserOutcome(result=None, error=self.EMAIL_TAKEN)
        return CreateUserOutcome(result=user, error="")


def _is_about_email(error: IntegrityError) -> bool:
    """True if the unique index on the email address refused the row."""
    diagnostics = getattr(error.__cause__, "diag", None)
    return "email" in (getattr(diagnostics, "constraint_name", None) or "")
