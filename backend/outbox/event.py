"""An event: what happened, as a pydantic model whose compact JSON is stored byte for byte."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Event(BaseModel):
    """Base of every event. Subclass it with the fields of the context.

    The event's type is the class's name in snake_case (`UserDeactivated` -> `user_deactivated`); `version` is
    stored as `metadata_version`: raise it when the fields change their meaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_type: ClassVar[str] = "event"
    version: ClassVar[int] = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "event_type" not in cls.__dict__:
            cls.event_type = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
