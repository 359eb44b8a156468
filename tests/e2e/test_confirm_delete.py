"""confirm-delete deletes exactly the plan that a person agreed to, and whatever is odd deletes nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import ROOT, Run, fill, in_s3, phase, query, sha256, states, tree
from tests.e2e.test_migrate import checked_by_sha256sum, copies
from tests.fakes.forks import Job, Zygote, as_by_the_script
from tests.fakes.oracle import Oracle

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OBJECTS = {"a": b"file", "a/b": b"beneath it", "folder/": b"", "x//y": b"aside", "empty": b"", "photo.jpg": bytes(5000)}
BYTES = sum(map(len, OBJECTS.values()))


@pytest.fixture
def home_already(run: Run, boto: S3Client, bucket: str) -> str:
    """A bucket whose every object is verified."""
    fill(boto, bucket, OBJECTS)
    assert run("migrate", bucket).returncode == 0
    return bucket


def planned(run: Run, bucket: str, env: dict[str, str | None] | None = None) -> dict[str, Any]:
    ended = run("confirm-delete", "--dry-run", "--json", bucket, env=env)
    assert ended.returncode == 0, ended.stderr
    plan: dict[str, Any] = json.loads(ended.stdout)
    return plan


def test_only_the_exact_plan_is_carried_out(
    run: Run, boto: S3Client, home_already: str, home: Path, state: Path, account: str, oracle: Oracle
) -> None:
    """P1, P3: no token, a wrong one and a stale one exit 5, a changed copy exits 4; nothing of it deletes anything."""
    bucket = home_already
    before = in_s3(boto, bucket)
    first = planned(run, bucket)
    assert set(first) >= {"bucket", "token", "account", "endpoint", "delete", "keep", "evidence"}
    assert (first["bucket"], first["account"], first["endpoint"]) == (bucket, account, oracle.url)
    assert {name: first["delete"][name] for name in ("objects", "bytes")} == {"objects": len(OBJECTS), "bytes": BYTES}
    assert (first["keep"], first["evidence"]) == ([], {"md5-etag": 4, "empty": 2})
    assert in_s3(boto, bucket) == before

    def refused(*arguments: str, code: int = 5) -> str:
        there = in_s3(boto, bucket)
        ended = run("confirm-delete", *arguments, bucket)
        assert ended.returncode == code, ended.stderr
        assert in_s3(boto, bucket) == there
        assert "deleted" not in states(state, bucket)
        assert query(state, "select count(*) from deletions") == [(0,)]
        return ended.stderr

    assert "--confirm" in refused()
    refused(f"--confirm={'0' * 40}")
    refused("--confirm=")

    # A plan made before the bucket changed, in each way that a bucket can change.
    stale = f"--confirm={first['token']}"
    fill(boto, bucket, {"new": b"came later"})
    refused(stale)
    boto.delete_object(Bucket=bucket, Key="new")
    fill(boto, bucket, {"photo.jpg": bytes(4999) + b"!"})
    refused(stale)
    boto.delete_object(Bucket=bucket, Key="photo.jpg")
    refused(stale)
    assert (home / bucket / "photo.jpg").read_bytes() == bytes(5000)

    # A copy that changed since it was verified.
    now = planned(run, bucket)
    assert now["delete"]["objects"] == len(OBJECTS) - 1
    (home / bucket / "a" / "b").write_bytes(b"beneath IT")
    assert "a/b" in refused(f"--confirm={now['token']}", code=4)
    assert states(state, bucket)["discovered"] == 1


def test_what_is_proved_goes_and_the_rest_stays(
    run: Run, boto: S3Client, home_already: str, home: Path, state: Path
) -> None:
    """P2, P5: by If-Match what was verified; what is not proved is kept with its reason; then it is deleted too."""
    bucket = home_already
    here = tree(home / bucket)
    fill(boto, bucket, {"frozen": b"in Glacier"}, StorageClass="GLACIER")
    plan = planned(run, bucket)
    assert plan["delete"]["objects"] == len(OBJECTS)
    ((kept),) = plan["keep"]
    assert (kept["key"], kept["version_id"]) == ("frozen", "null")
    assert "not proved" in kept["reason"]

    ended = run("confirm-delete", f"--confirm={plan['token']}", "--json", bucket)
    assert ended.returncode == 0, ended.stderr
    assert all("event" in json.loads(line) for line in ended.stdout.splitlines())
    assert [key for key, _ in in_s3(boto, bucket)] == ["frozen"]
    assert states(state, bucket) == {"deleted": len(OBJECTS), "discovered": 1}
    assert query(state, "select count(*), count(distinct token), min(outcome) from deletions") == [
        (len(OBJECTS), 1, "deleted")
    ]
    assert phase(state, bucket) == "glacier_restore"
    assert tree(home / bucket) == here
    ended = run("migrate", "--wait", bucket)
    assert ended.returncode == 0, ended.stderr
    assert (home / bucket / "frozen").read_bytes() == b"in Glacier"
    assert {path: body for path, body in tree(home / bucket).items() if path != "frozen"} == here
    assert run("confirm-delete", f"--confirm={planned(run, bucket)['token']}", bucket).returncode == 0
    assert in_s3(boto, bucket) == []
    assert phase(state, bucket) == "complete"


def test_a_versioned_bucket_is_emptied_and_removed(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path
) -> None:
    """P1, P7: old versions and delete markers go by their ids; afterwards the manifest is checked without AWS."""
    refused = run("confirm-delete", bucket, "--dry-run")
    assert refused.returncode == 5, "before there is any state file"
    assert not state.exists()
    fill(boto, bucket, {"before": b"a null version", "both": b"null"})
    boto.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        fill(boto, bucket, {"k": b"version %d" % number, "gone/k": b"other %d" % number})
    fill(boto, bucket, {"both": b"newer"})
    boto.delete_object(Bucket=bucket, Key="gone/k")
    boto.delete_object(Bucket=bucket, Key="never was")
    everything = in_s3(boto, bucket)
    assert len(everything) == 11
    versions = boto.list_object_versions(Bucket=bucket)["Versions"]
    bodies = {
        (v["Key"], v["VersionId"]): boto.get_object(Bucket=bucket, Key=v["Key"], VersionId=v["VersionId"])[
            "Body"
        ].read()
        for v in versions
    }
    current = {v["Key"]: v["VersionId"] for v in versions if v["IsLatest"]}
    plain = {"before": b"a null version", "both": b"newer", "k": b"version 2"}

    settled: dict[str, str | None] = {"VERSIONING_SETTLES": "0"}
    keep = settled | {"MIGRATE_V2_NONCURRENT": "keep"}
    assert run("migrate", bucket, env=keep).returncode == 0
    assert tree(home / bucket) == plain
    assert phase(state, bucket) == "deleting", "what is kept does not hold it back"
    kept = json.loads(run("confirm-delete", "--dry-run", "--json", bucket, env=keep).stdout)
    # Of three keys the old versions stay, and with them what is above these.
    assert (kept["delete"]["objects"], len(kept["keep"])) == (1, 9)
    ended = run("confirm-delete", "--dry-run", "--json", "--allow-older-current", bucket, env=keep)
    allowed = json.loads(ended.stdout)
    assert (allowed["delete"]["objects"], len(allowed["keep"]), allowed["allow_older_current"]) == (3, 7, True)

    assert run("migrate", bucket).returncode == 0
    assert tree(home / bucket) == plain
    assert copies(home, bucket) | {(key, current[key]): body for key, body in plain.items()} == bodies
    plan = planned(run, bucket, settled)
    assert (plan["delete"]["objects"], plan["keep"]) == (9, [])
    assert plan["token"] != kept["token"]
    assert in_s3(boto, bucket) == everything
    ended = run("confirm-delete", f"--confirm={plan['token']}", "--remove-bucket", bucket, env=settled)
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(ClientError, match="NoSuchBucket"):
        in_s3(boto, bucket)
    assert phase(state, bucket) == "complete"
    assert states(state, bucket) == {"deleted": 9}
    assert checked_by_sha256sum(home, bucket) == 9
    snapshot = home / ".migrate-v2" / bucket / "state.db"
    assert states(snapshot, bucket) == {"deleted": 9}
    assert phase(snapshot, bucket) == "complete"
    shown = json.loads(run("status", "--json").stdout)["totals"]
    assert shown["states"]["deleted"]["objects"] == shown["objects"] == 9


def at_a_terminal(
    zygote: Zygote,
    *arguments: str,
    env: dict[str, str],
    cwd: Path,
    asked: str,
    answer: str,
    timeout: float = 60,
) -> tuple[int, str]:
    """Runs the program on a terminal of its own, and types `answer` when it says `asked`."""
    ours, theirs = pty.openpty()
    try:
        job = Job(list(arguments), as_by_the_script(env | {"TERM": "xterm", "COLUMNS": "120"}), str(cwd))
        with zygote.begin(job, (theirs, theirs, theirs)) as child:
            os.close(theirs)
            said = b""
            until = time.monotonic() + timeout
            while time.monotonic() < until:
                if select.select([ours], [], [], 0.1)[0]:
                    try:
                        said += os.read(ours, 65536)
                    except OSError:  # the other side has closed
                        break
                if answer and asked.encode() in said:
                    os.write(ours, answer.encode())
                    answer = ""
            return child.wait(max(1.0, until - time.monotonic())), said.decode()
    finally:
        os.close(ours)


def test_on_a_terminal_the_bucket_is_named(
    zygote: Zygote,
    boto: S3Client,
    bucket: str,
    home: Path,
    state: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """P3: the right name typed deletes, a wrong one exits 5; on a terminal migrate waits for Glacier by itself."""
    fill(boto, bucket, {"a": b"1", "b": b"2"})
    fill(boto, bucket, {"frozen": b"3"}, StorageClass="GLACIER")
    before = in_s3(boto, bucket)
    code, said = at_a_terminal(zygote, "migrate", bucket, env=environment, cwd=tmp_path, asked="-", answer="")
    assert code == 0, said
    assert states(state, bucket) == {"verified": 3}
    assert "Traceback" not in said

    for wrong in (f"{bucket}x\n", "\x04"):
        code, said = at_a_terminal(
            zygote, "confirm-delete", bucket, env=environment, cwd=tmp_path, asked="name of the bucket", answer=wrong
        )
        assert code == 5, said
        assert in_s3(boto, bucket) == before
    code, said = at_a_terminal(
        zygote,
        "confirm-delete",
        bucket,
        env=environment,
        cwd=tmp_path,
        asked="name of the bucket",
        answer=f"{bucket}\n",
    )
    assert code == 0, said
    assert "3 objects" in said
    assert in_s3(boto, bucket) == []
    assert phase(state, bucket) == "complete"


def test_a_plan_is_carried_out_in_portions_under_one_token(
    run: Run, boto: S3Client, home_already: str, home: Path, state: Path
) -> None:
    """P3: --max-delete stops after so many, with 3; the same command goes on, and the certificate tells all of it."""
    bucket = home_already
    token = planned(run, bucket)["token"]
    here = tree(home / bucket)
    codes = []
    for left in (4, 2, 0):
        ended = run("confirm-delete", f"--confirm={token}", "--max-delete=2", bucket)
        codes.append(ended.returncode)
        assert len(in_s3(boto, bucket)) == left, ended.stderr
    assert codes == [3, 3, 0]
    assert run("confirm-delete", f"--confirm={token}", "--max-delete=2", bucket).returncode == 0, "nothing is left"
    assert tree(home / bucket) == here and phase(state, bucket) == "complete"

    folder = home / ".migrate-v2" / bucket
    lines = [json.loads(line) for line in (folder / "deletions.jsonl").read_text().splitlines()]
    assert [line["entry"] for line in lines].count("consent") == 3
    assert {line["agreed"] for line in lines if line["entry"] == "consent"} == {"by its token"}
    assert {line["key"] for line in lines if line["entry"] == "outcome" and line["gone"]} == set(OBJECTS)
    assert {line["token"] for line in lines} == {token}
    # As the documents say: a line without its own hash and MAC, as jq writes it, has that hash, and the next one names it.
    previous = ""
    for line in lines:
        text = json.dumps(
            {k: v for k, v in line.items() if k not in ("hash", "mac")}, sort_keys=True, separators=(",", ":")
        )
        assert (line["previous"], line["hash"]) == (previous, sha256(text.encode()))
        previous = line["hash"]
    assert not list(folder.glob("state.db.new*")), "nothing is left of the making of the snapshot"


@pytest.mark.parametrize("wrong", ["--max-delete=0", "--max-delete=x", "--trust-recent=5", "--trust-recent="])
def test_a_wrong_number_is_a_line_and_2(run: Run, wrong: str) -> None:
    ended = run("confirm-delete", "--dry-run", wrong, "some-bucket")
    assert ended.returncode == 2 and ended.stdout == "" and len(ended.stderr.splitlines()) == 1
    assert wrong.partition("=")[0] in ended.stderr


def test_copies_read_a_moment_ago_may_be_trusted(
    run: Run, boto: S3Client, home_already: str, home: Path, state: Path
) -> None:
    """P1: the named exception is in the plan, and reaches no file that was touched since."""
    bucket = home_already
    trusting = ("confirm-delete", "--trust-recent=1h", bucket)
    assert "not read again" in run(*trusting, "--dry-run").stdout
    plan = json.loads(run(*trusting, "--dry-run", "--json").stdout)
    assert plan["trust_recent_seconds"] == 3600 and planned(run, bucket)["trust_recent_seconds"] is None
    before = in_s3(boto, bucket)
    copy = home / bucket / "photo.jpg"
    facts = copy.stat()
    copy.write_bytes(bytes(4999) + b"!")
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    ended = run(*trusting, f"--confirm={plan['token']}")
    assert ended.returncode == 4 and "photo.jpg" in ended.stderr and in_s3(boto, bucket) == before
    assert run("migrate", bucket).returncode == 0
    # The others may have come anew by the CLI, which goes by MiniStack's milliseconds; then they are read again.
    runs = "select distinct read_run from files where place = 'side'"
    read_by = query(state, runs)
    plan = json.loads(run(*trusting, "--dry-run", "--json").stdout)
    ended = run(*trusting, f"--confirm={plan['token']}")
    assert ended.returncode == 0, ended.stderr
    assert in_s3(boto, bucket) == [] and query(state, runs) == read_by, "none was read by the run that deleted"


def test_unfinished_uploads_are_aborted_only_by_name(
    run: Run, boto: S3Client, home_already: str, home: Path, oracle: Oracle
) -> None:
    bucket = home_already
    for key in ("a", "parts/b"):
        begun = boto.create_multipart_upload(Bucket=bucket, Key=key)
        boto.upload_part(Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 100)
    without = planned(run, bucket)
    assert without["abort_uploads"] == 0
    ended = run("confirm-delete", f"--confirm={without['token']}", "--remove-bucket", bucket)
    assert ended.returncode == 5 and "unfinished uploads" in ended.stderr
    assert len(boto.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 2 and in_s3(boto, bucket) == []

    oracle.uploads_may_go = True
    asked = ("confirm-delete", "--abort-uploads", "--upload-age=1s", "--remove-bucket", bucket)
    time.sleep(2)  # dates have whole seconds
    assert run(*asked, f"--confirm={planned(run, bucket)['token']}").returncode == 5, "that plan aborts nothing"
    plan = json.loads(run(*asked, "--dry-run", "--json").stdout)
    assert plan["abort_uploads"] == 2 and plan["delete"]["objects"] == 0
    ended = run(*asked, f"--confirm={plan['token']}")
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(ClientError, match="NoSuchBucket"):
        in_s3(boto, bucket)
    kinds = [json.loads(line).get("kind") for line in (home / ".migrate-v2" / bucket / "deletions.jsonl").open()]
    assert kinds.count("upload") == 4


def test_a_damaged_ledger_or_a_lost_key_deletes_nothing(
    run: Run, boto: S3Client, home_already: str, state: Path
) -> None:
    bucket = home_already
    before = in_s3(boto, bucket)
    token = planned(run, bucket)["token"]
    key = Path(f"{state}.key")
    secret = key.read_bytes()
    key.unlink()
    ended = run("confirm-delete", f"--confirm={token}", bucket)
    assert ended.returncode == 5 and "is not the key that sealed" in ended.stderr, ended.stderr
    assert in_s3(boto, bucket) == before
    # The right one again, and all is as it was.
    key.write_bytes(secret)
    assert planned(run, bucket)["token"] == token
    # Lost for good: verify reads everything again and seals it anew.
    key.unlink()
    assert run("verify", bucket).returncode == 0
    ended = run("confirm-delete", f"--confirm={planned(run, bucket)['token']}", "--max-delete=1", bucket)
    assert ended.returncode == 3, ended.stderr
    with sqlite3.connect(state) as connection:
        connection.execute("DROP TRIGGER ledger_update")
        connection.execute("UPDATE ledger SET size = size + 1 WHERE entry = 'intent'")
    connection.close()
    there = in_s3(boto, bucket)
    ended = run("confirm-delete", f"--confirm={token}", bucket)
    assert ended.returncode == 5 and "damaged at entry" in ended.stderr
    assert in_s3(boto, bucket) == there and len(there) == len(OBJECTS) - 1


@pytest.mark.system  # jq
def test_the_certificate_is_checked_as_the_documents_say(
    run: Run, boto: S3Client, home_already: str, home: Path
) -> None:
    bucket = home_already
    assert run("confirm-delete", f"--confirm={planned(run, bucket)['token']}", bucket).returncode == 0
    text = (ROOT / "docs" / "SECURITY.md").read_text()
    command = re.findall(r"```sh\n(jq .*?)```", text, re.DOTALL)[0]
    folder = home / ".migrate-v2" / bucket

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)

    checked = check()
    assert (checked.returncode, checked.stdout) == (0, "every line is as it was written\n"), checked.stderr
    certificate = folder / "deletions.jsonl"
    certificate.write_text(certificate.read_text().replace('"photo.jpg"', '"Photo.jpg"', 1))
    checked = check()
    assert checked.returncode == 1 and "as it was written" not in checked.stdout
