"""What the documents say of the program is generated from it, and every command line in them is one it takes.

`python -m tests.test_docs` writes the generated blocks anew (`make docs`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from migrate_v2 import cli, settings
from tests.handouts import FILES, interface
from tests.messages import messages

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_block() -> str:
    text = cli.__doc__ or ""
    return f"```\n{text[text.index('Usage:') :].rstrip()}\n```"


def settings_block() -> str:
    lines = [
        "| setting | default | allowed | what it is, and with the AWS CLI | with the native engine |",
        "|---|---|---|---|---|",
    ]
    for setting in settings.TABLE:
        what = f"{setting.description}: {setting.cli}"
        native = setting.native if setting.native != setting.cli else "the same"
        cells = (f"`{setting.name}`", f"`{setting.default}`", setting.allowed, what, native)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def messages_block() -> str:
    lines = ["| message | status |", "|---|---|"]
    for text, codes in sorted(messages().items(), key=lambda found: found[0].lstrip("… ").casefold()):
        statuses = ", ".join(map(str, sorted(codes)))
        lines.append(f"| {text.replace('|', chr(92) + '|')} | {statuses} |")
    return "\n".join(lines)


BLOCKS = {"commands": commands_block, "settings": settings_block, "messages": messages_block}


def regenerated(text: str) -> str:
    for name, block in BLOCKS.items():
        text = re.sub(
            rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)",
            lambda found, block=block: f"{found[1]}{block()}\n{found[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def command_lines(text: str) -> list[str]:
    """Every command line of the program in the fenced blocks, the program's name and the prompt left out."""
    found = []
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            for part in re.split(r"[|;]|\b(?:until|do|then|if|while)\b", line.removeprefix("$ ").partition(" #")[0]):
                words = part.strip().split(" ", 1)
                if words[0] in ("bin/migrate-v2", "migrate-v2"):
                    found.append(words[1] if len(words) > 1 else "")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_generated_blocks_are_up_to_date(document: Path) -> None:
    text = document.read_text()
    assert regenerated(text) == text, "run `make docs`"


def test_every_error_message_is_in_the_guide() -> None:
    assert messages_block() in (ROOT / "docs/TROUBLESHOOTING.md").read_text()
    found = messages()
    # Of several rooms, of a class with its own sentence, of an f-string and of a plain one: the search does find them.
    for text in (
        "another process is at work on …; wait for it, or stop it, and run the same command again",
        "there is no state file … yet; `migrate` or `scan` makes it",
        "that is not the bucket's name; nothing was deleted",
        "… is a symbolic link; name the file it points to",
    ):
        assert text in found, text
    assert len(found) > 120


def test_every_symptom_in_the_guide_is_one_that_the_program_has() -> None:
    text = (ROOT / "docs/TROUBLESHOOTING.md").read_text()
    table = text.partition("## Symptom, cause, action")[2].partition("\n## ")[0]
    source = " ".join(" ".join(p.read_text().split()) for p in sorted((ROOT / "migrate_v2").rglob("*.py")))
    said = re.sub(r'" f?"', "", source)
    known = " ".join(messages()) + said
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for symptom in re.findall(r"`([^`]+)`", row):
            for part in symptom.split("..."):
                assert part.strip() in known or part.strip() == "no space", symptom


def test_the_readme_holds_both_blocks() -> None:
    text = (ROOT / "README.md").read_text()
    assert commands_block() in text
    assert settings_block() in text


@pytest.mark.parametrize(
    ("document", "line"),
    [(document.name, line) for document in DOCUMENTS for line in command_lines(document.read_text())],
)
def test_every_command_line_in_the_documents_is_taken(document: str, line: str) -> None:
    cli.parse(shlex.split(line))


def test_the_documents_do_hold_command_lines() -> None:
    assert len(command_lines((ROOT / "README.md").read_text())) >= 9


@pytest.mark.parametrize(
    "target",
    sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", "\n".join(d.read_text() for d in DOCUMENTS), re.MULTILINE))),
)
def test_every_make_target_in_the_documents_exists(target: str) -> None:
    assert re.search(rf"^(?:[a-z ]+ )?{target}(?: [a-z ]+)?:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_no_make_target_deletes() -> None:
    assert "confirm-delete" not in (ROOT / "Makefile").read_text()


# Completions and the manual page


@pytest.mark.parametrize("path", FILES)
def test_completions_and_the_manual_page_are_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == FILES[path](), "run `make docs`"


def test_the_docstring_is_taken_apart_whole() -> None:
    it = interface()
    text = cli.__doc__ or ""
    assert set(it.commands) | {"glacier"} == set(cli._COMMANDS)
    known = {o.long for o in it.options}
    assert known == set(re.findall(r"^  (?:-\w )?(--[a-z-]+)", text.partition("\nOptions:")[2], re.MULTILINE))
    assert all(set(names) <= known for names in it.takes.values())
    assert "--wait" in it.takes["restore"] and "--cause" in it.takes["retry-errors"]
    assert it.buckets >= {"migrate", "confirm-delete", "reset"} and it.files == {"upgrade-db", "backup-state"}
    assert all(o.text for o in it.options) and all(it.commands.values()) and set(it.statuses) >= {"0", "130"}
    assert next(o for o in it.options if o.long == "--state").value == "FILE"


def completed(tmp_path: Path, *words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    program = tmp_path / "migrate-v2"
    program.write_text("#!/bin/sh\nprintf 'photos\\tsyncing\\nlogs\\tcomplete\\n'\n")
    program.chmod(0o700)
    (tmp_path / "old.db").touch()
    script = f"""
        source {shlex.quote(str(ROOT / "completions/migrate-v2.bash"))}
        COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
        _migrate_v2; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ended = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    return ended.stdout.split()


def test_bash_completes(tmp_path: Path) -> None:
    assert completed(tmp_path, "migrate-v2", "mi") == ["migrate"]
    assert completed(tmp_path, "migrate-v2", "--json", "re") == ["restore", "retry-errors", "reset"]
    assert completed(tmp_path, "migrate-v2", "migrate", "ph") == ["photos"]
    assert completed(tmp_path, "migrate-v2", "scan", "--res") == ["--rescan"]
    assert completed(tmp_path, "migrate-v2", "sync", "--res") == []
    assert completed(tmp_path, "migrate-v2", "upgrade-db", "ol") == ["old.db"]
    assert completed(tmp_path, "migrate-v2", "--state", "=", "ol") == ["old.db"]
    assert completed(tmp_path, "migrate-v2", "--profile", "x") == []
    assert completed(tmp_path, "migrate-v2", "--engine", "") == ["cli", "native"]
    assert completed(tmp_path, "migrate-v2", "policy", "un") == ["unfreeze"]
    assert "--max-delete" in completed(tmp_path, "migrate-v2", "confirm-delete", "--")
    assert "--max-delete" not in completed(tmp_path, "migrate-v2", "migrate", "--")


@pytest.mark.system  # zsh
def test_zsh_takes_its_completion() -> None:
    subprocess.run(["zsh", "-n", ROOT / "completions/_migrate-v2"], check=True)


@pytest.mark.system  # fish
def test_fish_takes_its_completion() -> None:
    subprocess.run(["fish", "--no-execute", ROOT / "completions/migrate-v2.fish"], check=True)


@pytest.mark.system  # groff
def test_the_manual_page_is_one() -> None:
    page = ["groff", "-man", "-Tutf8", "-ww", "-P-c", ROOT / "docs/migrate-v2.1"]
    ended = subprocess.run(page, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    shown = re.sub(r".\x08", "", ended.stdout)
    for word in ("confirm-delete", "--endpoint-url=URL", "EXIT STATUS", "MIGRATE-V2(1)"):
        assert word in shown.replace("\u2010", "-").replace("\u2212", "-"), word


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(regenerated(path.read_text()))
    for name, made in FILES.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(made())


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file below tests/, name of the test or "") of all that SECURITY.md says hold something."""
    return re.findall(r"`((?:\w+/)*\w+\.py)(?:::(\w+))?`", text)


def test_every_test_that_the_security_page_names_exists_and_every_soak_it_runs_finds_one() -> None:
    text = (ROOT / "docs" / "SECURITY.md").read_text()
    named = [(file, name) for file, name in named_tests(text) if file.rpartition("/")[2].startswith("test_")]
    assert len(named) > 80
    for file, name in named:
        path = ROOT / "tests" / file
        assert path.exists(), file
        assert not name or re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE), f"{file}::{name}"
    marked = re.compile(r"@pytest\.mark\.soak\n(?:@.*\n(?:[ )\]].*\n)*)*def (\w+)")
    long = [name for path in (ROOT / "tests").rglob("test_*.py") for name in marked.findall(path.read_text())]
    chosen = re.findall(r"^make soak ARGS=.*-k (?:'([^']*)'|([\w]+))", text, re.MULTILINE)
    assert len(chosen) >= 6
    for quoted, plain in chosen:
        for word in (quoted or plain).split(" or "):
            assert any(word in name for name in long), word


def test_a_test_that_does_not_exist_would_be_noticed() -> None:
    assert named_tests("`e2e/test_a.py::test_b` and `test_c.py`, not `migrate_v2/d`") == [
        ("e2e/test_a.py", "test_b"),
        ("test_c.py", ""),
    ]


def test_programs_of_the_environment_run_where_the_path_has_a_space(tmp_path: Path) -> None:
    """`aws` through this environment's Python, `migrate-v2` as a link, `python -m migrate_v2` from any folder."""
    place, packages = tmp_path / "check out", tmp_path / "packages"
    (place / "bin").mkdir(parents=True)
    packages.mkdir()
    for name in ("Makefile", "bin/migrate-v2"):
        shutil.copy(ROOT / name, place / name)
    for name in ("requirements.lock", "pyproject.toml"):
        (place / name).touch()
    python = tmp_path / "python"  # makes an environment with itself as the Python, and an `aws` as pip leaves it
    python.write_text(
        '#!/bin/sh\ncase "$2" in\n'
        'venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "#!/no where/python" >"$3/bin/aws";;\n'
        f"*sysconfig*) echo '{packages}';;\n"
        'pip) ;;\n*) echo "$@";;\nesac\n'
    )
    python.chmod(0o755)
    env = {"PATH": os.defpath}
    subprocess.run(["make", "-C", place, f"PYTHON={python}", ".venv/ready"], env=env, check=True, capture_output=True)

    def said(name: str, *arguments: str) -> str:
        return subprocess.run(
            [place / ".venv/bin" / name, *arguments], cwd="/", env=env, check=True, capture_output=True, text=True
        ).stdout

    assert said("aws", "s3", "a b") == "-m awscli s3 a b\n"
    assert said("migrate-v2", "--version") == "-m migrate_v2 --version\n"
    assert (packages / "migrate-v2.pth").read_text() == f"{place}\n"
