"""The testing kit under `manage.py test`, in a fresh project without pytest and without a service but PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.integration.foreign_project import ForeignProject, variables_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services import Services

#: With DEBUG off, as on a build server.
SETTINGS = """
DEBUG = False
INSTALLED_APPS += ["towpath", "django_dramatiq", "shop"]
MIDDLEWARE += ["towpath.outbox.middleware.EventContextMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "testkit"}}
"""
MODELS = """
from django.db import models
from towpath import Event
from towpath.outbox.models import LeanOutbox

class CustomerCame(Event):
    name: str

class Customer(models.Model):
    name = models.TextField()
    came_at = models.DateTimeField(auto_now_add=True)

class OutboxCustomer(LeanOutbox):
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    event = CustomerCame
    event_date_time = "customer__came_at"
    event_context = {"name": "customer__name"}
"""
TESTS = """
import sys
from django.db import connection, transaction
from django.db.models import ProtectedError
from django.test import TestCase, TransactionTestCase
from towpath import Event, publish
from towpath.testing import EventsMixin
from shop.models import Customer, CustomerCame, OutboxCustomer

class Paid(Event):
    amount: int

def come(name):
    with transaction.atomic():
        customer = Customer.objects.create(name=name)
        OutboxCustomer.objects.create(customer=customer)
    return customer

class RolledBack(EventsMixin, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.before = come("before")

    def test_what_was_published(self):
        self.published.none()
        publish(Paid(amount=1))
        self.published.one(Paid, amount=1)
        come("ada")
        self.assertEqual(self.published.one(CustomerCame, name="ada").outbox, "shop_outboxcustomer")
        self.published.none(CustomerCame, name="before")

    def test_what_is_stored(self):
        publish(Paid(amount=2))
        stored = self.deliver()
        stored.one(Paid, amount=2)
        stored.one(CustomerCame, name="before")
        self.published.one(Paid)
        publish(Paid(amount=3))
        self.assertEqual(len(self.deliver().find(Paid)), 2)

    def test_a_request_needs_no_other_service(self):
        self.assertEqual(self.client.get("/admin/login/").status_code, 200)

    def test_a_failure_lists_what_there_is(self):
        publish(Paid(amount=4))
        with self.assertRaisesRegex(AssertionError, 'paid version 1 {"amount":4}'):
            self.published.none(Paid)

    def test_a_lean_event_keeps_its_row_until_it_is_delivered(self):
        customer = come("ada")
        with self.assertRaises(ProtectedError):
            customer.delete()
        self.deliver()
        customer.delete()

    def test_nobody_needs_pytest(self):
        self.assertNotIn("pytest", sys.modules)
        with self.assertRaises(ModuleNotFoundError):
            import pytest

class Committed(EventsMixin, TransactionTestCase):
    def test_first(self):
        self._publish_and_deliver()

    def test_second(self):
        self.published.none()
        self._publish_and_deliver()

    def _publish_and_deliver(self):
        self.assertFalse(connection.in_atomic_block)
        come("ada")
        self.published.one(CustomerCame, name="ada")
        self.deliver().one(CustomerCame, name="ada")
        come("left to the end of the test")
"""


@pytest.fixture
def project(services: Services, tmp_path: Path) -> Iterator[ForeignProject]:
    folder = tmp_path / "mysite"
    (folder / "shop").mkdir(parents=True)
    # None of Towpath's: neither RabbitMQ nor an event store.
    environment = {name: value for name, value in variables_of(services, database="").items() if name.startswith("PG")}
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE testkit")
        with ForeignProject(folder, environment) as project:
            project.run("pip install ../towpath")
            (tmp_path / "installed" / "pytest.py").write_text(
                "raise ModuleNotFoundError('as if it were not installed')"
            )
            settings = folder / "mysite" / "settings.py"
            settings.write_text("from towpath.conf.settings import *\n" + settings.read_text() + SETTINGS)
            for name, text in {"__init__": "", "models": MODELS, "tests": TESTS}.items():
                (folder / "shop" / f"{name}.py").write_text(text)
            project.run("python manage.py makemigrations shop")
            yield project
        cursor.execute("DROP DATABASE testkit WITH (FORCE)")
        cursor.execute("DROP DATABASE IF EXISTS test_testkit WITH (FORCE)")


@pytest.mark.slow
def test_the_kit_needs_no_pytest(project: ForeignProject) -> None:
    printed = project.run("python manage.py test")

    assert "Ran 8 tests" in printed
    assert "\nOK" in printed
