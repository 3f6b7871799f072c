"""Proofs that are packed immediately, as if their receipts had been purged long ago."""

from __future__ import annotations

from typing import Any

from django.db import connection

from towpath.flow.verify import purge_receipts
from towpath.ledger.models import PackedProofs, Proof
from towpath.proof.packing import pack_proofs


def pack() -> int:
    """Purge every verified receipt, and pack what can be packed. Returns how many proofs were."""
    purge_receipts(receipt_days=0, should_stop=lambda: False)
    # A seal waits for two days more.
    return pack_proofs(receipt_days=-2)


def packed_count() -> int:
    """How many proofs are packed."""
    return sum(len(one.windows) for one in PackedProofs.objects.all())


def forge_packed(**values: Any) -> None:
    """A row of packed proofs that nobody has made: like the first one, if there is one, with other values."""
    names = {field.attname: f"packed.{field.attname}" for field in PackedProofs._meta.concrete_fields}
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO pipeline_packedproofs ({', '.join(names)})"
            f" SELECT {', '.join(values.get(name, column) for name, column in names.items())}"
            " FROM (SELECT * FROM pipeline_packedproofs ORDER BY first_position LIMIT 1) AS packed"
        )


def rewrite_packed(assignment: str, *, where: str = "true") -> None:
    """Change rows of packed proofs."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE pipeline_packedproofs SET {assignment} WHERE {where}")
        assert cursor.rowcount


def proofs_left() -> int:
    """How many proofs are rows."""
    return Proof.objects.count()
