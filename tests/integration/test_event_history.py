"""What the ledger knows of an event's way."""

from __future__ import annotations

from datetime import date
from uuid import uuid4

import pytest

from tests.integration.receipts import delivered, verified
from towpath.eventlog.store import Store
from towpath.ledger.models import Batch, Proof, Window
from towpath.ledger.provenance import read
from towpath.proof.sealing import seal_all


def test_the_history_grows_with_the_way_of_the_window(store: Store) -> None:
    window = delivered(store, users=2, events=1)
    month = window.sealed_at.date()

    acked = read(window.id, outbox="outbox_user", month=month)
    assert acked.receipt is not None
    assert (acked.receipt.rows, acked.receipt.acked_at, acked.receipt.verified_at) == (3, window.acked_at, None)
    assert acked.proofs == ()

    verified(store)
    (proof,) = read(window.id, outbox="outbox_user", month=month).proofs
    assert (proof.kind, proof.rows, proof.seal) == ("verified", 2, None)
    assert proof.digest == bytes(Proof.objects.get(outbox="outbox_user").digest).hex()

    (seal,) = seal_all(key="")
    (proof,) = read(window.id, outbox="outbox_user", month=month).proofs
    assert (proof.seal, proof.seal_at) == (seal.number, seal.sealed_at)


def test_an_event_keeps_its_proofs_when_its_receipt_is_gone(store: Store) -> None:
    window = delivered(store, users=1)
    verified(store)
    month = window.sealed_at.date()
    Batch.objects.all().delete()
    Window.objects.all().delete()

    found = read(window.id, outbox="outbox_user", month=month)

    assert found.receipt is None
    assert [proof.rows for proof in found.proofs] == [1]


@pytest.mark.django_db
def test_of_a_window_that_is_not_of_this_ledger_nothing_is_known() -> None:
    found = read(uuid4(), outbox="outbox_user", month=date(2026, 1, 1))
    assert (found.receipt, found.proofs) == (None, ())
