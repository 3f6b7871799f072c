"""`manage.py pipeline seals` and `verify --deep`: the proof that nobody has changed the event log."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from towpath.conf import seal_key
from towpath.conf.current import config
from towpath.errors import NoAlarm
from towpath.eventlog.errors import EventStoreError
from towpath.eventlog.store import Store
from towpath.events import LogAudited
from towpath.ledger import proofs
from towpath.ledger.seals import all_seals
from towpath.management import tables
from towpath.management.arguments import pace
from towpath.management.operator import operator, record
from towpath.proof.accepting import accept
from towpath.proof.audit import audit
from towpath.proof.chain import Anchor, read_anchors
from towpath.proof.deep import Pace, Progress
from towpath.proof.sealing import seal_all
from towpath.telemetry.secrets import without_secrets
from towpath.wiring import event_store, verifier_store

#: Between two words about how far a check is.
_TOLD_SECONDS = 0.5


def add_seals(parser: ArgumentParser) -> None:
    """The arguments of `pipeline seals`."""
    whats = parser.add_subparsers(dest="what", required=True)
    whats.add_parser("make", help="seal what no seal covers yet, without waiting for the hour")
    whats.add_parser("list", help="every seal: number, time, windows, rows, digest")
    export = whats.add_parser("export", help="a line of JSON for each seal, to be kept elsewhere")
    for listing in (whats.choices["list"], export):
        listing.add_argument("--since", type=int, default=1, metavar="NUMBER", help="from this seal on")
    whats.add_parser("public-key", help="the key that checks the signatures, as PEM")
    for parser_of_what in whats.choices.values():
        parser_of_what.add_argument("--json", action="store_true", help="print JSON")


def add_deep(parser: ArgumentParser) -> None:
    """The arguments of `pipeline verify` that are for --deep."""
    deep = parser.add_argument_group("--deep", "read every row again, and compare it with what was proven")
    deep.add_argument("--deep", action="store_true", help="check contents, strays and the chain of seals")
    deep.add_argument(
        "--accept",
        nargs="+",
        type=UUID,
        metavar="WINDOW",
        help="let these windows stand as they are",
    )
    deep.add_argument("--anchors", type=Path, metavar="FILE", help="seals as they were kept elsewhere, one a line")
    deep.add_argument("--public-key", type=Path, metavar="FILE", help="the key that must have signed every seal")
    deep.add_argument("--rate", type=pace, default=0.0, help="rows read in a second, at most (default: no limit)")
    deep.add_argument("--after", type=int, default=0, metavar="POSITION", help="continue from where a run was stopped")


def require_nothing_of_deep(options: dict[str, Any]) -> None:
    """Raise CommandError for an argument that would do nothing without --deep."""
    if given := [name for name in ("accept", "anchors", "public_key", "rate", "after") if options[name]]:
        raise CommandError(f"--{given[0].replace('_', '-')} needs --deep.", returncode=2)


def seals(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Make, list or export seals, or print the key that checks them."""
    what, key = options["what"], config().seal_key
    if what == "public-key":
        if not key:
            raise CommandError(f"{config().variable_prefix}SEAL_KEY_FILE is not set here: seals are not signed.")
        pem = seal_key.public_pem(key)
        command.stdout.write(json.dumps({"public_key": pem}) if options["json"] else pem, ending="")
        return True
    found = seal_all(key=key) if what == "make" else all_seals(since_number=options["since"])
    if what == "export":
        for seal in found:
            command.stdout.write(json.dumps(tables.seal_as_json(seal)))
    elif options["json"]:
        command.stdout.write(json.dumps([tables.seal_as_json(seal) for seal in found]))
    else:
        command.stdout.write(tables.of_seals(list(found), is_new=what == "make"))
    return True


def _accept(command: BaseCommand, windows: list[UUID], store: Store, *, reason: str) -> None:
    if not reason.strip():
        command.stderr.write("Say why: `pipeline verify --deep --accept WINDOW ... --reason TEXT`.")
        raise SystemExit(2)
    try:
        accept(windows, store, reason=reason.strip(), by=operator())
    except NoAlarm as error:
        raise CommandError(str(error)) from error


def verify_deep(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Audit the event log. False if anything contradicts a proof, a seal or an anchor."""
    if options["close"]:
        raise CommandError("--close is not for --deep: use --accept WINDOW.", returncode=2)
    anchors = [*_anchors(options["anchors"])] if options["anchors"] else []
    public_key = _public_key(options["public_key"]) if options["public_key"] else ""
    store = verifier_store(config(), store=event_store(config()))
    told = _Checked(command, last=proofs.last_position(), is_told=sys.stderr.isatty())
    try:
        if options["accept"]:
            _accept(command, options["accept"], store, reason=options["reason"])
        found = audit(
            store,
            after=options["after"],
            since=options["since"],
            until=options["until"],
            anchors=anchors,
            public_key=public_key,
            pace=Pace(options["rate"]),
            on_page=told.tell,
        )
    except KeyboardInterrupt:
        raise CommandError(f"Stopped. Continue with --after {told.position}.") from None
    except EventStoreError as error:
        raise CommandError(
            without_secrets(f"The event store does not answer ({error}). Continue with --after {told.position}.")
        ) from error
    finally:
        store.close()
        told.end()
    record(
        LogAudited(
            windows=found.windows,
            rows=found.rows,
            seals=found.seals,
            findings=found.findings,
            audited_by=operator(),
        )
    )
    command.stdout.write(json.dumps(found.as_json()) if options["json"] else tables.of_audit(found))
    return found.is_ok


class _Checked:
    """Tells a person how far a deep check is."""

    def __init__(self, command: BaseCommand, *, last: int, is_told: bool) -> None:
        self.position = 0
        self._command = command
        self._last = last
        self._is_told = is_told
        self._due = time.monotonic()

    def tell(self, progress: Progress) -> None:
        self.position = progress.position
        if self._is_told and time.monotonic() >= self._due:
            self._due = time.monotonic() + _TOLD_SECONDS
            share = progress.position / max(1, self._last)
            self._command.stderr.write(
                f"\r{share:4.0%}  {progress.windows:,} windows, {progress.rows:,} rows checked", ending=""
            )
            self._command.stderr.flush()

    def end(self) -> None:
        """Leave the line for what comes next."""
        if self._is_told:
            self._command.stderr.write("")


def _text_of(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise CommandError(f"{option}: cannot read {path} ({reason}).", returncode=2) from error


def _anchors(path: Path) -> list[Anchor]:
    try:
        found = [*read_anchors(_text_of(path, "--anchors").splitlines(), name=path.name)]
    except ValueError as error:
        raise CommandError(f"--anchors: {error}", returncode=2) from error
    if not found:
        raise CommandError(
            f"--anchors: {path} has none: it needs lines of `pipeline seals export`, or of a log with `ledger_sealed`.",
            returncode=2,
        )
    return found


def _public_key(path: Path) -> str:
    pem = _text_of(path, "--public-key")
    try:
        seal_key.public_key(pem)
    except (ValueError, ModuleNotFoundError) as error:
        raise CommandError(f"--public-key: {error}", returncode=2) from error
    return pem
