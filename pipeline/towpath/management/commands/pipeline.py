"""`manage.py pipeline`: inspect the pipeline, and repair it."""

from __future__ import annotations

import json
from argparse import REMAINDER, ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from towpath.actors import enqueue_batches
from towpath.conf.current import config
from towpath.conf.launch import ROLES, become, run_all
from towpath.errors import NoAlarm, NotDone, NotReadable, OutboxInUse
from towpath.eventlog.errors import EventStoreError
from towpath.flow import deadletters, operating, outboxes
from towpath.flow.deadletters import Done
from towpath.flow.verify import close_alarms, verify_receipts
from towpath.ledger import database_errors, names
from towpath.ledger.deadletters import Letter
from towpath.ledger.moment import planner_as_it_was
from towpath.management import auditing, freed_migrations, leaving, pausing, tables, watching
from towpath.management.answers import nothing_but_the_answer
from towpath.management.arguments import moment, window_id
from towpath.management.consent import confirm
from towpath.management.examples import PIPELINE, add_examples
from towpath.management.operator import operator, record_reading
from towpath.outbox.models import all_outboxes
from towpath.telemetry.secrets import without_secrets
from towpath.watch.doctor import examine
from towpath.watch.overview import read_overview
from towpath.watch.period import read_period
from towpath.watch.unknown_outboxes import problem
from towpath.watch.within import NoAnswerYet
from towpath.wiring import event_store, verifier_store, window_limits, window_rules

#: The time limit of `status`, even if a project's connections have none.
_STATUS_SECONDS = 20.0


class Command(BaseCommand):
    help = "Inspect and repair the pipeline. Exit code 0: all is well; 1: a problem was found; 2: wrong usage."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        for name, text in (
            (
                "status",
                "show what is pending, in flight or stuck, which workers run, and whether the event store answers",
            ),
            (
                "doctor",
                "check every service and setting that the guarantees depend on, and say how to fix each problem",
            ),
            ("recover", "deliver what is stuck, now and in this process"),
        ):
            actions.add_parser(name, help=text).add_argument("--json", action="store_true", help="print JSON")
        watching.add_watch(actions.choices["status"])
        watching.add_tail(actions.add_parser("tail", help="follow windows as they finish, until Ctrl-C"))
        self._add_run(actions.add_parser("run", help="run a process of the pipeline, until it is told to stop"))
        self._add_verify(
            actions.add_parser(
                "verify", help="compare receipts with the event store, and print what became of each row"
            )
        )
        auditing.add_seals(actions.add_parser("seals", help="make, list or export seals, which prove what was stored"))
        self._add_deadletters(
            actions.add_parser("deadletters", help="list, show, replay or drop rows that the event store refuses")
        )
        pausing.add_pause(actions.add_parser("pause", help="keep committed events in their outbox until `resume`"))
        pausing.add_resume(actions.add_parser("resume", help="dispatch events again after `pause`"))
        self._add_outboxes(actions.add_parser("outboxes", help="list, rename or discard outbox names in the ledger"))
        self._add_leave(actions.add_parser("leave", help="remove Towpath from the project, one step at a time"))
        add_examples(actions.choices, PIPELINE, of="pipeline")

    def _add_run(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "role", choices=[*ROLES, "all"], help="the process to run; `all` runs one of each, for development"
        )
        parser.add_argument(
            "arguments", nargs=REMAINDER, help="arguments of dramatiq or periodiq, such as --processes=1"
        )

    def _add_verify(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since", type=moment, help="only rows dispatched from then on (default: a day ago; with --deep: all rows)"
        )
        parser.add_argument("--until", type=moment, help="only rows dispatched before then (default: now)")
        parser.add_argument(
            "--close", nargs="+", type=window_id, metavar="WINDOW", help="close the alarms of these windows"
        )
        parser.add_argument("--reason", default="", help="why you do this; recorded in an event, with your account")
        auditing.add_deep(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")

    def _add_deadletters(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["list", "show", "replay", "drop"], help="what to do with dead letters")
        parser.add_argument("ids", nargs="*", type=int, help="numbers of dead letters, as `list` shows them")
        parser.add_argument("--all", action="store_true", help="replay or drop all dead letters")
        parser.add_argument("--outbox", default="", metavar="TABLE", help="list, replay or drop those of this outbox")
        parser.add_argument(
            "--error", default="", metavar="TEXT", help="list, replay or drop those whose error contains this text"
        )
        parser.add_argument("--yes", action="store_true", help="drop without asking")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def _add_outboxes(self, parser: ArgumentParser) -> None:
        whats = parser.add_subparsers(dest="what", required=True)
        whats.add_parser("list", help="list outboxes, and names that no class has; exit code 1 if there is such a name")
        rename = whats.add_parser(
            "rename", help="after a table was renamed: deliver what the ledger has under its old name"
        )
        rename.add_argument("old", help="the name that no class has")
        rename.add_argument("new", help="the outbox that has the rows now")
        discard = whats.add_parser(
            "discard", help="give up the events that the ledger has under a name; recorded in an event"
        )
        discard.add_argument("name", help="the name that no class has")
        for parser_of_what in (rename, discard):
            parser_of_what.add_argument("--yes", action="store_true", help="do not ask for confirmation")
        for parser_of_what in whats.choices.values():
            parser_of_what.add_argument("--json", action="store_true", help="print JSON")

    def _add_leave(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--migrations",
            action="store_true",
            help="rewrite the project's migrations so that they work without Towpath",
        )
        parser.add_argument("--yes", action="store_true", help="remove tables without asking")
        parser.add_argument("--json", action="store_true", help="print JSON; tables are removed only with --yes")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["action"] == "run":
            self._run(options["role"], options["arguments"])
        with nothing_but_the_answer(self), planner_as_it_was():
            self._handle(options)

    def _handle(self, options: dict[str, Any]) -> None:
        actions: dict[str, Callable[[dict[str, Any]], bool]] = {
            "status": self._status,
            "doctor": self._doctor,
            "recover": self._recover,
            "deadletters": self._deadletters,
            "outboxes": self._outboxes,
            "tail": partial(watching.tail, self),
            "pause": partial(pausing.pause, self),
            "resume": partial(pausing.resume, self),
            "verify": self._verify,
            "seals": partial(auditing.seals, self),
            "leave": self._free_migrations if options.get("migrations") else self._leave,
        }
        try:
            is_ok = actions[options["action"]](options)
        except (NotDone, NotReadable, OutboxInUse) as error:
            raise CommandError(without_secrets(str(error))) from error
        except NoAnswerYet:
            raise CommandError(
                f"PostgreSQL does not answer within {_STATUS_SECONDS:g} s: see `pipeline doctor`."
            ) from None
        except (DatabaseError, InterfaceError) as error:
            raise CommandError(without_secrets(database_errors.describe(error))) from error
        except EventStoreError as error:
            raise CommandError(
                without_secrets(
                    f"The event store does not answer, or refuses the request ({error}): see `pipeline doctor`."
                )
            ) from error
        if not is_ok:
            raise SystemExit(1)

    def _run(self, role: str, arguments: list[str]) -> NoReturn:
        if role != "all":
            become(role, arguments)
        if arguments:
            self.stderr.write("`pipeline run all` takes no arguments. To pass arguments, run one role.")
            raise SystemExit(2)
        raise SystemExit(run_all())

    def _status(self, options: dict[str, Any]) -> bool:
        if options["watch"] and options["json"]:
            self.stderr.write("--watch shows a screen for people: leave out --json, or ask for JSON again and again.")
            raise SystemExit(2)
        if options["watch"]:
            watching.watch(self, looks=options["looks"])
            return True
        status = read_overview(config(), seconds=_STATUS_SECONDS)
        self.stdout.write(json.dumps(status.as_json()) if options["json"] else tables.of_status(status))
        return not status.problems

    def _doctor(self, options: dict[str, Any]) -> bool:
        findings = examine(config())
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in findings]))
        else:
            for finding in findings:
                mark = self.style.SUCCESS("OK  ") if finding.is_ok else self.style.ERROR("FAIL")
                self.stdout.write(f"{mark} {tables.printable(f'{finding.check}: {finding.detail}')}")
        return all(finding.is_ok for finding in findings)

    def _recover(self, options: dict[str, Any]) -> bool:
        store = event_store(config())
        look = partial(
            operating.recover_now,
            store,
            window_rules(config()),
            limits=window_limits(config()),
            unsealed_seconds=config().unsealed_seconds,
            by=operator(),
        )
        try:
            done = operating.carry_out(look, action="recover", target="", by=operator())
        finally:
            store.close()
        windows, rows = done.windows, done.stranded_rows
        found = {"windows": windows, **({"stranded_rows": rows} if rows else {})}
        if done.undelivered:
            found["undelivered"] = done.undelivered
            self.stderr.write(f"{done.undelivered} window(s) could not be delivered: {tables.printable(done.why)}")
        text = f"{windows} window(s) recovered" + (f", {rows} stranded row(s) handed to the dispatcher" if rows else "")
        self.stdout.write(json.dumps(found) if options["json"] else text)
        return not done.undelivered

    def _close(self, windows: list[UUID], *, reason: str) -> None:
        if not reason.strip():
            self.stderr.write("Say why: `pipeline verify --close WINDOW ... --reason TEXT`.")
            raise SystemExit(2)
        store = verifier_store(config())
        try:
            close_alarms(windows, store, reason=reason.strip(), by=operator())
        except NoAlarm as error:
            raise CommandError(str(error)) from error
        finally:
            store.close()

    def _verify(self, options: dict[str, Any]) -> bool:
        since, until = options["since"], options["until"]
        if not options["deep"]:
            auditing.require_nothing_of_deep(options)
            if options["reason"] and not options["close"]:
                raise CommandError("--reason needs --close, or --deep and --accept or --accept-unproven.", returncode=2)
            since = since or datetime.now(UTC) - timedelta(days=1)
        if since and until and since >= until:
            raise CommandError(
                f"--since{'' if options['since'] else ' (a day ago, if it is not given)'} must be before --until.",
                returncode=2,
            )
        if options["deep"]:
            return auditing.verify_deep(self, options)
        if options["close"]:
            self._close(options["close"], reason=options["reason"])
        store = verifier_store(config())
        report = read_period(store, since=since, until=until)
        verify_receipts(store, should_stop=lambda: False)
        store.close()
        self.stdout.write(json.dumps(report.as_json()) if options["json"] else tables.of_period(report))
        return report.is_ok

    def _deadletters(self, options: dict[str, Any]) -> bool:
        what, ids, as_json = options["what"], options["ids"], options["json"]
        letters = self._chosen_letters(what, ids, options)
        if unknown := set(ids) - {letter.id for letter in letters}:
            raise CommandError(f"No dead letter has the number {min(unknown)}: see `pipeline deadletters list`.")
        if what == "drop":
            question = f"Delete {len(letters)} event(s) for good, without storing them? Type drop: "
            confirm(question, "drop", is_sure=options["yes"])
            return self._act(what, letters, partial(operating.drop, letters, by=operator()), as_json=as_json)
        if what == "replay":
            again = partial(operating.replay, batch_ids=config().batch_ids, enqueue=enqueue_batches)
            return self._act(what, letters, partial(again, letters, by=operator()), as_json=as_json)
        if what == "show":
            record_reading("pipeline deadletters show", rows=len(letters))
        if not letters and not as_json and (options["outbox"] or options["error"]):
            self.stdout.write("no dead letter matches")
        else:
            self._show_deadletters(letters, as_json=as_json, with_context=what == "show")
        return what != "list" or not letters

    def _chosen_letters(self, what: str, ids: list[int], options: dict[str, Any]) -> list[Letter]:
        filtered = {"outbox": options["outbox"], "error": options["error"]}
        ways = sum((bool(ids), options["all"], any(filtered.values())))
        if ways > 1 or (what != "list" and not ways) or (what == "show" and not ids):
            others = "" if what == "show" else ", or by --all, or by --outbox and --error"
            self.stderr.write(f"Say which dead letters to {what}: by their numbers{others}.")
            raise SystemExit(2)
        if not any(filtered.values()):
            return deadletters.find(ids or None)
        found = deadletters.find_newest(**filtered)
        if not found and (outbox := options["outbox"]) not in {"", *all_outboxes()}:
            raise CommandError(f"No outbox, and no dead letter, has the name {outbox}: see `pipeline outboxes list`.")
        return found

    def _act(self, action: str, letters: Sequence[Letter], do: Callable[[], Done], *, as_json: bool) -> bool:
        """Say which letters the action took, and which were gone. True if it took all of them."""
        numbers = " ".join(str(letter.id) for letter in letters)
        done = operating.carry_out(do, action=action, target=numbers, by=operator())
        if as_json or done.letters or not done.gone:
            self._show_deadletters(done.letters, as_json=as_json, with_context=False)
        if not as_json:
            self.stdout.write(f"{len(done.letters)} {'dropped' if action == 'drop' else 'requeued'}")
        if done.gone:
            self.stderr.write(done.missed)
        return not done.gone

    def _outboxes(self, options: dict[str, Any]) -> bool:
        if options["what"] == "rename":
            store = event_store(config())
            outboxes.rename(options["old"], options["new"], store, window_rules(config()), is_sure=options["yes"])
            store.close()
        elif options["what"] == "discard":
            question = f"Give up all events under {options['name']} that are not stored? Type discard: "
            confirm(question, "discard", is_sure=options["yes"])
            outboxes.discard(options["name"], by=operator())
        unknown = names.find_unknown(list(all_outboxes())).values()
        known = sorted(all_outboxes())
        if options["json"]:
            self.stdout.write(json.dumps({"outboxes": known, "unknown": [asdict(name) for name in unknown]}))
        else:
            self.stdout.write("\n".join([*known, *(tables.printable(f"! {problem(name)}") for name in unknown)]))
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
                f"First delete {', '.join(classes)}, and run makemigrations, which compares these classes with the"
                " migrations. See docs/leaving.md."
            )
        try:
            written = [str(path) for path in freed_migrations.free()]
        except OSError as error:
            raise CommandError(
                f"{error.filename}: {error.strerror}. The files that were written before it are complete."
            ) from error
        left = [str(path) for path in freed_migrations.find()]
        if options["json"]:
            self.stdout.write(json.dumps({"written": written, "names_towpath": left}))
        else:
            lines = [f"written: {path}" for path in written] or ["nothing to write"]
            self.stdout.write(
                "\n".join([*lines, *(f"! {path} still refers to towpath: change it by hand" for path in left)])
            )
        return not left

    def _show_deadletters(self, letters: Sequence[Letter], *, as_json: bool, with_context: bool) -> None:
        shown = [
            {
                "id": letter.id,
                "outbox": letter.outbox,
                "row_id": letter.row_id,
                "error": letter.error,
                "window": str(letter.window_id),
                "at": letter.at.isoformat(),
                **(deadletters.event_of(letter.outbox, letter.row_id) if with_context else {}),
            }
            for letter in letters
        ]
        if as_json:
            self.stdout.write(json.dumps(shown, default=str))
            return
        if not shown:
            self.stdout.write("no dead letters")
        for letter in shown:
            self.stdout.write(tables.printable("  ".join(f"{name}={value}" for name, value in letter.items())))
