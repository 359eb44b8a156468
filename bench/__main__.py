"""Measures migrate-v2 against rclone, s5cmd and the AWS CLI on loopback: interleaved runs, medians, ratios.

    make bench                    all workloads, three rounds
    make bench ARGS=--short       two minutes
    make bench ARGS="--folder /mnt/disk/bench --only small"

Every run gets a destination of its own in --folder (default: /dev/shm, memory), which is removed at the very end: freeing
20,000 files slows ext4 for minutes. CPU is that of a program and of all that it started.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.server import Server, Workload, make

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-bench" / "bin"
PROGRAM = ROOT / "bin" / "migrate-v2"

FULL = {
    "small": Workload(((20_000, 4096),)),
    "medium": Workload(((2_000, 1 << 20),)),
    "large": Workload(((8, 256 << 20),), per_folder=4),
    "mixed": Workload(((5_000, 4096), (300, 1 << 20), (2, 256 << 20))),
}
SHORT = {
    "small": Workload(((4_000, 4096),), per_folder=500),
    "large": Workload(((3, 256 << 20),), per_folder=1),
}

# (workload, contender, what of it, against which of these, at most)
RATIOS = (
    ("small", "native", "wall", ("rclone",), 0.80),
    ("small", "native", "cpu", ("rclone",), 0.75),
    ("small", "native", "wall", ("s5cmd",), 0.30),
    ("large", "native", "wall", ("rclone", "s5cmd"), 1.10),
    ("small", "native whole", "wall", ("rclone + check",), 0.80),
    ("small", "native whole", "wall", ("rclone",), 1.50),
    ("small", "cli", "wall", ("aws",), 0.70),
    ("large", "cli", "wall", ("aws",), 1.00),
    ("small", "cli", "own", ("children",), 0.05),
)


WRITTEN = (
    "`make bench` writes this page anew. Where the time goes that a ratio is not reached by stands in PROFILE.md.",
    "",
    "Ratios are medians of those of each round: the contenders of a round run one after the other, so that what else the",
    "machine was doing is in all of them. CPU is that of a program and of all that it started.",
)


@dataclass(frozen=True, slots=True)
class Run:
    wall: float
    cpu: float
    own: float  # of the program itself, without its children
    server: float  # CPU of the server meanwhile


def measured(commands: Sequence[Sequence[str]], env: Mapping[str, str], cwd: Path, server: Server) -> Run:
    """Runs these one after the other; SystemExit with their words where one fails."""
    before_server, began = server.cpu_seconds(), time.monotonic()
    cpu = own = 0.0
    for command in commands:
        with (cwd / "said").open("wb") as said:
            child = subprocess.Popen(command, env=dict(env), cwd=cwd, stdout=said, stderr=said)
            watch = _Own(child.pid)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(
                f"bench: {' '.join(command)} ended with {child.returncode}:\n{(cwd / 'said').read_text()[-2000:]}"
            )
        cpu += usage.ru_utime + usage.ru_stime
        own += watch.seconds()
    return Run(time.monotonic() - began, cpu, own, server.cpu_seconds() - before_server)


class _Own:
    """The CPU of one process without its children, as last seen before it ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ticks = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        try:
            while True:
                fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
                if fields[0] == "Z":
                    return
                self._ticks = int(fields[11]) + int(fields[12])
                time.sleep(0.02)
        except (OSError, IndexError):
            return

    def seconds(self) -> float:
        self._thread.join()
        return self._ticks / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, folder: Path, server: Server, workloads: Mapping[str, Workload], peers: Path) -> None:
        self.folder = folder
        self.server = server
        self.workloads = workloads
        self.peers = peers
        self.numbers = 0
        self.states: dict[str, Path] = {}
        self.env = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def ours(self, engine: str, state: Path, home: Path, command: str, bucket: str) -> list[str]:
        options = [f"--engine={engine}", f"--state={state}", f"--dest={home}", f"--endpoint-url={self.server.url}"]
        return [str(PROGRAM), "-q", *options, command, bucket]

    def run(self, bucket: str, contender: str) -> Run:
        self.numbers += 1
        cwd = self.folder / f"run{self.numbers:04}"
        cwd.mkdir(mode=0o700)
        home = cwd / "home"
        env = {**self.env, "MIGRATE_V2_METADATA": "none"}  # peers keep none either
        url = self.server.url
        rclone = [str(self.peers / "rclone"), "--config", os.devnull]
        remote = f":s3,provider=Other,env_auth=true,force_path_style=true,region=us-east-1,endpoint='{url}':{bucket}"
        copy = [*rclone, "copy", remote, str(home), "--transfers", "32", "--checkers", "16"]
        check = [*rclone, "check", "--download", remote, str(home), "--checkers", "16"]
        if contender in ("native", "cli"):
            scanned = self.scanned(bucket)
            shutil.copy(scanned, cwd / "state.db")
            shutil.copy(f"{scanned}.key", cwd / "state.db.key")
            if contender == "cli":
                env["MIGRATE_V2_AWS_PATH"] = str(self.peers / "aws")
            return measured([self.ours(contender, cwd / "state.db", home, "sync", bucket)], env, cwd, self.server)
        commands: dict[str, list[list[str]]] = {
            "native whole": [self.ours("native", cwd / "state.db", home, "migrate", bucket)],
            "rclone": [copy],
            "rclone + check": [copy, check],
            "s5cmd": [
                [
                    str(self.peers / "s5cmd"),
                    "--log",
                    "error",
                    "--endpoint-url",
                    url,
                    "sync",
                    f"s3://{bucket}/*",
                    str(home),
                ]
            ],
            "aws": [
                [
                    str(self.peers / "aws"),
                    "--endpoint-url",
                    url,
                    "s3",
                    "sync",
                    f"s3://{bucket}",
                    str(home),
                    "--only-show-errors",
                ]
            ],
        }
        return measured(commands[contender], env, cwd, self.server)

    def scanned(self, bucket: str) -> Path:
        """A state file in which the bucket is listed and nothing is fetched yet."""
        if bucket not in self.states:
            state = self.folder / f"{bucket}.db"
            measured(
                [self.ours("native", state, self.folder / "nowhere", "scan", bucket)],
                self.env,
                self.folder,
                self.server,
            )
            self.states[bucket] = state
        return self.states[bucket]

    def complete(self, bucket: str) -> None:
        """SystemExit unless the last run brought every object."""
        home = self.folder / f"run{self.numbers:04}" / "home"
        here = sum(1 for path in home.rglob("*.bin") if path.is_file())
        if here != self.workloads[bucket].count:
            raise SystemExit(f"bench: {here} files of {self.workloads[bucket].count} in {home}")


CONTENDERS = {
    "small": ("native", "rclone", "native whole", "rclone + check", "s5cmd", "cli", "aws"),
    "medium": ("native", "rclone", "s5cmd", "cli", "aws"),
    "large": ("native", "rclone", "s5cmd", "cli", "aws"),
    "mixed": ("native", "rclone", "s5cmd", "cli", "aws"),
}


def versions(peers: Path) -> str:
    def first(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0]

    return "; ".join(
        [
            first(str(PROGRAM), "--version"),
            first(str(peers / "rclone"), "version"),
            f"s5cmd {first(str(peers / 's5cmd'), 'version')}",
            first(str(peers / "aws"), "--version"),
        ]
    )


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{len(os.sched_getaffinity(0))} cores ({model}), {memory} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def table(runs: Mapping[tuple[str, str], Sequence[Run]], workloads: Mapping[str, Workload]) -> list[str]:
    lines = [
        "| workload | contender | wall s | all walls | CPU s | own CPU s | server's CPU / wall |",
        "|---|---|---|---|---|---|---|",
    ]
    for (bucket, contender), some in runs.items():
        walls = ", ".join(f"{run.wall:.1f}" for run in some)
        median = {name: statistics.median(getattr(run, name) for run in some) for name in ("wall", "cpu", "own")}
        share = statistics.median(run.server / run.wall for run in some)
        lines.append(
            f"| {bucket} | {contender} | {median['wall']:.2f} | {walls} | {median['cpu']:.2f} | {median['own']:.2f} | {share:.2f} |"
        )
    return lines


def ratios(runs: Mapping[tuple[str, str], Sequence[Run]]) -> list[str]:
    lines = ["| workload | | against | ratio | at most | |", "|---|---|---|---|---|---|"]
    for bucket, contender, name, against, most in RATIOS:
        mine = runs.get((bucket, contender))
        if not mine:
            continue
        if against == ("children",):
            ratio = statistics.median(run.own / (run.cpu - run.own) for run in mine)
        else:
            others = [runs[bucket, peer] for peer in against if (bucket, peer) in runs]
            if not others:
                continue
            # Each round by itself: what else the machine was doing then is in both.
            ratio = statistics.median(
                getattr(run, name) / min(getattr(other[number], name) for other in others)
                for number, run in enumerate(mine)
                if all(number < len(other) for other in others)
            )
        verdict = "reached" if ratio <= most else "NOT reached"
        lines.append(
            f"| {bucket} | {contender}, {name} | {' or '.join(against)} | {ratio:.2f} | {most:.2f} | {verdict} |"
        )
    return lines


def bottleneck(runs: Mapping[tuple[str, str], Sequence[Run]]) -> list[str]:
    """How it was checked that the server is not what is measured."""
    most, (bucket, contender) = max((run.server / run.wall, name) for name, some in runs.items() for run in some)
    return [
        "Is the server the bottleneck? Its CPU (the worker that sends and the lister) is read before and after each run: of a",
        f"core it took {most:.2f} at most ({bucket}, {contender}), and a worker that holds things up would take all of one.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--short", action="store_true", help="two minutes, and nothing is written to RESULTS.md")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.0, help="no run begins after so many; the results say so")
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    )
    parser.add_argument("--only", action="append", default=[], help="a workload; may be given again")
    parser.add_argument("--contender", action="append", default=[], help="a contender; may be given again")
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument(
        "--results", type=Path, help="write the results there (default: bench/RESULTS.md of a full run)"
    )
    given = parser.parse_args(arguments)
    workloads = {
        name: load for name, load in (SHORT if given.short else FULL).items() if not given.only or name in given.only
    }
    say: Callable[[str], object] = lambda line: print(line, flush=True)  # noqa: E731
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    load_before, began, left_out = os.getloadavg()[0], time.monotonic(), 0
    folder = Path(tempfile.mkdtemp(prefix="migrate-v2-bench-", dir=given.folder))
    try:
        say(f"making {sum(load.bytes for load in workloads.values()) >> 20:,} MiB in {folder}")
        objects = {name: make(folder / "objects", name, load) for name, load in workloads.items()}
        with Server(folder / "objects", folder / "server", objects, given.peers / "rclone") as server:
            bench = Bench(folder, server, workloads, given.peers)
            for round_ in range(given.rounds):
                for bucket in workloads:
                    for contender in CONTENDERS[bucket]:
                        if given.contender and contender not in given.contender:
                            continue
                        if given.minutes and time.monotonic() - began > 60 * given.minutes:
                            left_out += 1
                            continue
                        run = bench.run(bucket, contender)
                        bench.complete(bucket)
                        runs[bucket, contender].append(run)
                        load = os.getloadavg()[0]
                        say(
                            f"round {round_ + 1}  {bucket:7} {contender:15} {run.wall:7.2f} s  CPU {run.cpu:6.2f} s  load {load:.1f}"
                        )
                        if workloads[bucket].bytes > 1 << 30:  # memory is not endless, and few files are soon gone
                            shutil.rmtree(folder / f"run{bench.numbers:04}" / "home")
        lines = [
            f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {max(map(len, runs.values()))} rounds, in {given.folder}; {machine()}.",
            *([f"{left_out} runs were left out: the time was up."] if left_out else []),
            f"Versions: {versions(given.peers)}.",
            f"Server: {server.kind}, one worker. Load of the machine: {load_before:.1f} before, {os.getloadavg()[0]:.1f} after.",
            "",
            *bottleneck(runs),
            "",
            *(
                f"- {name}: " + " + ".join(f"{count:,} x {size >> 10:,} KiB" for count, size in load.amounts)
                for name, load in workloads.items()
                if any(bucket == name for bucket, _ in runs)
            ),
            "",
            *ratios(runs),
            "",
            *table(runs, workloads),
        ]
        say("\n".join(("", *lines)))
        target = given.results or (
            None if given.short or given.only or given.contender else ROOT / "bench" / "RESULTS.md"
        )
        if target:
            target.write_text("\n".join(["# Results", "", *WRITTEN, "", *lines, ""]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
