"""Bring S3 buckets home: every byte on a local disk, proof of that, and only then, by your own word, the bucket empty.

Usage:
  migrate-v2 [options] plan [--quick] [--wait] [--throughput=SPEED] [--deadline=DATE] [--egress-waiver]
                            [--refresh-prices] [--prices=FILE] [--html=FILE] [<bucket>...]
  migrate-v2 [options] migrate [--wait] [--force-space] [--accept-changes] [<bucket>...]
  migrate-v2 [options] scan [--rescan] [<bucket>...]
  migrate-v2 [options] (restore | glacier) [--wait] [--batch] [--manifest-only] [--upgrade=TIER] [--accept-changes]
                                           [<bucket>...]
  migrate-v2 [options] sync [--accept-changes] [<bucket>...]
  migrate-v2 [options] verify [--refetch] [--offline] [--accept-changes] [<bucket>...]
  migrate-v2 [options] confirm-delete [--dry-run] [--confirm=TOKEN] [--max-delete=N] [--trust-recent=DURATION]
                                      [--allow-older-current] [--allow-volatile] [--abort-uploads]
                                      [--upload-age=DURATION] [--remove-bucket] <name>
  migrate-v2 [options] status [--watch] [<bucket>...]
  migrate-v2 [options] policy generate [--hard] [--template=FILE] [--all | <bucket>...]
  migrate-v2 [options] policy apply [--dry-run] [--merge | --replace] [--public-access-block] [--yes] [--all | <bucket>...]
  migrate-v2 [options] policy rollback [--yes] [--all | <bucket>...]
  migrate-v2 [options] policy freeze [--dry-run] [--hard] [--yes] <bucket>...
  migrate-v2 [options] policy unfreeze [--yes] <bucket>...
  migrate-v2 [options] check-state [--recount]
  migrate-v2 [options] backup-state <file>
  migrate-v2 [options] errors [--cause=CAUSE] [<bucket>...]
  migrate-v2 [options] retry-errors [--cause=CAUSE] [<bucket>...]
  migrate-v2 [options] reset [--dry-run] [--confirm=TOKEN] (--all | <bucket>...)
  migrate-v2 [options] diagnose [--write] [<name>]
  migrate-v2 [options] upgrade-db [<v1-file>]
  migrate-v2 [options] buckets
  migrate-v2 [options] whoami
  migrate-v2 [options] config
  migrate-v2 -h | --help
  migrate-v2 --version

Commands:
  plan            What it will cost, how long it takes, whether it fits and what is in the way; changes nothing.
  migrate         Scan, restore, wait, sync and verify, from wherever each bucket stands; never deletes.
  scan            List every version of every object into the state file.
  restore         Ask Glacier for what is archived, and how far it is; `glacier` is the same word.
  sync            Fetch until nothing is left to fetch.
  verify          Read every local byte again and compare it with what S3 says of it.
  confirm-delete  Show what is proved, ask for the bucket's name, and delete exactly that.
  status          Where each bucket stands.
  policy          Who may do what in a bucket. generate: a policy that keeps all but you out, to policies/<bucket>_policy.json.
                  apply: put it. rollback: put back what was there. freeze: let nobody but you write, while a bucket is
                  brought home. unfreeze: put back what was there.
  check-state     Objects and bytes by state, and whether the kept counts are those of the rows.
  backup-state    Write a consistent copy of the state file and of its key, also while other commands run.
  errors          What failed, by cause, and what to do about it.
  retry-errors    Put what failed back, to be tried again by the next run.
  reset           Forget what is known of buckets, after a typed confirmation; local files stay.
  diagnose        Measure S3, the destination and this machine, and say what to set and how long it will take.
  upgrade-db      Make the state file from one of the older toolkit, which is kept; without a name, from itself.
  buckets         The buckets of this account.
  whoami          The account, the identity, the endpoint and the AWS CLI in use.
  config          The settings in force, and where each comes from.

No bucket named means every bucket that is not excluded; a bucket that is named is taken even if it is. `-` reads names
from standard input, one a line, the first tab-separated field of each.

Options:
  --dest=DIR          The folder that the buckets come to: DIR/<bucket>/<key>.
  --state=FILE        The state file.
  --config=FILE       The settings file.
  --engine=ENGINE     What does the bulk transfer: cli (aws s3 sync) or native (the AWS Common Runtime).
  --profile=NAME      The AWS profile.
  --region=NAME       The AWS region.
  --endpoint-url=URL  An endpoint other than AWS's, for all services.
  --wait              Stay until Glacier has brought everything back (on a terminal: always).
  --force-space       Begin although it does not fit on the disk.
  --accept-changes    Go on although more of a bucket is gone or overwritten than max_change allows.
  --quick             Estimate from CloudWatch's storage metrics, without a scan.
  --throughput=SPEED  The speed of the line, such as 500Mbit/s; else as `diagnose` measured it.
  --deadline=DATE     Say whether all is done by this day, such as 2027-01-12, and what would help.
  --egress-waiver     Data goes out for nothing: AWS has agreed to it.
  --refresh-prices    Ask the AWS Price List first, and keep what it says.
  --prices=FILE       Your own rates, TOML (else ./prices.toml, if there is one).
  --html=FILE         Write the plan as one page with charts, too.
  --batch             Have jobs of S3 Batch Operations ask, not this program object by object.
  --manifest-only     With --batch: write the manifests into ./manifests, and ask for nothing.
  --upgrade=TIER      Ask again for what is on its way at a slower tier: Standard, or Expedited.
  --rescan            List anew what was listed before.
  --refetch           Read again from S3, beside its copy, each object that S3 gives no checksum of.
  --offline           Check the files against the evidence beside them: no AWS, no state file, nothing written.
  --dry-run           Print what would be done, of confirm-delete and reset with its token, and do nothing.
  --confirm=TOKEN     In place of the typed name: the token of exactly the plan that is to be carried out.
  --max-delete=N      Delete N versions and delete markers at most, then stop.
  --trust-recent=DURATION
                      Do not read copies again that were read within DURATION, such as 90m or 12h, and are the same files.
  --allow-older-current
                      Delete a version also where an older version of its key stays and becomes the current one.
  --allow-volatile    Delete although the copies may not last: they lie in memory, in a container's layer, or on FUSE.
  --abort-uploads     Abort the multipart uploads that were never completed, too: nobody can read their parts.
  --upload-age=DURATION
                      With --abort-uploads: abort those that began longer ago than this, such as 90m; 24h where not given.
  --cause=CAUSE       Only what failed for this cause, one of those that `errors` names.
  --write             Put the settings that it advises into the settings file; what stands there stays.
  --recount           Count the rows and keep what that gives.
  --remove-bucket     Remove the bucket too, once nothing at all is left in it.
  --all               Every bucket that is not excluded; reset: every bucket of the state file.
  --yes               In place of the name that is asked for on a terminal, for what can be undone.
  --hard              Close to all others also the way to read, put and delete the policy; freeze: AWS services too.
  --template=FILE     The policy to fill in, such as policies/template.json.
  --merge             Keep the statements that the bucket's policy has (the default).
  --replace           Leave nothing of the bucket's policy.
  --public-access-block  Block all public access to the bucket too.
  --watch             Show it again every two seconds.
  --json              JSON on standard output: a line an event, or one document.
  -q --quiet          Say nothing but warnings and errors.
  -v --verbose        Say more.
  -h --help           Show this.
  --version           Show the version.

Exit status:
  0    done
  1    failed: what, and what to do, was said
  2    the command line or the settings make no sense
  3    not finished (Glacier is not back yet): run the same command again
  4    verification found a difference
  5    refused: no proof, a wrong name or token, not a terminal
  6    another process is at work on this bucket
  130  interrupted: run the same command again
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event as Flag
from typing import Any, TypedDict

from docopt import DocoptExit, docopt

from migrate_v2 import __version__, deletion, outlook, pipeline, prices, settings, sheet
from migrate_v2.board import Line, bucket_lines, one_line, total_lines
from migrate_v2.costs import Stage
from migrate_v2.deletion import Early, Plan
from migrate_v2.edges.disk import Disk, free_at, replace_file
from migrate_v2.edges.s3 import S3, BucketName, Denied, check_bucket_name
from migrate_v2.errors import INTERRUPTED, BadUsage, Failure, Refused, worst
from migrate_v2.events import Event, Failed, PhaseEarned, Stands, Warned
from migrate_v2.flow import batched, few_collections, in_threads
from migrate_v2.keys import are, count_of, show
from migrate_v2.model import UPLOAD_RECENT, FileState, GoneKind, Phase, Row
from migrate_v2.notify import notify, worth_telling
from migrate_v2.ownfiles import in_destination, must_be_outside, must_be_own_state
from migrate_v2.pipeline import Draft, Events, Tools
from migrate_v2.report import Bytes, Report, human, sentence, span
from migrate_v2.steps import errors
from migrate_v2.steps.manifest import proved_by
from migrate_v2.steps.plan import Forecast
from migrate_v2.steps.status import Amount, Standing, Total, glacier_lines, standing, stands_of, total
from migrate_v2.timeline import line_speed
from migrate_v2.tuning import SIZES

_FLAGS = {"--dest": "local_base_path", "--state": "state_db_path", "--engine": "engine"}
_DOCUMENTS = ("plan", "status", "errors", "check-state", "diagnose", "buckets", "whoami", "config")


_STATE_IN_DESTINATION = (
    "the state file {} is in the destination itself and is lost with it: move it and all that is named like it to another"
    " folder, and name it with --state"
)

# Commands that may run while nobody looks.
_WORK = ("migrate", "scan", "restore", "glacier", "sync", "verify", "confirm-delete")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit status."""
    few_collections()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    os.umask(0o077)
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        flags = {name: arguments[flag] for flag, name in _FLAGS.items()}
        chosen = settings.load(flags, arguments["--config"], os.environ, Path.cwd())
    except (BadUsage, Refused) as failure:
        sys.stderr.write(f"migrate-v2: {failure}\n")
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments["--help"]:
        sys.stdout.write(__doc__ or "")
        return 0
    if arguments["--version"]:
        sys.stdout.write(f"migrate-v2 {__version__}\n")
        return 0
    command = next(name for name in _COMMANDS if arguments[name])
    document = command in _DOCUMENTS or arguments["--dry-run"]
    # A log in the working folder is a write, and the destination that --offline reads may be that folder.
    silent = document or arguments["--offline"]
    log = chosen.state_db_path.with_suffix(".log")
    uses_state = command not in ("whoami", "config") and not arguments["--offline"]
    try:
        if uses_state:
            must_be_own_state(chosen.state_db_path, chosen.local_base_path)
    except Refused as failure:
        sys.stderr.write(f"migrate-v2: {failure}\n")
        return failure.code
    with Report(
        json=arguments["--json"],
        quiet=arguments["--quiet"],
        verbose=arguments["--verbose"],
        log_path=None if silent else log,
        stdout=sys.stdout,
        stderr=sys.stderr,
        lines=not document,
    ) as report:
        try:
            if uses_state and not document and in_destination(chosen.state_db_path, chosen.local_base_path):
                report.tell(Warned("", _STATE_IN_DESTINATION.format(show(str(chosen.state_db_path)))))
            with Tools(chosen, partial(_connect, arguments, chosen), os.environ) as tools:
                tools.accepts_changes = arguments["--accept-changes"]
                return _COMMANDS[command](arguments, tools, report)
        except Failure as failure:
            report.error(str(failure))
            if command in _WORK:
                _notify(Failed("", failure.code, str(failure)), chosen, report)
            return failure.code
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            report.error("interrupted; run the same command again to go on")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the one place where the unforeseen becomes a line
            report.exception(error)
            report.error(
                f"unexpected {type(error).__name__}: {show(str(error))}"
                + (f"; {log} has the details" if not silent else "")
            )
            if command in _WORK:
                _notify(Failed("", 1, f"unexpected {type(error).__name__}"), chosen, report)
            return 1


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """The command line by docopt, which takes `--confir=T` for `--confirm=T`; a word that deletes is not abbreviated."""
    known = set(re.findall(r"--[a-z][a-z-]*", __doc__ or ""))
    valued = set(re.findall(r"^  (--[a-z-]+)=", __doc__ or "", re.MULTILINE))
    for word, next_ in pairwise([*argv, ""]):
        if word == "--":
            break
        if word.startswith("--") and word.partition("=")[0] not in known:
            raise BadUsage(f"there is no option {show(word.partition('=')[0])}; see migrate-v2 --help")
        if word in valued and next_.startswith("--"):  # docopt would take it for the value: a folder named --json
            raise BadUsage(f"{word} requires argument; see migrate-v2 --help")
    if (
        "--" in argv
    ):  # names follow, and none of them begins with a dash; docopt would give the two dashes as a name, too
        cut = list(argv).index("--")
        argv = [*argv[:cut], *argv[cut + 1 :]]
    try:
        arguments: dict[str, Any] = docopt(__doc__ or "", list(argv), default_help=False)
    except DocoptExit as exit_:
        # Of docopt's own lines one kind is of use: "--profile requires argument", "--wait must not have an argument".
        said = str(exit_).partition("\n")[0]
        raise BadUsage(f"{said}; see migrate-v2 --help" if said.startswith("-") else _usage(argv)) from exit_
    return arguments


def _usage(argv: Sequence[str]) -> str:
    words = [word for word in argv if not word.startswith("-")]
    usage = re.sub(r"\n {10,}", " ", (__doc__ or "").partition("Commands:")[0])
    lines = re.findall(r"^  (migrate-v2 .*)$", usage, re.MULTILINE)
    for word in words:
        for line in lines:
            if re.search(rf"[ (]{re.escape(word)}[ )]?", line):
                return f"this command line makes no sense; usage: {line}"
    said = f"there is no command {show(words[0])}" if words else "no command is named"
    return f"{said}; see migrate-v2 --help"


def _connect(arguments: Mapping[str, Any], chosen: settings.Settings) -> S3:
    return S3(
        profile=arguments["--profile"],
        region=arguments["--region"],
        endpoint_url=arguments["--endpoint-url"],
        expected_owner=chosen.expected_bucket_owner,
        connections=max(32, chosen.max_concurrent_downloads, chosen.max_concurrent_verifications),
    )


# -- which buckets


def _named(arguments: Mapping[str, Any]) -> list[str] | None:
    """The buckets that were named, once each; None where none was. An empty standard input names nothing: []."""
    given: list[str] = arguments["<bucket>"]
    if not given:
        return None
    names: list[str] = []
    for name in given:
        if name == "-":
            names += [line.split("\t", 1)[0].strip() for line in sys.stdin]
        else:
            names.append(name)
    return [check_bucket_name(name) for name in dict.fromkeys(names) if name]


def _buckets(arguments: Mapping[str, Any], tools: Tools, report: Report) -> list[str]:
    names = _named(arguments)
    if names == []:
        return []
    identity = tools.s3.identity()
    if not identity.account:
        report.say(f"{tools.s3.endpoint} has no STS: the account is unknown")
    if names is None:
        excluded = set(tools.settings.excluded_buckets)
        names = [bucket.name for bucket in tools.s3.buckets() if bucket.name not in excluded]
        if not names:
            report.say("this account has no buckets that are not excluded")
    return names


def _terminal() -> bool:
    return sys.stderr.isatty()


def _tell(events: Iterable[Event], report: Report, tools: Tools | None = None) -> None:
    """With `tools`, a bucket that has earned its proof, or its end, is reported on when its work is over."""
    earned: dict[str, None] = {}
    for event in events:
        report.tell(event)
        if tools is not None:
            _notify(event, tools.settings, report)
        if isinstance(event, PhaseEarned) and event.phase in (Phase.DELETING, Phase.COMPLETE):
            earned[event.bucket] = None
        elif isinstance(event, Stands) and earned.pop(event.bucket, 0) is None and tools is not None:
            _report_on(event.bucket, tools, report)


def _notify(event: Event, chosen: settings.Settings, report: Report) -> None:
    if chosen.notify_command and worth_telling(event) and (wrong := notify(chosen.notify_command, event)):
        report.tell(Warned("", wrong))


def _report_on(bucket: str, tools: Tools, report: Report) -> None:
    """The lines of the dashboard, with this run's own throughput and with what proved the bucket."""
    held = tools.store.bucket(bucket)
    if held is None:
        return
    s = standing(held, tools.store, tools.session, tools.book)
    for line in bucket_lines(s, 100, fancy=False, evidence=proved_by(bucket, tools.disk)):
        report.say(line.text.strip())


# -- commands


def _on_each(
    work: Callable[..., Events], arguments: Mapping[str, Any], tools: Tools, report: Report, **more: Any
) -> int:
    codes: list[int] = []
    _tell(pipeline.each(_buckets(arguments, tools, report), partial(work, tools=tools, **more), codes), report, tools)
    return worst(codes)


def _until_back(
    work: Callable[..., Events], arguments: Mapping[str, Any], tools: Tools, report: Report, **more: Any
) -> int:
    codes: list[int] = []
    names = _buckets(arguments, tools, report)
    wait = arguments["--wait"] or _terminal()
    _tell(pipeline.until_back(names, partial(work, tools=tools, **more), tools, codes, wait=wait), report, tools)
    return worst(codes)


def _migrate(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    tools.settings.base()
    tools.look_for_aws()
    work = partial(pipeline.migrate_bucket, force_space=arguments["--force-space"])
    return _until_back(work, arguments, tools, report)


def _plan(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    names = _named(arguments)
    if names == [] and not arguments["--json"]:  # a document of nothing is one all the same
        return 0
    wish = outlook.Wish(
        quick=arguments["--quick"],
        waits=arguments["--wait"] or _terminal(),
        waiver=arguments["--egress-waiver"],
        line=line_speed(arguments["--throughput"]) if arguments["--throughput"] is not None else None,
        deadline=_day(arguments["--deadline"]),
    )
    html = _own(arguments["--html"], "the page", tools) if arguments["--html"] else None
    cache = prices.cache_file(tools.environ)
    if arguments["--refresh-prices"]:
        for told in outlook.refresh_prices(names, tools, cache, quick=wish.quick):
            report.say(told)
    book = prices.load(cache, prices.own_file(arguments["--prices"], tools.settings.local_base_path))
    forecast = _value(outlook.planned(names, tools, book, wish), report)
    if html is not None:
        from migrate_v2 import page  # its charts take 65 ms to load, and every other command does without

        _write_page(html, page.html(forecast))
    if arguments["--json"]:
        report.document(sheet.document(forecast))
        return 0
    if not sys.stdout.isatty():
        report.table(sheet.LINE_HEADERS, sheet.line_rows(forecast))
        for told in sheet.sentences(forecast):
            report.say(told)
        return 0
    report.table(sheet.BUCKET_HEADERS, sheet.bucket_rows(forecast), right=range(1, 6))
    for stage in Stage:
        if costs := list(sheet.cost_rows(forecast, stage)):
            report.table((sheet.DUE[stage], "quantity", "rate", "amount"), costs, right=(1, 2, 3))
    report.table(sheet.TOTAL_HEADERS, sheet.total_rows(forecast), right=(1,))
    if forecast.tiers:
        report.table(sheet.TIER_HEADERS, sheet.tier_rows(forecast), right=(1, 2, 3))
    report.table(("plan", ""), sheet.fact_rows(forecast))
    if forecast.obstacles:
        report.table(sheet.OBSTACLE_HEADERS, sheet.obstacle_rows(forecast))
    for note in forecast.notes:
        report.say(note)
    return 0


def _value(events: Generator[Event, None, Forecast], report: Report) -> Forecast:
    while True:
        try:
            report.tell(next(events))
        except StopIteration as end:
            told: Forecast = end.value
            return told


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadUsage(f"--deadline: {show(text)[:40]} is not a day, such as 2027-01-12") from None


def _own(named: str, what: str, tools: Tools) -> Path:
    """A file that the operator names, outside the folders of buckets."""
    return must_be_outside(Path(named), what, tools.settings.local_base_path, cure="name a file elsewhere")


def _own_folder(name: str, tools: Tools) -> Path:
    """A folder of this name in the working folder, for files of the program's own."""
    return must_be_outside(Path.cwd() / name, "the folder", tools.settings.local_base_path, folder=True)


def _write_page(target: Path, text: str) -> None:
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        fresh.write_text(text, "utf-8")
        fresh.replace(target)
    except OSError as error:
        raise Failure(f"cannot write {show(str(target))}: {error.strerror}") from error


def _scan(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    return _on_each(pipeline.scan_bucket, arguments, tools, report, rescan=arguments["--rescan"])


def _restore(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    tier = (arguments["--upgrade"] or "").capitalize()
    if tier not in ("", "Standard", "Expedited"):
        raise BadUsage(f"--upgrade is to Standard or to Expedited, not to {show(tier)}")
    if arguments["--manifest-only"]:
        if not arguments["--batch"] or tier:
            raise BadUsage("--manifest-only goes with --batch, and writes manifests only")
        folder = _own_folder("manifests", tools)
        return _on_each(pipeline.manifests_only, arguments, tools, report, folder=folder)
    return _until_back(pipeline.restore_bucket, arguments, tools, report, batch=arguments["--batch"], upgrade=tier)


def _sync(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    tools.settings.base()
    tools.look_for_aws()
    return _on_each(pipeline.sync_bucket, arguments, tools, report)


def _verify(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    tools.settings.base()
    if arguments["--offline"]:
        if arguments["--refetch"]:
            raise BadUsage("--refetch reads from S3, and --offline does without it: give one of them")
        codes: list[int] = []
        if (names := _named(arguments)) != []:
            _tell(pipeline.audit(names, tools.settings, codes), report)
        return worst(codes)
    return _on_each(pipeline.verify_bucket, arguments, tools, report, refetch=arguments["--refetch"])


def _confirm_delete(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    bucket = check_bucket_name(arguments["<name>"])
    tools.settings.base()
    dry_run, token, remove = arguments["--dry-run"], arguments["--confirm"], arguments["--remove-bucket"]
    at_most = settings.count("--max-delete", arguments["--max-delete"])
    trust = settings.duration("--trust-recent", arguments["--trust-recent"])
    upload_age = settings.duration("--upload-age", arguments["--upload-age"]) or pipeline.UPLOAD_AGE
    if not dry_run and token is None and not sys.stdin.isatty():
        raise Refused("this is not a terminal: give --confirm=TOKEN with the token of `confirm-delete --dry-run`")
    if not tools.settings.state_db_path.exists():
        raise Refused(f"there is no state file {show(str(tools.settings.state_db_path))}, so nothing is proved")

    def consent(plan: Plan) -> str:
        if dry_run:
            _show_plan(plan, tools, report, arguments["--json"])
            return ""
        if not (plan.objects or plan.markers or plan.uploads or remove):
            return "nothing to agree to"
        if token is not None:
            if not plan.agrees(token):
                raise Refused(
                    f"this token is not that of the plan as it is now; see `confirm-delete --dry-run {bucket}`"
                )
            return "by its token"
        lines = ["  ".join(line) for line in _plan_lines(plan, at_aws=tools.s3.at_aws)]
        if remove:
            lines.append("The bucket itself is removed too, if nothing is left in it.")
        lines.append(
            "To delete exactly this, type the bucket's name; anything else deletes nothing. The name of the bucket:"
        )
        if _answer(lines, report) != bucket:
            raise Refused("that is not the bucket's name; nothing was deleted")
        return "by the bucket's name, typed on a terminal"

    identity = tools.s3.identity()
    if not identity.account:
        report.say(f"{tools.s3.endpoint} has no STS: the account is unknown")
    codes: list[int] = []
    _tell(
        pipeline.each(
            [bucket],
            lambda name: pipeline.confirm_delete(
                name,
                tools,
                consent,
                token=token or "",
                remove_bucket=remove,
                abort_uploads=arguments["--abort-uploads"],
                upload_age=upload_age,
                at_most=at_most,
                trust=trust,
                allow_older_current=arguments["--allow-older-current"],
                allow_volatile=arguments["--allow-volatile"],
                dry_run=dry_run,
            ),
            codes,
        ),
        report,
        tools,
    )
    return worst(codes)


# So many reasons for what stays are shown before the name is asked for; --dry-run shows each object.
_REASONS = 10


_CANARY = (
    "this endpoint is not AWS: first a DELETE of the smallest object goes out with a wrong ETag. A server that does not refuse it"
    " deletes that object, whose verified copy is here, and nothing else is deleted"
)


def _plan_lines(plan: Plan, *, at_aws: bool) -> list[tuple[str, str]]:
    evidence = ", ".join(f"{count:,} by {kind}" for kind, count in sorted(plan.evidence.items()))
    trusted = f"; not read again if they were within {span(plan.trust.total_seconds())}" if plan.trust else ""
    reasons = sorted(plan.reasons.items(), key=lambda one: (-one[1], one[0]))
    more = sum(count for _, count in reasons[_REASONS:])
    return [
        ("bucket", plan.site.bucket),
        ("account", plan.site.account or "unknown"),
        ("endpoint", plan.site.endpoint),
        ("versioning", plan.site.versioning or "never turned on"),
        ("listed", f"{_figures(plan.listed)} = delete + keep + deleted before + gone"),
        ("delete", f"{_figures((plan.objects, plan.bytes))}, {count_of(plan.markers, 'delete marker')}"),
        ("proved", (evidence or "nothing") + trusted),
        *([("tags", f"not asked again: {plan.tags_not_asked:,}, asked: {plan.tags_asked:,}")] if plan.objects else []),
        *((f"early {class_}", _early(early)) for class_, early in sorted(plan.early.items())),
        *([("abort", f"{count_of(plan.uploads, 'unfinished multipart upload')}")] if plan.uploads else []),
        *(("abort", f"{upload.key}, begun {upload.initiated:%Y-%m-%d %H:%M} UTC") for upload in plan.uploads_named),
        *(
            [("keep", f"{count_of(plan.uploads_recent, 'upload')}: {UPLOAD_RECENT.text}")]
            if plan.uploads_recent
            else []
        ),
        *([("destination", f"on {plan.rests_on}")] if plan.rests_on else []),
        ("keep", _figures(plan.stays) + f", {count_of(plan.kept - plan.stays[0], 'delete marker')}"),
        *(("because", f"{count:,}: {reason}") for reason, count in reasons[:_REASONS]),
        *([("because", f"{more:,}: {deletion.OTHER_REASONS}")] if more else []),
        *([("hard links", f"{_figures(plan.linked)} in files of their own (adopt = copy)")] if plan.linked[0] else []),
        ("deleted before", _figures(plan.deleted)),
        *([("canary", _CANARY)] if plan.conditional and not at_aws else []),
        *([("older versions", "a deletion may make one current")] if plan.rules.allow_older_current else []),
        *(
            (f"gone: {kind.value.replace('_', ' ')}", _figures(amount))
            for kind, amount in plan.gone.items()
            if amount[0]
        ),
        ("token", plan.token),
    ]


def _quantities(gone: Mapping[GoneKind, tuple[int, int]]) -> dict[str, dict[str, int]]:
    return {kind.value: {"objects": objects, "bytes": size} for kind, (objects, size) in gone.items()}


def _early(early: Early) -> str:
    return (
        f"{_figures((early.objects, early.bytes))} of this class are billed as if they were kept until"
        f" {early.until:%Y-%m-%d} at the latest"
    )


def _figures(amount: tuple[int, int]) -> str:
    return f"{count_of(amount[0], 'object')}, {human(amount[1])}"


def _show_plan(plan: Plan, tools: Tools, report: Report, as_json: bool) -> None:
    staying = deletion.kept(tools.store, plan.site, plan.rules)
    if as_json:
        report.document(
            {
                "bucket": plan.site.bucket,
                "token": plan.token,
                "account": plan.site.account,
                "endpoint": plan.site.endpoint,
                "versioning": plan.site.versioning,
                "delete": {"objects": plan.objects, "bytes": plan.bytes, "delete_markers": plan.markers},
                "keep": [
                    {"key": key, "version_id": version, "cause": stays.cause.value, "reason": stays.text}
                    for key, version, stays in staying
                ],
                "evidence": dict(plan.evidence),
                "reasons": dict(plan.reasons),
                "early_deletion": {
                    class_: {"objects": early.objects, "bytes": early.bytes, "until": early.until.isoformat()}
                    for class_, early in plan.early.items()
                },
                "tags": {"asked_again": plan.tags_asked, "not_asked_again": plan.tags_not_asked},
                "canary": bool(plan.conditional) and not tools.s3.at_aws,
                "abort_uploads": plan.uploads,
                "uploads": [
                    {
                        "key": upload.key,
                        "upload_id": upload.upload_id,
                        "initiated": upload.initiated.isoformat(),
                        "abort": stays is None,
                        "cause": stays.cause.value if stays else None,
                    }
                    for upload, stays in deletion.decide_uploads(tools.store, plan.site, plan.rules)
                ],
                "allow_older_current": plan.rules.allow_older_current,
                "trust_recent_seconds": None if plan.trust is None else int(plan.trust.total_seconds()),
                "destination": {
                    "file_system": plan.mount.kind,
                    "durability": plan.mount.durability,
                    "needs_allow_volatile": plan.needs_allow_volatile,
                },
                **{
                    name: {"objects": objects, "bytes": size}
                    for name, (objects, size) in (
                        ("listed", plan.listed),
                        ("kept", plan.stays),
                        ("deleted", plan.deleted),
                        ("linked", plan.linked),
                    )
                },
                "gone": _quantities(plan.gone),
            }
        )
        return
    report.table(("plan", ""), _plan_lines(plan, at_aws=tools.s3.at_aws))
    if plan.kept:
        report.table(
            ("kept", "key", "version", "reason"),
            (("kept", key, version, stays.text) for key, version, stays in staying),
        )


def _policy(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    verb = next(name for name in ("generate", "apply", "rollback", "freeze", "unfreeze") if arguments[name])
    template = _template(arguments, tools)
    names = _policy_buckets(verb, arguments, tools, report)
    folder = _own_folder("policies", tools) if verb in ("generate", "apply") else Path()
    work: Callable[[str], Events]
    drafts: list[Draft] = []
    dry_run = arguments["--dry-run"]

    def consent(draft: Draft) -> bool:
        drafts.append(draft)
        if dry_run:
            if draft.locked_out:
                report.error(f"{draft.bucket}: it would be refused: {'; '.join(draft.locked_out)}")
            return False
        if draft.locked_out or not draft.changes:  # the step refuses, or does nothing
            return True
        lines = [f"| {text}" for text in draft.difference]
        for line in draft.lines:
            if line.changes:
                lines.append(f"{line.who}: {', '.join(line.deeds)}: {line.before} -> {line.after}")
        if draft.blocks:
            lines.append("All public access to the bucket is blocked too.")
        _typed(draft.bucket, f"This changes the policy of {draft.bucket}.", arguments, report, lines)
        return True

    with ExitStack() as opened:
        match verb:
            case "generate":
                if names:
                    disk, hard = opened.enter_context(Disk.open(folder)), arguments["--hard"]
                    work = partial(pipeline.generate_policy, tools=tools, folder=disk, hard=hard, template=template)
            case "apply" | "freeze":
                document = pipeline.generated_document(folder)
                if verb == "freeze":
                    document = pipeline.freeze_document(tools, hard=arguments["--hard"])
                work = partial(
                    pipeline.change_policy,
                    tools=tools,
                    what=verb,
                    document=document,
                    consent=consent,
                    dry_run=dry_run,
                    replaces=arguments["--replace"],
                    blocks=arguments["--public-access-block"],
                )
            case _:
                work = partial(
                    pipeline.take_back_policy,
                    tools=tools,
                    what="apply" if verb == "rollback" else "freeze",
                    consent=lambda why: _typed("", why, arguments, report),
                )
        codes: list[int] = []
        _tell(pipeline.each(names, lambda bucket: work(bucket), codes), report)
    if dry_run:
        _show_drafts(drafts, report, arguments["--json"])
        codes += [Refused.code for draft in drafts if draft.locked_out]
    return worst(codes)


def _policy_buckets(verb: str, arguments: Mapping[str, Any], tools: Tools, report: Report) -> list[str]:
    """Those that were named, all with --all, and for generate on a terminal those that are chosen there."""
    names = _named(arguments)
    if names is not None:
        if names:
            tools.s3.identity()
        return names
    choosing = verb == "generate" and _terminal() and sys.stdin.isatty()
    if not arguments["--all"] and not choosing:
        raise BadUsage(f"policy {verb} needs the names of buckets, or --all")
    found = _buckets({**arguments, "<bucket>": []}, tools, report)
    if arguments["--all"]:
        return pipeline.with_undo(found, tools) if verb == "rollback" else found
    lines = [f"{number}: {name}" for number, name in enumerate(found, 1)]
    lines.append("Which of them? Numbers or names, with spaces between; nothing for none:")
    chosen = []
    for word in _answer(lines, report).replace(",", " ").split():
        name = found[int(word) - 1] if word.isdecimal() and 0 < int(word) <= len(found) else word
        if name not in found:
            raise Refused(f"{show(word)} is none of them; nothing was written")
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def _template(arguments: Mapping[str, Any], tools: Tools) -> str | None:
    if arguments["--template"] is None:
        return None
    if arguments["--hard"]:
        raise BadUsage("--hard is for the program's own policy, and --template gives another: give one of them")
    try:
        return _own(arguments["--template"], "the template", tools).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"the template {show(arguments['--template'])} cannot be read: {error}") from error


def _answer(lines: Sequence[str], report: Report) -> str:
    """What a person at a terminal types after they were shown these lines."""
    report.ask(lines)
    return sys.stdin.readline().strip()


def _typed(bucket: str, what: str, arguments: Mapping[str, Any], report: Report, details: Sequence[str] = ()) -> None:
    """Consent to what can be undone: on a terminal the typed name, or --yes; in a script the command line itself, which names
    the buckets or says --all. What `bucket` is not given for goes over somebody else's change, and needs --yes there.

    `details` are shown before the question, and also where none is asked."""
    if arguments["--yes"] or not sys.stdin.isatty():
        for line in details:
            report.say(line)
        if arguments["--yes"] or bucket:
            return
        raise Refused(f"{what} Nothing was changed; --yes goes on")
    question = f"{what} Type {'the name of the bucket' if bucket else 'yes'} to go on; anything else changes nothing:"
    if _answer([*details, question], report) != (bucket or "yes"):
        raise Refused("not agreed to, and nothing was changed")


def _show_drafts(drafts: Sequence[Draft], report: Report, as_json: bool) -> None:
    if as_json:
        report.document(
            {
                "buckets": [
                    {
                        "bucket": draft.bucket,
                        "changes": draft.changes,
                        "policy": {"now": draft.now, "then": draft.then},
                        "difference": draft.difference,
                        "access": [asdict(line) for line in draft.lines],
                        "locked_out": draft.locked_out,
                    }
                    for draft in drafts
                ]
            }
        )
        return
    for draft in drafts:
        for text in draft.difference:
            report.say(f"| {text}")
        if not draft.changes:
            report.say(f"{draft.bucket}: nothing would change")
    report.table(
        ("bucket", "who", "what", "now", "then"),
        ((d.bucket, line.who, ", ".join(line.deeds), line.before, line.after) for d in drafts for line in d.lines),
    )


# So many buckets are shown whole; of more there is one line each: of a table where it fits into the columns of the terminal.
_WHOLE = 3
_TABLE = 140


def _status(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    names = _named(arguments)
    path = tools.settings.state_db_path
    if names:
        _has_state(tools)
    elif not path.exists():
        report.say(f"there is no state file {show(str(path))} yet; `migrate` or `scan` makes it")
    canvas = report.canvas()
    if arguments["--watch"] and canvas:
        report.watch(_frames(names, tools, *canvas))
        return 0
    while True:
        standings = _standings(names, tools)
        mismatches = pipeline.mismatches([s.bucket for s in standings], tools)
        for bucket, mismatch in mismatches.items():
            report.tell(Warned(bucket, mismatch.text))
        if arguments["--json"]:
            kinds = {bucket: mismatch.kind.value for bucket, mismatch in mismatches.items()}
            report.document(
                {
                    "buckets": [{**_standing_json(s), "mismatch": kinds.get(s.bucket)} for s in standings],
                    "totals": _totals(standings),
                    "overall": _overall(total(standings), tools),
                }
            )
        elif canvas and standings and (names or len(standings) <= _WHOLE or canvas[0] < _TABLE):
            report.draw(_drawn(standings, tools, *canvas, whole=bool(names) or len(standings) <= _WHOLE))
        else:
            report.table(_STATUS_HEADERS, (_status_line(s) for s in standings), right=(*range(2, 10), 12, 13))
            if canvas and standings:
                report.draw(_pairs(total_lines(total(standings), canvas[0], fancy=canvas[1], **_room(tools))))
        if names and not arguments["--watch"]:
            for s in standings:
                report.say(sentence(stands_of(s)))
                for line in glacier_lines(s):
                    report.say(f"{show(s.bucket)}: {line}")
        if not arguments["--watch"] or all(s.phase is Phase.COMPLETE for s in standings):
            return 0
        time.sleep(2)


def _standings(names: list[str] | None, tools: Tools) -> list[Standing]:
    if not tools.settings.state_db_path.exists():
        return []
    standings = []
    for name in tools.store.buckets() if names is None else names:
        held = tools.store.bucket(name)
        if held is None:
            raise Failure(f"{show(name)} is not in the state file; run `scan` for it")
        standings.append(standing(held, tools.store, held.session, tools.book))
    return standings


def _frames(names: list[str] | None, tools: Tools, width: int, fancy: bool) -> Iterator[list[tuple[str, str]]]:
    while True:
        standings = _standings(names, tools)
        yield _drawn(standings, tools, width, fancy, whole=len(standings) <= _WHOLE)
        if all(s.phase is Phase.COMPLETE for s in standings):
            return
        time.sleep(2)


def _drawn(
    standings: Sequence[Standing], tools: Tools, width: int, fancy: bool, *, whole: bool
) -> list[tuple[str, str]]:
    lines: list[Line] = []
    for s in standings:
        lines += [*bucket_lines(s, width, fancy=fancy), Line("")] if whole else [one_line(s, width, fancy=fancy)]
    lines += total_lines(total(standings), width, fancy=fancy, **_room(tools))
    return _pairs(lines)


def _pairs(lines: Iterable[Line]) -> list[tuple[str, str]]:
    return [(line.text, line.style) for line in lines]


class _Room(TypedDict):
    free: int | None
    base: str


def _room(tools: Tools) -> _Room:
    """What is free where the buckets come to; unknown where nobody has said where that is, or it cannot be asked."""
    base = tools.settings.local_base_path
    return {"free": free_at(base) if base else None, "base": str(base or "")}


_STATUS_HEADERS = (
    "bucket", "phase", "objects", "size", "verified", "unprovable", "kept", "in Glacier", "errors", "deleted", "rate", "left", "pending", "gone",
)  # fmt: skip


def _status_line(s: Standing) -> tuple[object, ...]:
    rate = s.throughput.session or s.throughput.overall
    return (
        s.bucket,
        s.phase.value,
        s.objects,
        Bytes(s.bytes),
        s.verified.objects,
        s.unprovable.objects,
        s.kept.objects,
        s.glacier.to_request.objects + s.glacier.restoring.objects,
        s.errors,
        s.deleted.objects,
        f"{human(rate)}/s" if rate else "",
        span(s.eta_seconds) if s.eta_seconds else "",
        s.pending.objects,
        s.gone.total.objects,  # last, so that it moves no column that a script cuts out
    )


def _standing_json(s: Standing) -> dict[str, Any]:
    document = asdict(s)
    document["phase"] = s.phase.value
    document["glacier"] = {name: amount["objects"] for name, amount in document["glacier"].items()}
    document["glacier"] = {stage: amount.objects for stage, amount in _stages(s)}
    document["glacier_bytes"] = {stage: amount.bytes for stage, amount in _stages(s)}
    document["states"] = {state.value: asdict(amount) for state, amount in s.states.items()}
    return document


def _stages(s: Standing) -> tuple[tuple[str, Amount], ...]:
    return (
        ("to_request", s.glacier.to_request),
        ("restoring", s.glacier.restoring),
        ("restored", s.glacier.restored),
    )


def _totals(standings: Sequence[Standing]) -> dict[str, Any]:
    t = total(standings)
    return {
        "buckets": t.buckets,
        "objects": t.objects,
        "bytes": t.bytes,
        "states": {state.value: asdict(t.states.get(state, Amount())) for state in FileState},
    }


def _overall(t: Total, tools: Tools) -> dict[str, Any]:
    room = _room(tools)
    return {
        "phases": {phase.value: count for phase, count in t.phases.items()},
        "storage_classes": {name: asdict(amount) for name, amount in t.storage_classes.items()},
        "errors": t.errors,
        "gone": asdict(t.gone),
        "elapsed_seconds": t.elapsed_seconds,
        "throughput": {"session": t.session, "overall": t.overall},
        "eta_seconds": t.eta_seconds,
        "to_come": asdict(t.to_come),
        "destination": {"path": room["base"], "free_bytes": room["free"]},
    }


def _has_state(tools: Tools) -> Path:
    path = tools.settings.state_db_path
    if not path.exists():
        raise Failure(f"there is no state file {show(str(path))} yet; `migrate` or `scan` makes it")
    return path


def _backup_state(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    _tell(pipeline.backup_state(Path(arguments["<file>"]).absolute(), tools.settings), report)
    return 0


def _check_state(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    path = _has_state(tools)
    store = tools.store
    if damage := store.damage():
        raise Failure(
            f"{show(str(path))} is damaged ({show(damage)}): keep it, put a backup in its place, or begin with a new one"
            " (`migrate` fetches nothing that lies at its place with the size and time of the listing)"
        )
    if arguments["--recount"]:
        store.keep_counted()
    for name in store.buckets():
        store.check_ledger(name)
    groups = store.recount()
    wrong = [group for group in groups if not group.agrees]
    states = {state: Amount() for state in FileState}
    buckets = {name: {state: Amount() for state in FileState} for name in store.buckets()}
    for group in groups:
        states[group.counted.state].add(group.counted)
        buckets.setdefault(group.bucket, {state: Amount() for state in FileState})[group.counted.state].add(
            group.counted
        )
    if arguments["--json"]:
        report.document(
            {
                "states": {state.value: asdict(amount) for state, amount in states.items()},
                "buckets": [
                    {"bucket": name, "states": {state.value: asdict(amount) for state, amount in held.items()}}
                    for name, held in buckets.items()
                ],
                "agrees": not wrong,
                "differences": [
                    {
                        "bucket": group.bucket,
                        "state": group.counted.state.value,
                        "verdict": group.counted.verdict,
                        "counted": {"objects": group.counted.objects, "bytes": group.counted.bytes},
                        "kept": {"objects": group.kept[0], "bytes": group.kept[1]},
                    }
                    for group in wrong
                ],
            }
        )
    else:
        report.table(
            ("state", "objects", "size"),
            ((state.value, amount.objects, Bytes(amount.bytes)) for state, amount in states.items()),
            right=(1, 2),
        )
    for group in wrong:
        counted = group.counted
        report.error(
            f"{show(group.bucket)}: {count_of(counted.objects, 'object')} of {counted.bytes:,} bytes {are(counted.objects)} {counted.state.value}, and"
            f" the kept count says {group.kept[0]:,} of {group.kept[1]:,}"
        )
    if wrong:
        raise Failure("the kept counts are not those of the rows; `migrate-v2 check-state --recount` puts them right")
    report.say("the kept counts are those of the rows")
    return 0


def _cause(arguments: Mapping[str, Any]) -> str | None:
    cause: str | None = arguments["--cause"]
    if cause is not None and cause not in errors.WORDS:
        raise BadUsage(f"there is no cause '{show(cause)}'; there are {', '.join(errors.WORDS)}")
    return cause


def _errors(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    cause, names = _cause(arguments), _named(arguments)
    _has_state(tools)
    buckets = pipeline.known_buckets(names, tools)

    def rows() -> Iterator[tuple[Row, str]]:
        return errors.failed(buckets, tools.store, cause)

    if arguments["--json"]:
        report.long_document(
            "errors",
            (
                {
                    "bucket": row.version.bucket,
                    "key": row.key,
                    "version_id": row.version.version_id,
                    "size": row.version.size,
                    "cause": word,
                    "reason": row.reason,
                }
                for row, word in rows()
            ),
            lambda: {
                "causes": [asdict(group) for group in errors.grouped(rows())],
                "gone": _quantities(errors.gone(buckets, tools.store)),
            },
        )
        return 0
    if absent := sum(objects for objects, _ in errors.gone(buckets, tools.store).values()):
        report.say(
            f"{absent:,} object versions are gone from S3, which is no error: `migrate-v2 status` counts them, and"
            f" `migrate-v2 errors --cause={errors.WORD_GONE}` and evidence.jsonl list them"
        )
    groups = errors.grouped(rows())
    if not groups:
        report.say("nothing is in error")
        return 0
    report.table(
        ("bucket", "key", "version", "cause", "reason"),
        ((r.version.bucket, r.key, r.version.version_id, word, r.reason) for r, word in rows()),
    )
    for group in groups:
        report.say(f"{group.cause}: {count_of(group.objects, 'object')}, {human(group.bytes)}: {group.advice}")
    return 0


def _retry_errors(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    cause, names = _cause(arguments), _named(arguments)
    _has_state(tools)
    codes: list[int] = []
    work = partial(pipeline.retry_errors, tools=tools, cause=cause)
    _tell(pipeline.each(pipeline.known_buckets(names, tools), work, codes), report)
    return worst(codes)


def _reset(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    dry_run, token = arguments["--dry-run"], arguments["--confirm"]
    names = None if arguments["--all"] else _named(arguments)
    if names == []:
        return 0
    if not dry_run and token is None and not sys.stdin.isatty():
        raise Refused("this is not a terminal: give --confirm=TOKEN with the token of `reset --dry-run`")
    _has_state(tools)
    buckets = tools.store.buckets() if names is None else pipeline.known_buckets(names, tools)
    told, expected = pipeline.oblivion(buckets, tools)
    lines = [(o.bucket, o.phase.value, o.objects - o.stays, Bytes(o.bytes), o.stays) for o in told]
    headers = ("bucket", "phase", "objects forgotten", "size", "rows kept")
    if dry_run:
        if arguments["--json"]:
            report.document({"buckets": [asdict(o) for o in told], "token": expected})
        else:
            report.table(headers, lines, right=(2, 3, 4))
            report.table(("", ""), [("token", expected)])
        return 0
    if not buckets:
        report.say("the state file knows no bucket")
        return 0
    if token is None:
        question = []
        for o in told:
            kept = f", {count_of(o.stays, 'row')} protecting only copies {are(o.stays)} kept" if o.stays else ""
            question.append(
                f"{show(o.bucket)}: {count_of(o.objects - o.stays, 'object')} {are(o.objects - o.stays)} forgotten ({o.phase.value}){kept}"
            )
        word = buckets[0] if len(buckets) == 1 else count_of(len(buckets), "bucket")
        question.append(f"Local files stay. To forget exactly this, type: {word}")
        if _answer(question, report) != word:
            raise Refused("that is not what was asked for; nothing was forgotten")
    elif token != expected:
        raise Refused("this token is not that of what would be forgotten now; see `reset --dry-run`")
    codes: list[int] = []
    _tell(pipeline.each(buckets, partial(pipeline.reset_bucket, tools=tools), codes), report)
    return worst(codes)


def _diagnose(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    bucket = None if arguments["<name>"] is None else check_bucket_name(arguments["<name>"])
    path = settings.file_in_use(arguments["--config"], os.environ, Path.cwd())
    if arguments["--write"]:
        must_be_outside(
            path, "the settings file", tools.settings.local_base_path, cure="name another one with --config"
        )
    found = outlook.diagnosis(bucket, tools, lambda text: report.say(text))
    v, n, d, advice = found.vitals, found.network, found.destination, found.advice
    if arguments["--json"]:
        report.document(
            {
                "bucket": found.bucket,
                "s3": asdict(n),
                "destination": asdict(d) if d else None,
                "machine": asdict(v),
                "left": [
                    {"below_bytes": limit, "objects": objects, "bytes": size}
                    for limit, objects, size in zip((*SIZES, None), found.left.objects, found.left.bytes, strict=True)
                ],
                "bottleneck": advice.bottleneck,
                "why": advice.why,
                "expected_seconds": advice.seconds,
                "seconds_of_each": dict(advice.times),
                "settings": dict(advice.settings),
            }
        )
    else:
        report.table(("", ""), _diagnosis_lines(found))
    if arguments["--write"]:
        staying = _write_advice(path, advice.settings)
        report.say(f"written to {show(str(path))}")
        for name in staying:
            report.say(f"{name} is set there already, and stays")
    return 0


def _write_advice(path: Path, advice: Mapping[str, str | int]) -> list[str]:
    """The names of those that the operator has set, which stay."""
    path = path.resolve()  # a link stays one
    try:
        before = path.read_bytes().decode("utf-8") if path.exists() else ""
        text, staying = settings.with_advice(before, advice)
        if text != before:
            replace_file(path, text)
    except OSError as error:
        raise Failure(f"the settings file {show(str(path))} cannot be written: {error.strerror}") from error
    return staying


def _diagnosis_lines(found: outlook.Diagnosis) -> Iterator[tuple[str, str]]:
    v, n, d, advice = found.vitals, found.network, found.destination, found.advice
    yield "bucket", found.bucket or "none"
    if n.note:
        yield "S3", n.note
    if n.latency_seconds is not None:
        yield "S3 answers after", f"{n.latency_seconds * 1000:,.0f} ms"
        yield "one stream", f"{human(n.single or 0)}/s"
        for connections, rate in n.parallel.items():
            yield f"{connections} streams", f"{human(rate)}/s; small objects {n.objects.get(connections, 0):,.0f}/s"
        yield "asked to slow down", f"{n.throttled:,} times"
    if d is not None:
        yield "disk writes", f"{human(d.write)}/s; small files {d.files:,.0f}/s"
        for threads, rate in d.read_hash.items():
            yield f"reads and hashes, {threads} at once", f"{human(rate)}/s"
        yield "disk free", human(d.free)
    else:
        yield "disk", "not measured: where the files shall go is not said (--dest)"
    yield (
        "machine",
        f"{v.cores} cores, {v.busy:.0%} busy; {human(v.memory_available)} of {human(v.memory_bytes)} memory free",
    )
    sockets = "unknown" if v.sockets is None else f"{v.sockets:,}"
    yield (
        "open files, sockets",
        f"{v.open_files:,} of {v.open_files_limit:,} (at most {v.open_files_hard_limit:,}); {sockets} sockets",
    )
    for limit, objects, size in zip((*SIZES, None), found.left.objects, found.left.bytes, strict=True):
        if objects:
            label = f"to come below {human(limit)}" if limit else f"to come from {human(SIZES[-1])}"
            yield label, f"{count_of(objects, 'object')}, {human(size)}"
    for name, seconds in advice.times.items():
        yield f"time for {name}", span(seconds)
    yield "bottleneck", f"{advice.bottleneck}: {advice.why}"
    if advice.seconds is not None:
        yield "expected time", span(advice.seconds)
    for name, value in advice.settings.items():
        yield f"set {name}", str(value)


def _upgrade_db(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    if arguments["<v1-file>"] is not None:
        _own(arguments["<v1-file>"], "the state file", tools)
    _tell(pipeline.upgrade_file(arguments["<v1-file>"], tools.settings), report)
    return 0


def _list_buckets(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    tools.s3.identity()
    known = tools.settings.state_db_path.exists()
    if known:
        try:
            tools.store.buckets()
        except Refused as refusal:  # the older toolkit's, most likely: S3's own list is to be had all the same
            known = False
            report.tell(Warned("", str(refusal)))
    excluded = set(tools.settings.excluded_buckets)
    try:
        found: Iterable[BucketName] = list(tools.s3.buckets())
    except Denied as failure:
        if not known or not tools.store.buckets():
            raise Failure(f"{failure} (s3:ListAllMyBuckets); commands that name a bucket do not need it") from None
        report.tell(Warned("", f"{failure}; these are the buckets that the state file knows"))
        found = [BucketName(name, None, "") for name in tools.store.buckets()]

    def versioning(bucket: BucketName, _: Flag) -> str | None:
        try:
            return tools.s3.versioning(bucket.name)[0]
        except Failure:  # not allowed, or gone meanwhile: the list goes on
            return None

    def lines() -> Iterator[dict[str, Any]]:
        for some in batched(found, 200):
            versions = dict(answer for answer in in_threads(versioning, some, threads=8) if answer is not None)
            for bucket in some:
                held = tools.store.bucket(bucket.name) if known else None
                s = standing(held, tools.store, held.session, tools.book) if held else None
                yield {
                    "bucket": bucket.name,
                    "region": bucket.region or (held.region if held else ""),
                    "created": bucket.created.isoformat(timespec="seconds") if bucket.created else "",
                    "excluded": bucket.name in excluded,
                    "phase": s.phase.value if s else "",
                    "objects": s.objects if s else None,
                    "bytes": s.bytes if s else None,
                    "versioning": versions[bucket],  # None: S3 does not say
                }

    if arguments["--json"]:
        report.document({"buckets": list(lines())})
        return 0
    report.table(
        ("bucket", "region", "created", "excluded", "phase", "objects", "size", "versioning"),
        (
            (
                line["bucket"],
                line["region"],
                line["created"],
                "excluded" if line["excluded"] else "",
                line["phase"],
                "" if line["objects"] is None else line["objects"],
                "" if line["bytes"] is None else Bytes(line["bytes"]),
                "unknown" if line["versioning"] is None else line["versioning"] or "never",
            )
            for line in lines()
        ),
        right=(5, 6),
    )
    return 0


# The first that fits an ARN tells whose it is.
_WHO = (
    (re.compile(r":root$"), "root"),
    (re.compile(r":assumed-role/AWSReservedSSO_"), "SSO role"),
    (re.compile(r":assumed-role/.*/i-[0-9a-f]+$"), "instance role"),
    (re.compile(r":assumed-role/"), "role"),
    (re.compile(r":user/"), "user"),
    (re.compile(r":federated-user/"), "federated user"),
)
# How botocore says that it came by the credentials.
_METHODS = {
    "env": "environment variables",
    "shared-credentials-file": "the credentials file",
    "config-file": "the configuration file",
    "assume-role": "a role that the profile assumes",
    "assume-role-with-web-identity": "a web identity (EKS, OIDC)",
    "sso": "AWS IAM Identity Center (SSO)",
    "login": "`aws login`",
    "iam-role": "the role of this instance",
    "container-role": "the role of this container",
    "custom-process": "a program (credential_process)",
    "boto-config": "the old boto configuration",
}


def _whose(arn: str) -> str:
    return next((who for pattern, who in _WHO if pattern.search(arn)), "")


def _whoami(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    identity = tools.s3.identity()
    try:
        aws = {"path": tools.aws.path, "version": ".".join(map(str, tools.aws.version)), "note": tools.aws.cost}
    except Failure as failure:
        aws = {"path": "", "version": "", "note": str(failure)}
    document = {
        "account": identity.account,
        "arn": identity.arn,
        "identity": _whose(identity.arn),
        "credentials": identity.kind,
        "credentials_from": _METHODS.get(identity.kind, identity.kind),
        "profile": tools.s3.profile_in_use,
        "region": tools.s3.region or "",
        "endpoint": tools.s3.endpoint,
        "aws_cli": aws,
    }
    if document["identity"] == "root":
        report.tell(
            Warned("", "this is the root user of the account: an IAM role with the permissions of the guide is safer")
        )
    if arguments["--json"]:
        report.document(document)
        return 0
    rows = [(name, value or "unknown") for name, value in document.items() if isinstance(value, str)]
    report.table(("", ""), [*rows, ("aws_cli", f"{aws['path']} {aws['version']} {aws['note']}".strip())])
    return 0


def _config(arguments: Mapping[str, Any], tools: Tools, report: Report) -> int:
    rows = list(settings.rows(tools.settings))
    if arguments["--json"]:
        report.document({row.name: {k: v for k, v in asdict(row).items() if k not in ("name", "text")} for row in rows})
        return 0

    def meaning(row: settings.SettingRow) -> str:
        same = row.meaning_cli == row.meaning_native
        return row.meaning_cli if same else f"cli: {row.meaning_cli}; native: {row.meaning_native}"

    headers = ("setting", "value", "from", "what it means, to each engine where they differ")
    report.table(headers, ((row.name, row.text, row.origin, meaning(row)) for row in rows))
    return 0


_COMMANDS: Mapping[str, Callable[[Mapping[str, Any], Tools, Report], int]] = {
    "plan": _plan,
    "migrate": _migrate,
    "scan": _scan,
    "restore": _restore,
    "glacier": _restore,
    "sync": _sync,
    "verify": _verify,
    "confirm-delete": _confirm_delete,
    "status": _status,
    "policy": _policy,
    "check-state": _check_state,
    "backup-state": _backup_state,
    "errors": _errors,
    "retry-errors": _retry_errors,
    "reset": _reset,
    "diagnose": _diagnose,
    "upgrade-db": _upgrade_db,
    "buckets": _list_buckets,
    "whoami": _whoami,
    "config": _config,
}
