"""The sides that are compared do what they say."""

from __future__ import annotations

import pytest

from backend.users.models import OutboxUser, User
from tests.benchmarks import publishing

pytestmark = pytest.mark.django_db


def test_the_side_without_an_event_makes_the_user_and_no_event() -> None:
    with publishing._without_event():
        publishing._create_one()

    assert (User.objects.count(), OutboxUser.objects.count()) == (1, 0)


def test_the_other_side_makes_both() -> None:
    publishing._create_one()

    assert (User.objects.count(), OutboxUser.objects.count()) == (1, 1)
