"""`manage.py pipeline`: look at the pipeline, and repair it."""

from __future__ import annotations

import json
from argparse import REMAINDER, ArgumentParser
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from towpath.actors import enqueue_batches
from towpath.conf.current import config
from towpath.conf.launch import ROLES, become, run_all
from towpath.errors import NoAlarm, NotReadable, OutboxInUse
from towpath.eventlog.errors import EventStoreError
from towpath.flow import deadletters, outboxes, stranded
from towpath.flow.recover import recover
from towpath.flow.verify import close, verify_receipts
from towpath.ledger import database_errors, names
from towpath.ledger.deadletters import Letter
from towpath.ledger.moment import planner_as_it_was
from towpath.management import auditing, freed_migrations, leaving, tables
from towpath.management.answers import nothing_but_the_answer
from towpath.management.arguments import moment
from towpath.management.operator import operator, record_reading
from towpath.outbox.models import all_outboxes
from towpath.telemetry.secrets import without_secrets
from towpath.watch.doctor import examine
from towpath.watch.period import read_period
from towpath.watch.status import read_status
from towpath.watch.unknown_outboxes import problem
from towpath.watch.within import NoAnswerYet, Within
from towpath.wiring import event_store, verifier_store, window_limits, window_rules

#: Also where a project has set no time limit for its connections.
_STATUS_SECONDS = 20.0


class Command(BaseCommand):
    help = "Look at the pipeline, and repair it. Exit code 0: all is well; 1: a problem was found; 2: wrong usage."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        for name, text in (
            ("status", "what is pending, in flight and stuck; asks PostgreSQL only"),
            ("doctor", "check every service and what the promises rest on, and say how to fix it"),
            ("recover", "deliver what is stuck, now and in this process"),
        ):
            actions.add_parser(name, help=text).add_argument("--json", action="store_true", help="print JSON")
        self._add_run(actions.add_parser("run", help="be a process of the pipeline, until it is told to stop"))
        self._add_verify(actions.add_parser("verify", help="compare receipts with the event store; print the ledger"))
        auditing.add_seals(actions.add_parser("seals", help="seals of the ledger, which prove what was stored"))
        self._add_deadletters(actions.add_parser("deadletters", help="rows that the event store refuses"))
        self._add_outboxes(actions.add_parser("outboxes", help="names in the ledger that no outbox class has"))
        self._add_leave(actions.add_parser("leave", help="take Towpath out of the project: the next step of it"))

    def _add_run(self, parser: ArgumentParser) -> None:
        parser.add_argument("role", choices=[*ROLES, "all"], help="`all`: one of each, for development")
        parser.add_argument("arguments", nargs=REMAINDER, help="dramatiq's or periodiq's own, such as --processes=2")

    def _add_verify(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since", type=moment, help="rows dispatched from then on (default: a day ago; with --deep: ever)"
        )
        parser.add_argument("--until", type=moment, help="rows dispatched before then (default: now)")
        parser.add_argument("--close", nargs="+", type=UUID, metavar="WINDOW", help="end the alarm of these windows")
        parser.add_argument("--reason", default="", help="why: recorded as an event, with who did it")
        auditing.add_deep(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")

    def _add_deadletters(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["list", "show", "replay", "drop"])
        parser.add_argument("ids", nargs="*", type=int, help="numbers of dead letters, as `list` shows them")
        parser.add_argument("--all", action="store_true", help="every dead letter (replay, drop)")
        parser.add_argument("--yes", action="store_true", help="drop without asking")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def _add_outboxes(self, parser: ArgumentParser) -> None:
        whats = parser.add_subparsers(dest="what", required=True)
        whats.add_parser("list", help="each outbox, and each name that no class has; exit code 1 with such a name")
        rename = whats.add_parser("rename", help="an outbox's table was renamed: deliver what the ledger has")
        rename.add_argument("old", help="the name that no class has")
        rename.add_argument("new", help="the outbox that has its rows now")
        discard = whats.add_parser("discard", help="give up what the ledger has under a name; recorded as an event")
        discard.add_argument("name", help="the name that no class has")
        for parser_of_what in (rename, discard):
            parser_of_what.add_argument("--yes", action="store_true", help="without asking")
        for parser_of_what in whats.choices.values():
            parser_of_what.add_argument("--json", action="store_true", help="print JSON")

    def _add_leave(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--migrations", action="store_true", help="let the project's migrations stand without Towpath"
        )
        parser.add_argument("--yes", action="store_true", help="remove tables without asking")
        parser.add_argument("--json", action="store_true", help="print JSON; remove tables with --yes only")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["action"] == "run":
            self._run(options["role"], options["arguments"])
        with nothing_but_the_answer(self), planner_as_it_was():
            self._handle(options)

    def _handle(self, options: dict[str, Any]) -> None:
        actions = {
            "status": self._status,
            "doctor": self._doctor,
            "recover": self._recover,
            "deadletters": self._deadletters,
            "outboxes": self._outboxes,
            "verify": self._verify,
            "seals": self._seals,
            "leave": self._free_migrations if options.get("migrations") else self._leave,
        }
        try:
            is_ok = actions[options["action"]](options)
        except (NotReadable, OutboxInUse) as error:
            raise CommandError(str(error)) from error
        except NoAnswerYet:
            raise CommandError(
                f"PostgreSQL does not answer within {_STATUS_SECONDS:g} s: see `pipeline doctor`."
            ) from None
        except (DatabaseError, InterfaceError) as error:
            raise CommandError(without_secrets(database_errors.describe(error))) from error
        except EventStoreError as error:
            raise CommandError(
                without_secrets(f"The event store does not answer, or refuses ({error}): see `pipeline doctor`.")
            ) from error
        if not is_ok:
            raise SystemExit(1)

    def _run(self, role: str, arguments: list[str]) -> NoReturn:
        if role != "all":
            become(role, arguments)
        if arguments:
            self.stderr.write("`pipeline run all` takes no arguments: they are those of one program.")
            raise SystemExit(2)
        raise SystemExit(run_all())

    def _status(self, options: dict[str, Any]) -> bool:
        status = Within(read_status, seconds=_STATUS_SECONDS).answer()
        self.stdout.write(json.dumps(status.as_json()) if options["json"] else tables.of_status(status))
        return not status.problems

    def _doctor(self, options: dict[str, Any]) -> bool:
        findings = examine(config())
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in findings]))
        else:
            for finding in findings:
                mark = self.style.SUCCESS("OK  ") if finding.is_ok else self.style.ERROR("FAIL")
                self.stdout.write(f"{mark} {finding.check}: {finding.detail}")
        return all(finding.is_ok for finding in findings)

    def _recover(self, options: dict[str, Any]) -> bool:
        store = event_store(config())
        rows = sum(stranded.bring_back().values())
        windows = recover(
            store,
            window_rules(config()),
            limits=window_limits(config()),
            unsealed_seconds=config().unsealed_seconds,
            should_stop=lambda: False,
        )
        store.close()
        found = {"windows": windows, **({"stranded_rows": rows} if rows else {})}
        text = f"{windows} window(s) recovered" + (f", {rows} stranded row(s) given to the dispatcher" if rows else "")
        self.stdout.write(json.dumps(found) if options["json"] else text)
        return True

    def _seals(self, options: dict[str, Any]) -> bool:
        return auditing.seals(self, options)

    def _close(self, windows: list[UUID], *, reason: str) -> None:
        if not reason.strip():
            self.stderr.write("Say why: `pipeline verify --close WINDOW ... --reason TEXT`.")
            raise SystemExit(2)
        store = verifier_store(config(), store=event_store(config()))
        try:
            close(windows, store, reason=reason.strip(), by=operator())
        except NoAlarm as error:
            raise CommandError(str(error)) from error
        finally:
            store.close()

    def _verify(self, options: dict[str, Any]) -> bool:
        if options["deep"]:
            return auditing.verify_deep(self, options)
        auditing.require_nothing_of_deep(options)
        if options["close"]:
            self._close(options["close"], reason=options["reason"])
        since = options["since"] or datetime.now(UTC) - timedelta(days=1)
        store = verifier_store(config(), store=event_store(config()))
        report = read_period(store, since=since, until=options["until"])
        verify_receipts(store, should_stop=lambda: False)
        store.close()
        self.stdout.write(json.dumps(report.as_json()) if options["json"] else tables.of_period(report))
        return report.is_ok

    def _deadletters(self, options: dict[str, Any]) -> bool:
        what, ids, as_json = options["what"], options["ids"], options["json"]
        if what != "list" and not ids and not (options["all"] and what != "show"):
            self.stderr.write(f"Say which: `pipeline deadletters {what} NUMBER ...`, or --all.")
            raise SystemExit(2)
        letters = deadletters.find(ids if not options["all"] else None) if what != "list" else deadletters.find(None)
        if unknown := set(ids) - {letter.id for letter in letters}:
            raise CommandError(f"No dead letter has the number {min(unknown)}: see `pipeline deadletters list`.")
        if what == "drop":
            self._confirm_drop(letters, is_sure=options["yes"])
            deadletters.drop(letters, by=operator())
        elif what == "replay":
            deadletters.replay(letters, batch_ids=config().batch_ids, enqueue=enqueue_batches)
        elif what == "show":
            record_reading("pipeline deadletters show", rows=len(letters))
        self._show_deadletters(letters, as_json=as_json, with_context=what == "show")
        if not as_json and what in {"drop", "replay"}:
            self.stdout.write(f"{len(letters)} {'dropped' if what == 'drop' else 'requeued'}")
        return what != "list" or not letters

    def _outboxes(self, options: dict[str, Any]) -> bool:
        if options["what"] == "rename":
            store = event_store(config())
            outboxes.rename(options["old"], options["new"], store, window_rules(config()), is_sure=options["yes"])
            store.close()
        elif options["what"] == "discard":
            question = f"Give up all events under {options['name']} that are not stored? Type discard: "
            if not options["yes"] and input(question).strip() != "discard":
                raise CommandError("Nothing was discarded.")
            outboxes.discard(options["name"], by=operator())
        unknown = names.find_unknown(list(all_outboxes())).values()
        known = sorted(all_outboxes())
        if options["json"]:
            self.stdout.write(json.dumps({"outboxes": known, "unknown": [asdict(name) for name in unknown]}))
        else:
            self.stdout.write("\n".join([*known, *(f"! {problem(name)}" for name in unknown)]))
        return options["what"] != "list" or not unknown

    def _leave(self, options: dict[str, Any]) -> bool:
        def is_sure(answer: leaving.Answer, names_of_tables: list[str]) -> bool:
            if options["yes"] or options["json"]:
                return bool(options["yes"])
            self.stdout.write(f"{answer.as_text().partition('Next:')[0].rstrip()}\n\nNothing is left to deliver.")
            try:
                return input(f"Remove {', '.join(names_of_tables)} for good? Type leave: ").strip() == "leave"
            except EOFError:  # nobody is there to answer
                return False

        answer = leaving.leave(is_sure=is_sure)
        self.stdout.write(json.dumps(answer.as_json()) if options["json"] else answer.as_text())
        return answer.is_ok

    def _free_migrations(self, options: dict[str, Any]) -> bool:
        if classes := leaving.project_outboxes():
            raise CommandError(
                f"First delete {', '.join(classes)}, and run makemigrations: it compares these classes with the"
                " migrations. (docs/leaving.md)"
            )
        try:
            written = [str(path) for path in freed_migrations.free()]
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}. What is written already is complete.") from error
        left = [str(path) for path in freed_migrations.find()]
        if options["json"]:
            self.stdout.write(json.dumps({"written": written, "names_towpath": left}))
        else:
            lines = [f"written: {path}" for path in written] or ["nothing to write"]
            self.stdout.write(
                "\n".join([*lines, *(f"! {path} still names towpath: change it by hand" for path in left)])
            )
        return not left

    def _confirm_drop(self, letters: list[Letter], *, is_sure: bool) -> None:
        if is_sure:
            return
        answer = input(f"Delete {len(letters)} event(s) for good, without storing them? Type drop: ")
        if answer.strip() != "drop":
            raise CommandError("Nothing was dropped.")

    def _show_deadletters(self, letters: list[Letter], *, as_json: bool, with_context: bool) -> None:
        shown = [
            {
                "id": letter.id,
                "outbox": letter.outbox,
                "row_id": letter.row_id,
                "error": letter.error,
                "window": str(letter.window_id),
                "at": letter.at.isoformat(),
                **(deadletters.event_of(letter) if with_context else {}),
            }
            for letter in letters
        ]
        if as_json:
            self.stdout.write(json.dumps(shown, default=str))
            return
        for letter in shown:
            self.stdout.write("  ".join(f"{name}={value}" for name, value in letter.items()))
