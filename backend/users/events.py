"""The events of the users application."""

from __future__ import annotations

from pydantic import BaseModel, JsonValue

from towpath import Event
from towpath.outbox.event import Hashed


class UserCreated(Event):
    """A user was created."""

    event_outcome = "success"

    email: str
    first_name: str
    last_name: str


class Change(BaseModel):
    """A field's value before and after."""

    old: JsonValue
    new: JsonValue


class UserUpdated(Event):
    """Fields of a user were changed: those, and only those, with their values before and after."""

    event_outcome = "success"

    user_id: int
    changes: dict[str, Change]

    @property
    def event_target(self) -> str:
        return f"user:{self.user_id}"


class UserDeleted(Event):
    """A user was deleted; this is who it was."""

    event_outcome = "success"

    user_id: int
    email: str
    first_name: str
    last_name: str

    @property
    def event_target(self) -> str:
        return f"user:{self.user_id}"


class UserLoggedIn(Event):
    """A user signed in."""

    event_outcome = "success"

    user_id: int

    @property
    def event_target(self) -> str:
        return f"user:{self.user_id}"


class UserLoggedOut(Event):
    """A user signed out."""

    event_outcome = "success"

    user_id: int

    @property
    def event_target(self) -> str:
        return f"user:{self.user_id}"


class UserLoginFailed(Event):
    """Somebody tried to sign in, and was refused.

    The name is hashed because people type passwords into the wrong field; the password is in no event at all. The
    outcome is `denied` while the name is locked out, whatever the password.
    """

    event_outcome = "failure"

    user_name: Hashed[str]

    @property
    def event_target(self) -> str:
        return f"user_name:{self.model_dump()['user_name']}"


class UserRefused(Event):
    """A user tried to do to an account or a group what they may not, and was refused. Nothing was changed."""

    event_outcome = "denied"

    #: Django's permission for it: `users.change_user`.
    action: str
    #: `user:7`, `group:3`; `user:` where it was to be a new one.
    target: str
    reason: str

    @property
    def event_target(self) -> str:
        return self.target
