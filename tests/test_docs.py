"""What the documents say of the program is generated from it, and every command line in them is one it takes.

`python -m tests.test_docs` writes the generated blocks anew (`make docs`).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from migrate_v2 import cli, settings
from tests.messages import messages

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_block() -> str:
    text = cli.__doc__ or ""
    return f"```\n{text[text.index('Usage:') :].rstrip()}\n```"


def settings_block() -> str:
    lines = ["| setting | default | allowed | what it is, and with the AWS CLI |", "|---|---|---|---|"]
    for setting in settings.TABLE:
        cells = (f"`{setting.name}`", f"`{setting.default}`", setting.allowed, f"{setting.description}: {setting.cli}")
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


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(regenerated(path.read_text()))
