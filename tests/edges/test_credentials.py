"""Credentials go to processes of this user that ask for them, and into no file."""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from migrate_v2.edges import credentials
from migrate_v2.edges.credentials import CredentialServer
from migrate_v2.errors import Failure

DOCUMENT = json.dumps({"Version": 1, "AccessKeyId": "key", "SecretAccessKey": "secret/+="})


def asked(server: CredentialServer) -> subprocess.CompletedProcess[str]:
    """What the AWS CLI does with credential_process, in another folder and with nothing in the environment."""
    return subprocess.run(
        shlex.split(server.command), capture_output=True, text=True, cwd="/", env={}, timeout=30, check=False
    )


@pytest.mark.parametrize("name", ["run", "a b'c", "long" * 40])
def test_credential_server_answers_each_process_that_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where the path has spaces in it, or is too long for a socket."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / name
    folder.mkdir()
    answers = iter([DOCUMENT, "second"])
    with CredentialServer(folder, lambda: next(answers)) as server:
        assert "secret" not in server.command
        first = asked(server)
        assert (first.returncode, json.loads(first.stdout)) == (0, json.loads(DOCUMENT))
        assert asked(server).stdout == "second"
        path = Path(shlex.split(server.command)[-1])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (path.parent == folder) is (len(name) < 100)
    assert not path.exists() and list(folder.iterdir()) == []
    assert asked(server).returncode != 0


def test_credential_server_takes_the_place_of_what_a_kill_left(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "credentials"))
    with CredentialServer(tmp_path, lambda: DOCUMENT) as server:
        assert asked(server).returncode == 0


def test_credential_server_without_credentials_gives_nothing(tmp_path: Path) -> None:
    def none() -> str:
        raise Failure("expired")

    with CredentialServer(tmp_path, none) as server:
        ended = asked(server)
        assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_credential_server_gives_nothing_to_another_user(tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    with CredentialServer(tmp_path, lambda: DOCUMENT) as server:
        path = tmp_path / "credentials"
        path.chmod(0o666)
        code = f"import os; os.setuid(65534); {credentials._CLIENT}"
        command = [*shlex.split(server.command)[:4], code, str(path)]
        other = subprocess.run(command, capture_output=True, text=True, env={}, timeout=30, check=False)
        assert (other.returncode, other.stdout) == (1, ""), other.stderr
        assert asked(server).returncode == 0


def test_credential_server_without_a_place_for_a_socket_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(Failure):
        CredentialServer(tmp_path / ("long" * 30), lambda: DOCUMENT)
