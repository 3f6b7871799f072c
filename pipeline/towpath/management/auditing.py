"""`manage.py pipeline seals` and `verify --deep`: the proof that the event log was not changed."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from towpath.conf import seal_key
from towpath.conf.current import config
from towpath.eventlog.errors import EventStoreError
from towpath.events import LogAudited
from towpath.ledger import database_errors, proofs
from towpath.ledger.seals import all_seals
from towpath.management import accepting, tables
from towpath.management.accepting import Accepted
from towpath.management.arguments import pace
from towpath.management.operator import operator, record
from towpath.proof.audit import Audit, audit
from towpath.proof.chain import Anchor, read_anchors
from towpath.proof.deep import Pace, Progress
from towpath.proof.sealing import seal_all
from towpath.telemetry.secrets import without_secrets
from towpath.wiring import event_store, verifier_store

#: Seconds between two progress messages of a check.
_TOLD_SECONDS = 0.5
_NOT_RECORDED = (
    "What is printed holds, but there is no record of this audit: the event log_audited could not be published ({}). If"
    " the role may not publish it, use another, such as towpath_migrator."
)


def add_seals(parser: ArgumentParser) -> None:
    """Add the arguments of `pipeline seals`."""
    whats = parser.add_subparsers(dest="what", required=True)
    whats.add_parser("make", help="seal every unsealed proof now, instead of within the hour")
    whats.add_parser("list", help="list every seal: number, time, windows, rows, digest")
    export = whats.add_parser("export", help="print each seal as a line of JSON, to keep elsewhere")
    for listing in (whats.choices["list"], export):
        listing.add_argument("--since", type=int, default=1, metavar="NUMBER", help="start at this seal")
    whats.add_parser("public-key", help="print the key that checks the signatures, as PEM")
    for parser_of_what in whats.choices.values():
        parser_of_what.add_argument("--json", action="store_true", help="print JSON")


def add_deep(parser: ArgumentParser) -> None:
    """Add the arguments of `pipeline verify` that are for --deep."""
    deep = parser.add_argument_group("--deep", "read every row again, and compare it with its proof")
    deep.add_argument("--deep", action="store_true", help="check contents, strays and the chain of seals")
    accepting.add_arguments(deep)
    deep.add_argument(
        "--anchors", type=Path, metavar="FILE", help="exported seals that were kept elsewhere, one per line"
    )
    deep.add_argument("--public-key", type=Path, metavar="FILE", help="the key that must have signed the newest seal")
    deep.add_argument(
        "--rate",
        type=pace,
        default=0.0,
        metavar="ROWS",
        help="read at most this many rows per second (default: no limit)",
    )
    deep.add_argument(
        "--after",
        type=int,
        default=0,
        metavar="POSITION",
        help="continue where an earlier run stopped: windows up to there are not read again; seals, receipts and strays"
        " are checked in full",
    )


def require_nothing_of_deep(options: dict[str, Any]) -> None:
    """Raise CommandError for an argument that does nothing without --deep."""
    names = ("accept", "accept_unproven", "yes", "anchors", "public_key", "rate", "after")
    if given := [name for name in names if options[name]]:
        raise CommandError(f"--{given[0].replace('_', '-')} needs --deep.", returncode=2)


def seals(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Make, list or export seals, or print the key that checks them. Always return True. Raises CommandError."""
    what, key = options["what"], config().seal_key
    if what == "public-key":
        if not key:
            raise CommandError(
                f"{config().variable_prefix}SEAL_KEY_FILE is not set here. Run this where the dispatcher runs, or set"
                " it: seals are signed only with a key."
            )
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


def verify_deep(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Audit the event log, and print what was found. False if anything contradicts a proof, a seal or an anchor.

    Raises CommandError if it is stopped, which says how to continue.
    """
    anchors = [*_anchors(options["anchors"])] if options["anchors"] else []
    public_key = _public_key(options["public_key"]) if options["public_key"] else ""
    last = proofs.last_position()
    _require_usable(options, last=last)
    store = verifier_store(config(), store=event_store(config()))
    found, accepted, stopped = Audit(position=options["after"]), Accepted(), ""
    told = _Checked(command, last=last, is_told=sys.stderr.isatty())
    try:
        with _terminated_like_ctrl_c(), _continued_after_an_outage(found, after=options["after"]):
            accepted = accepting.accept_given(store, options)
            audit(
                store,
                into=found,
                after=options["after"],
                since=options["since"],
                until=options["until"],
                anchors=anchors,
                public_key=public_key,
                pace=Pace(options["rate"]),
                on_page=told.tell,
            )
    except KeyboardInterrupt:
        stopped = "Stopped"
    except EventStoreError as error:
        stopped = f"The event store does not answer ({error})"
    finally:
        store.close()
        told.end()
    command.stdout.write(_as_json(found, accepted) if options["json"] else _as_text(found, accepted))
    command.stdout.flush()
    _end(found, options, stopped=f"{stopped}. Continue with --after {found.position}." if stopped else "")
    return found.is_ok


def _as_json(found: Audit, accepted: Accepted) -> str:
    return json.dumps({**found.as_json(), "accepted": accepted.windows})


def _as_text(found: Audit, accepted: Accepted) -> str:
    return "\n".join([*accepted.lines, tables.of_audit(found)])


def _require_usable(options: dict[str, Any], *, last: int) -> None:
    """Raise CommandError for arguments that say too little, or with which nothing would be checked."""
    if options["close"]:
        raise CommandError("--close does not work with --deep: use --accept WINDOW.", returncode=2)
    accepting.require_usable(options)
    if options["after"] > last:
        raise CommandError(
            f"--after {options['after']}: the last proof is {last}. Use the position that the stopped run has named.",
            returncode=2,
        )


@contextlib.contextmanager
def _continued_after_an_outage(found: Audit, *, after: int) -> Iterator[None]:
    """A context in which an error of PostgreSQL says from where to continue. Nothing is shown then: what was found is
    noted, and the continued run names it."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        if found.position == after:
            raise
        text = f"{database_errors.describe(error)}. Continue with --after {found.position}."
        raise CommandError(without_secrets(text)) from error


@contextlib.contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """A context in which SIGTERM does what Ctrl-C does: `timeout` and supervisors send it, and nobody should lose what
    was found."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(found: Audit, options: dict[str, Any], *, stopped: str) -> None:
    """Record the audit once it is printed: if the role may not publish, the findings of hours are not lost.

    Raises CommandError if the audit is not recorded, or was `stopped`.
    """
    try:
        _record(found, options)
    except (DatabaseError, InterfaceError) as error:
        text = f"{stopped} {_NOT_RECORDED.format(database_errors.describe(error))}".strip()
        raise CommandError(without_secrets(text)) from error
    if stopped:
        raise CommandError(without_secrets(stopped))


def _record(found: Audit, options: dict[str, Any]) -> None:
    """Publish that the log was audited, or a part of it."""
    since, until = options["since"], options["until"]
    record(
        LogAudited(
            windows=found.windows,
            rows=found.rows,
            seals=found.seals,
            findings=found.findings,
            is_complete=found.is_complete,
            after=options["after"],
            position=found.position,
            since=since.isoformat() if since else "",
            until=until.isoformat() if until else "",
            audited_by=operator(),
        )
    )


class _Checked:
    """Tells a person on a terminal how far a deep check is."""

    def __init__(self, command: BaseCommand, *, last: int, is_told: bool) -> None:
        self._command = command
        self._last = last
        self._is_told = is_told
        self._due = time.monotonic()

    def tell(self, progress: Progress) -> None:
        if self._is_told and time.monotonic() >= self._due:
            self._due = time.monotonic() + _TOLD_SECONDS
            share = progress.position / max(1, self._last)
            searched = f", strays looked for among {progress.searched:,} windows" if progress.searched else ""
            self._command.stderr.write(
                f"\r{share:4.0%}  {progress.windows:,} windows, {progress.rows:,} rows checked{searched}", ending=""
            )
            self._command.stderr.flush()

    def end(self) -> None:
        """End the line of the progress, for what comes next."""
        if self._is_told:
            self._command.stderr.write("")


def _text_of(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise CommandError(f"{option}: cannot read {path} ({reason}).", returncode=2) from error


def _anchors(path: Path) -> list[Anchor]:
    try:
        # A log may be large, and have anything in its other lines.
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            found = [*read_anchors(lines, name=path.name)]
    except OSError as error:
        raise CommandError(f"--anchors: cannot read {path} ({error.strerror}).", returncode=2) from error
    except ValueError as error:
        raise CommandError(f"--anchors: {error}", returncode=2) from error
    if not found:
        raise CommandError(
            f"--anchors: {path} has no anchors: it needs lines from `pipeline seals export`, or from a log with"
            " `ledger_sealed`.",
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
