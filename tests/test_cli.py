"""The docstring is the interface: what it lists is taken, what it does not list is refused with one line and status 2."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from migrate_v2 import cli
from migrate_v2.errors import BadUsage
from migrate_v2.model import FileState
from tests.fakes.s3server import S3Server
from tests.steps.conftest import server as server

USAGE = (cli.__doc__ or "").partition("Usage:")[2].partition("Commands:")[0]
LISTED = re.findall(
    r"^  ([a-z-]+)  +\S", (cli.__doc__ or "").partition("Commands:")[2].partition("No bucket")[0], re.MULTILINE
)


@pytest.fixture(autouse=True)
def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def test_usage_commands_and_dispatch_are_the_same_set() -> None:
    used = set(re.findall(r"(?:\[options\] |\()([a-z][a-z-]*)", USAGE)) | {"glacier"}
    assert used == set(LISTED) | {"glacier"} == set(cli._COMMANDS)


def test_every_option_of_the_usage_is_explained() -> None:
    explained = set(re.findall(r"^  (?:-\w )?(--[a-z-]+)", (cli.__doc__ or "").partition("Options:")[2], re.MULTILINE))
    assert set(re.findall(r"--[a-z-]+", USAGE)) <= explained


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["frob"],
        ["migrate", "--frob"],
        ["confirm-delete"],
        ["confirm-delete", "a", "b"],
        ["scan", "--wait", "b"],
        ["migrate", "--confirm=x", "b"],
        ["--profile"],
        ["status", "--json=yes"],
        # Abbreviations: docopt would take them.
        ["confirm-delete", "--confir=T", "b"],
        ["confirm-delete", "--rem", "b"],
        ["confirm-delete", "--dry", "b"],
        ["migrate", "--wai", "b"],
        ["--js", "status"],
        ["migrate", "--engine=rust", "b"],
        ["migrate", "b"],
        ["verify", "b"],
        ["migrate", "--dest", "d", "not a bucket"],
        ["migrate", "--dest", "d", "../up"],
        ["migrate", "--dest", "d", "fast--use1-az4--x-s3"],
        ["confirm-delete", "--dest", "d", "--confirm=t", "x/y"],
        ["policy"],
        ["policy", "apply"],
        ["policy", "rollback"],
        ["policy", "generate"],  # without a terminal to choose on
        ["policy", "freeze"],
        ["policy", "freeze", "--all"],
        ["policy", "apply", "--all", "b-name"],
        ["policy", "apply", "--merge", "--replace", "b-name"],
        ["policy", "apply", "--ye", "b-name"],
        ["policy", "generate", "--hard", "--template=t", "b-name"],
        ["policy", "generate", "--template=no-such-file", "b-name"],
        ["plan", "--throughput=fast", "b12"],
        ["plan", "--deadline=soon", "b12"],
        ["plan", "--prices=nowhere.toml", "b12"],
    ],
)
def test_what_makes_no_sense_ends_with_2_and_one_line(line: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("migrate-v2: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", LISTED)
def test_every_command_is_taken_with_options_on_either_side(command: str) -> None:
    named = ("confirm-delete", "migrate", "scan", "reset", "backup-state")
    name = ["b"] if command in named else ["generate"] if command == "policy" else []
    assert cli.parse(["--json", command, *name, "--dest", "d", "-q"])[command]
    assert cli.parse(["--endpoint-url=http://x", command, *name])["--endpoint-url"] == "http://x"


def test_restore_and_glacier_are_one_command() -> None:
    assert cli._COMMANDS["restore"] is cli._COMMANDS["glacier"]
    assert cli.parse(["glacier", "--wait"])["glacier"]


def test_help_is_the_docstring_and_version_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == cli.__doc__
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("migrate-v2 2.")


def test_names_come_from_standard_input_by_first_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\tus-east-1\t2020\n\ntwo\none\n"))
    assert cli._named({"<bucket>": ["zero-bucket", "-"]}) == ["zero-bucket", "one", "two"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli._named({"<bucket>": ["-"]}) == []
    assert cli._named({"<bucket>": []}) is None


def test_a_name_from_standard_input_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("../../etc\n"))
    with pytest.raises(BadUsage):
        cli._named({"<bucket>": ["-"]})


@pytest.mark.parametrize("command", ["migrate", "scan", "restore", "sync", "verify", "verify --offline", "plan"])
def test_nothing_on_standard_input_means_nothing_to_do(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main([*command.split(), "--dest", "d", "-"]) == 0
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("command", ["plan", "status"])
def test_a_document_of_no_buckets_is_a_document(
    command: str, server: S3Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main([command, "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["buckets"] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("whoami --endpoint-url", "--endpoint-url requires argument"),
        ("migrate --wait=3 bucket", "--wait must not have an argument"),
        ("migrate --dest --json bucket", "--dest requires argument"),
        ("migrate --dest d -- photos up/", "up/ is not the name of a bucket"),
        ("migrate --dest d -- --all", "makes no sense"),
        ("migrate --dest d s3://photos/", "its name is photos"),
        ("migrate --dest d s3://photos/2019", "s3://photos/2019 is not the name of a bucket\n"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said(line: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    assert said in capfd.readouterr().err


def test_every_state_is_counted_even_where_there_is_none(
    server: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    states = {state.value for state in FileState}
    server.bucket("photos")
    assert cli.main(["--json", "status"]) == 0
    assert json.loads(capfd.readouterr().out)["totals"]["states"].keys() == states
    assert cli.main(["scan", "photos"]) == 0
    capfd.readouterr()
    assert cli.main(["--json", "check-state"]) == 0
    counted = json.loads(capfd.readouterr().out)["buckets"]
    assert [(one["bucket"], one["states"].keys()) for one in counted] == [("photos", states)]
    assert cli.main(["--json", "errors"]) == 0
    assert json.loads(out := capfd.readouterr().out) and out.count("\n") == 1


def test_many_buckets_are_a_line_each_on_a_narrow_terminal(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"bucket-with-a-name-{number}" for number in range(4)]
    for name in names:
        server.bucket(name)
    assert cli.main(["-q", "scan"]) == 0
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    for columns, table in (("80", False), ("160", True)):
        monkeypatch.setenv("COLUMNS", columns)
        with os.fdopen(os.dup(theirs), "w", encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert cli.main(["status"]) == 0
        drawn = os.read(ours, 65536).decode()
        assert [name for name in names if re.search(rf"{name} .*complete", drawn)] == names
        assert ("unprovable" in drawn) is table
    os.close(theirs)
    os.close(ours)


def test_config_tells_what_a_setting_means_to_each_engine(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    lines = dict(line.split("\t", 1) for line in capfd.readouterr().out.splitlines())
    assert "cli: " in lines["max_concurrency"] and "; native: " in lines["max_concurrency"]
    assert "native: " not in lines["metadata"]


def test_a_bucket_that_nobody_scanned_is_refused_without_a_folder(tmp_path: Path, server: S3Server) -> None:
    server.bucket("photos")
    assert cli.main(["scan", "photos"]) == 0
    assert cli.main(["confirm-delete", "--dest", str(tmp_path / "d"), "--dry-run", "fotos"]) == 5
    assert not (tmp_path / "d").exists()


def test_confirm_delete_without_terminal_or_token_is_refused_before_anything_is_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("b-name\n"))
    assert cli.main(["confirm-delete", "--dest", "d", "b-name"]) == 5
    assert "--confirm=TOKEN" in capfd.readouterr().err


def test_status_without_a_state_file_makes_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json"]) == 0
    out, err = capfd.readouterr()
    assert '"buckets": []' in out or '"buckets":[]' in out
    assert "no state file" in err
    assert cli.main(["status", "some-bucket"]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_credentials_are_asked_for_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["whoami", "--endpoint-url", "http://127.0.0.1:9"]) == 1
    assert "no AWS credentials found" in capfd.readouterr().err
    assert cli.main(["whoami", "--profile", "nobody"]) == 2


@pytest.mark.parametrize(
    ("arn", "whose"),
    [
        ("arn:aws:iam::111122223333:root", "root"),
        ("arn:aws:iam::111122223333:user/ops/ann", "user"),
        ("arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Admin_0123456789abcdef/ann@example.com", "SSO role"),
        ("arn:aws:sts::111122223333:assumed-role/mover/i-0123456789abcdef0", "instance role"),
        ("arn:aws-cn:sts::111122223333:assumed-role/mover/session", "role"),
        ("arn:aws:sts::111122223333:federated-user/bob", "federated user"),
        ("", ""),
    ],
)
def test_whose_identity_it_is(arn: str, whose: str) -> None:
    assert cli._whose(arn) == whose


def test_whoami_and_buckets_with_little_permission(
    server: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.identities["AKIAFAKEFAKEFAKEFAKE"] = ("111122223333", "arn:aws:iam::111122223333:root")
    server.bucket("logs", versioning="Enabled")
    server.bucket("photos")
    server.deny("s3:ListBucket")
    server.deny("s3:GetBucketVersioning", "photos")
    assert cli.main(["--json", "whoami"]) == 0
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert (document["identity"], document["credentials_from"]) == ("root", "environment variables")
    assert "root user" in err
    assert cli.main(["buckets"]) == 0
    lines = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("logs", "us-east-1", "Enabled"), ("photos", "us-east-1", "unknown"),
    ]  # fmt: skip
    server.deny("s3:ListAllMyBuckets")
    assert cli.main(["buckets"]) == 1
    assert "s3:ListAllMyBuckets" in capfd.readouterr().err
    server.allow()
    assert cli.main(["scan", "photos"]) == 0
    server.deny("s3:ListAllMyBuckets")
    capfd.readouterr()
    assert cli.main(["--json", "buckets"]) == 0
    out, err = capfd.readouterr()
    assert [b["bucket"] for b in json.loads(out)["buckets"]] == ["photos"] and "state file knows" in err
