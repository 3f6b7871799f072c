"""Seals: made once an hour, chained, signed, and kept elsewhere."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.db import connection
from pytest_django import Settings
from structlog.testing import capture_logs

from tests.integration.manage import here, manage, status
from tests.integration.proving import audited
from tests.integration.receipts import delivered, verified
from tests.integration.workers import Workers
from tests.waiting import eventually
from towpath.actors import verify as tick
from towpath.conf.current import config
from towpath.eventlog.store import Store
from towpath.ledger.models import Proof, Seal
from towpath.outbox.models import OutboxEvent
from towpath.proof import sealing
from towpath.proof.sealing import seal_all, seal_if_due
from towpath.proof.statement import parse


def test_a_seal_is_logged_and_an_event(store: Store) -> None:
    delivered(store, users=2, events=1)
    verified(store)

    with capture_logs() as logs:
        (seal,) = seal_all(key="")

    (line,) = [line for line in logs if line["event"] == "ledger_sealed"]
    assert (line["number"], line["digest"]) == (1, seal.digest)
    event = OutboxEvent.objects.get()
    assert event.event_type == "ledger_sealed"
    assert json.loads(event.event_context) == {"number": 1, "digest": seal.digest, "windows": 1, "rows": 3}


def test_a_seal_is_a_text_whose_digest_sha256sum_computes(store: Store, tmp_path: Path) -> None:
    for users in (1, 2):
        delivered(store, users=users)
        verified(store)
        list(seal_all(key=""))

    lines = [json.loads(line) for line in here("pipeline", "seals", "export").stdout.splitlines()]

    assert [line["number"] for line in lines] == [1, 2]
    for line in lines:
        statement = tmp_path / "statement"
        statement.write_text(line["statement"])
        printed = subprocess.run(["sha256sum", str(statement)], capture_output=True, text=True, check=True).stdout
        assert printed.split()[0] == line["digest"]
    assert parse(lines[1]["statement"]).previous == lines[0]["digest"]
    assert parse(lines[0]["statement"]).previous == "0" * 64


def test_openssl_alone_checks_a_signature(store: Store, tmp_path: Path, settings: Settings) -> None:
    key = private_pem()
    settings.TOWPATH = replace(config(), seal_key=key)
    delivered(store, users=1)
    verified(store)
    assert here("pipeline", "seals", "make").returncode == 0
    (tmp_path / "key.pub").write_text(here("pipeline", "seals", "public-key").stdout)
    line = json.loads(here("pipeline", "seals", "export").stdout)
    (tmp_path / "statement").write_text(line["statement"])
    (tmp_path / "signature").write_bytes(base64.b64decode(line["signature"]))

    def check() -> int:
        command = "openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in statement -sigfile signature"
        return subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False).returncode

    assert check() == 0
    (tmp_path / "statement").write_text(line["statement"].replace("windows 1", "windows 2"))
    assert check() != 0


def test_openssl_alone_gets_a_time_stamp_for_a_seal_and_checks_it(store: Store, tmp_path: Path) -> None:
    """By RFC 3161, from an authority, which openssl is here as well."""
    delivered(store, users=1)
    verified(store)
    list(seal_all(key=""))
    (tmp_path / "statement").write_text(Seal.objects.get().statement)
    (tmp_path / "authority.cnf").write_text(_AUTHORITY)

    def openssl(arguments: str) -> int:
        return subprocess.run(
            ["openssl", *arguments.split()], cwd=tmp_path, capture_output=True, check=False
        ).returncode

    assert not openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout authority.key -out authority.pem -days 2 -subj /CN=authority"
        " -addext extendedKeyUsage=critical,timeStamping"
    )
    assert not openssl("ts -query -data statement -sha256 -cert -out request.tsq")
    assert not openssl("ts -reply -config authority.cnf -queryfile request.tsq -out seal.tsr")

    verify = "ts -verify -data statement -in seal.tsr -CAfile authority.pem"
    assert openssl(verify) == 0
    (tmp_path / "statement").write_text(Seal.objects.get().statement.replace("windows 1", "windows 2"))
    assert openssl(verify) != 0


_AUTHORITY = """
[tsa]
default_tsa = authority
[authority]
serial = serial
signer_cert = authority.pem
signer_key = authority.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
"""


def test_an_audit_with_a_public_key_wants_every_seal_signed_by_it(
    store: Store, tmp_path: Path, settings: Settings
) -> None:
    # Given a seal that is signed, one by another key, and one without
    key = private_pem()
    sealed_with(key, private_pem(), "", store=store)
    public = public_key(key, settings, tmp_path)

    found = audited("--public-key", str(public))

    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(2, "forged"), (3, "unsigned")]
    public.write_text("no key")
    done = here("pipeline", "verify", "--deep", "--public-key", str(public))
    assert done.returncode == 2
    assert "not a public key in PEM" in done.stderr


def test_a_signed_seal_vouches_for_all_before_it(store: Store, tmp_path: Path, settings: Settings) -> None:
    # Given seals from before there was a key, of an older key, and of the key of today
    key = private_pem()
    sealed_with("", private_pem(), key, store=store)
    public = public_key(key, settings, tmp_path)
    assert audited("--public-key", str(public))["exit"] == 0

    # When one of them is rewritten, and one is made after them without the key
    old = Seal.objects.get(number=1)
    text = old.statement.replace("rows 1\n", "rows 2\n")
    Seal.objects.filter(number=1).update(statement=text, digest=sha256(text.encode()).hexdigest())
    delivered(store, users=1)
    verified(store)
    list(seal_all(key=""))

    found = audited("--public-key", str(public))
    assert {(one["number"], one["kind"]) for one in found["broken_seals"]} == {(2, "unchained"), (4, "unsigned")}


def test_a_seal_is_due_when_a_proof_has_waited_for_an_hour(store: Store) -> None:
    assert seal_if_due(key="") == 0  # nothing to seal
    delivered(store, users=1)
    verified(store)
    assert seal_if_due(key="") == 0

    Proof.objects.update(proven_at="2026-01-01T00:00:00Z")
    assert status()["unsealed_proofs_seconds"] > 3600
    assert any("nothing has been sealed for" in problem for problem in status()["problems"])

    assert seal_if_due(key="") == 1
    assert seal_if_due(key="") == 0
    assert status()["unsealed_proofs_seconds"] == 0.0


def test_a_seal_is_due_when_the_clock_was_set_back_behind_a_proof(store: Store) -> None:
    delivered(store, users=1)
    verified(store)
    Proof.objects.update(proven_at=datetime.now(UTC) + timedelta(days=2))

    assert seal_if_due(key="") == 1
    assert audited()["exit"] == 0


@pytest.mark.parametrize(("most", "proofs"), [(1, [1, 2, 1]), (2, [3, 1]), (3, [3, 1]), (4, [4])])
def test_the_proofs_of_a_window_are_under_one_seal(
    store: Store, monkeypatch: pytest.MonkeyPatch, most: int, proofs: list[int]
) -> None:
    monkeypatch.setattr(sealing, "_MOST_PROOFS", most)
    for events in (0, 1, 0):  # the second window has rows of two outboxes, and so two proofs
        delivered(store, users=1, events=events)
    verified(store)

    statements = [parse(seal.statement) for seal in seal_all(key="")]

    assert [sum(month.proofs for month in statement.months.values()) for statement in statements] == proofs
    assert audited()["differences"] == []


def test_a_late_window_goes_into_a_later_seal(store: Store) -> None:
    for users in (1, 2):
        delivered(store, users=users)
        verified(store)
        list(seal_all(key=""))

    first, second = (parse(seal.statement) for seal in Seal.objects.order_by("number"))
    assert second.first == first.last + 1
    assert audited()["exit"] == 0


def test_a_seal_whose_event_cannot_be_recorded_is_not_made(store: Store) -> None:
    delivered(store, users=1)
    verified(store)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_event ADD CONSTRAINT nothing_new CHECK (event_type = 'tested') NOT VALID")
    try:
        assert here("pipeline", "seals", "make").returncode == 1
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE outbox_event DROP CONSTRAINT nothing_new")

    assert not Seal.objects.exists()


def test_the_dispatcher_seals_by_itself(store: Store, workers: Workers) -> None:
    delivered(store, users=1)
    verified(store)
    Proof.objects.update(proven_at="2026-01-01T00:00:00Z")

    workers.idle_dispatcher()
    tick.send()

    eventually(lambda: Seal.objects.count() == 1, seconds=60)


def test_a_removed_seal_is_named(store: Store) -> None:
    for users in (1, 2, 3):
        delivered(store, users=users)
        verified(store)
        list(seal_all(key=""))
    Seal.objects.filter(number=2).delete()

    found = audited()

    assert found["exit"] == 1
    assert {(one["number"], one["kind"]) for one in found["broken_seals"]} >= {(2, "missing"), (3, "unchained")}


@pytest.mark.parametrize(
    "value", ["rows = -1", "month = '0044-03-15 BC'", "month = '0011-03-01'", "proven_at = '0044-03-15 BC'"]
)
def test_a_seal_can_be_read_whatever_somebody_has_written_into_a_proof_before(store: Store, value: str) -> None:
    delivered(store, users=1)
    verified(store)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE pipeline_proof SET {value}")
    list(seal_all(key=""))

    assert audited()["broken_seals"] == []


def test_a_seal_with_any_number_does_not_keep_an_audit_busy_for_ever(store: Store) -> None:
    for users in (1, 2):
        delivered(store, users=users)
        verified(store)
        list(seal_all(key=""))
    Seal.objects.filter(number=2).update(number=9223372036854775807)

    found = audited()

    missing = [one for one in found["broken_seals"] if one["kind"] == "missing"]
    assert (len(missing), missing[0]["number"], found["is_complete"]) == (1001, 2, True)
    assert missing[-1]["detail"] == "it was removed, and so were all from 1002 on"


def test_a_seal_that_cannot_be_read_is_listed_all_the_same(store: Store) -> None:
    delivered(store, users=1)
    verified(store)
    list(seal_all(key=""))
    Seal.objects.update(statement="nothing")

    listed = here("pipeline", "seals", "list").stdout

    assert re.search(rf"^ +1 .* rewritten +no +{Seal.objects.get().digest}$", listed, re.MULTILINE)
    assert {one["kind"] for one in audited()["broken_seals"]} == {"rewritten"}


def test_the_time_and_the_number_of_a_seal_are_checked(store: Store) -> None:
    delivered(store, users=1)
    verified(store)
    list(seal_all(key=""))
    seal = Seal.objects.get()
    assert audited()["exit"] == 0

    Seal.objects.update(sealed_at=seal.sealed_at + timedelta(seconds=1))
    assert [(one["number"], one["kind"]) for one in audited()["broken_seals"]] == [(1, "rewritten")]

    Seal.objects.update(sealed_at=seal.sealed_at)
    Seal.objects.create(
        number=-1, last_position=0, sealed_at=seal.sealed_at, statement=seal.statement, digest="", signature=b""
    )
    assert [(one["number"], one["kind"]) for one in audited()["broken_seals"]] == [(-1, "unchained")]


def test_the_end_of_the_chain_that_is_cut_off_is_named_by_the_anchors(store: Store, tmp_path: Path) -> None:
    with capture_logs() as logs:
        for users in (1, 2):
            delivered(store, users=users)
            verified(store)
            list(seal_all(key=""))
    # As the log of a worker has them, among other lines
    anchors = tmp_path / "worker.log"
    lines = [b"not UTF-8: \xff", b"{not JSON", *(json.dumps(line, default=str).encode() for line in logs)]
    anchors.write_bytes(b"\n".join(lines))
    assert audited("--anchors", str(anchors))["anchors"] == 2
    Seal.objects.filter(number=2).delete()

    found = audited("--anchors", str(anchors))

    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(2, "anchor")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "has no anchors"),
        ('{"digest": "00"}', "has a digest but no number"),
        (None, "cannot read"),
        ('{"number": 1, "digest": "00"}\n{"number": 2, "sealed_at": "20', "anchors:2 is cut off"),
        ('{"number": 1, "digest": "0{"number": 2, "digest": "00"}\n', "anchors:1 is cut off"),
    ],
)
def test_a_file_without_anchors_is_wrong_usage(tmp_path: Path, content: str | None, problem: str) -> None:
    anchors = tmp_path / "anchors"
    if content is not None:
        anchors.write_text(content)

    done = here("pipeline", "verify", "--deep", "--anchors", str(anchors))

    assert done.returncode == 2
    assert problem in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--anchors", "seals.jsonl"], "--anchors needs --deep"),
        (["--accept", str(UUID(int=1)), "--reason", "x"], "--accept needs --deep"),
        (["--after", "7"], "--after needs --deep"),
        (["--deep", "--close", str(UUID(int=1)), "--reason", "x"], "use --accept"),
        (["--since", "2026-02-02", "--until", "2026-02-02"], "--since must be before --until"),
        (["--until", "2026-02-01"], "--since (a day ago, if it is not given) must be before --until"),
        (["--deep", "--since", "2026-02-02", "--until", "2026-02-01"], "--since must be before --until"),
        (["--deep", "--after", "8"], "--after 8: the last proof is 0"),
        (["--deep", "--rate", "0"], "is not a number of rows per second"),
        (["--deep", "--rate", "1e-300"], "is not a number of rows per second"),
        (["--deep", "--rate", "nan"], "is not a number of rows per second"),
    ],
)
def test_an_option_that_would_do_nothing_is_wrong_usage(arguments: list[str], problem: str) -> None:
    done = manage("pipeline", "verify", *arguments)

    assert done.returncode == 2
    assert problem in done.stderr


def test_an_audit_that_is_stopped_goes_on_from_where_it_was(store: Store) -> None:
    for users in (1, 2, 3):
        delivered(store, users=users)
        verified(store)
    first = Proof.objects.earliest("position").position

    found = audited("--after", str(first))

    assert (found["windows"], found["rows"]) == (2, 5)


def test_an_audit_keeps_to_a_pace(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered(store, users=3)
    verified(store)
    slept: list[float] = []
    monkeypatch.setattr("towpath.proof.deep.time.sleep", slept.append)

    audited("--rate", "1")

    # Once to compare them with their proof, and once to look for strays
    walk, search = slept
    assert 2 < walk <= 3
    assert 5 < search <= 6


def test_people_read_the_seals_as_a_table(store: Store) -> None:
    assert "no seal yet" in here("pipeline", "seals", "list").stdout
    delivered(store, users=2, events=1)
    verified(store)

    made = here("pipeline", "seals", "make").stdout
    listed = here("pipeline", "seals", "list").stdout

    digest = Seal.objects.get().digest
    assert re.search(rf"^ +1 .* 1 +3  no +{digest}$", made, re.MULTILINE)
    assert made == listed
    assert here("pipeline", "seals", "list", "--since", "2").stdout.startswith("no seal yet")
    assert "nothing contradicts the ledger" in here("pipeline", "verify", "--deep").stdout
    assert sha256(Seal.objects.get().statement.encode()).hexdigest() == digest


def private_pem() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def sealed_with(*keys: str, store: Store) -> None:
    """Make a seal with each of these keys; an empty one signs nothing."""
    for pem in keys:
        delivered(store, users=1)
        verified(store)
        list(seal_all(key=pem))


def public_key(key: str, settings: Settings, folder: Path) -> Path:
    """The file with what checks the signatures of the key, as the product prints it."""
    settings.TOWPATH = replace(config(), seal_key=key)
    public = folder / "key.pub"
    public.write_text(here("pipeline", "seals", "public-key").stdout)
    return public
