"""Shell completions and the manual page say what the docstring of cli.py says; they are made from it and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from migrate_v2 import __version__, cli
from migrate_v2.settings import Settings

# Options whose value is a file or a folder, for the shells that complete those.
_FILES = ("--state", "--config", "--template")
_FOLDERS = ("--dest",)
_WORDS = {"--engine": get_args(Settings.model_fields["engine"].annotation)}


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]  # the long one is the last
    value: str  # the word that stands for its value; "" for a switch
    text: str

    @property
    def long(self) -> str:
        return self.names[-1]


@dataclass(frozen=True, slots=True)
class Interface:
    """The docstring taken apart. `takes` is which of the options that are not for all commands each command takes."""

    headline: str
    usage: tuple[str, ...]
    commands: Mapping[str, str]
    options: tuple[Option, ...]
    takes: Mapping[str, tuple[str, ...]]
    buckets: frozenset[str]  # commands that name buckets
    files: frozenset[str]  # commands that name a file
    verbs: Mapping[str, tuple[str, ...]]  # of commands that have some
    notes: str
    statuses: Mapping[str, str]

    def of(self, command: str) -> list[Option]:
        """What this command takes: its own options, and those of all."""
        special = {name for names in self.takes.values() for name in names}
        return [o for o in self.options if o.long in self.takes[command] or o.long not in special]


def interface(document: str | None = None) -> Interface:
    text = document if document is not None else cli.__doc__ or ""
    headline, _, rest = text.partition("\n")
    usage_text, _, rest = rest.partition("Usage:\n")[2].partition("\nCommands:\n")
    commands_text, _, rest = rest.partition("\nOptions:\n")
    commands_text, _, notes = commands_text.partition("\n\n")
    options_text, _, statuses_text = rest.partition("\nExit status:\n")
    # A line that goes on is set in deeper than the one before it.
    usage = tuple(line.strip() for line in re.sub(r"\n {10,}", " ", usage_text).splitlines() if line.strip())
    commands = _entries(commands_text)
    options = []
    for name, said in _entries(options_text).items():
        words = re.findall(r"(-{1,2}[a-z][a-z-]*)(?:=([A-Z]+))?", name)
        options.append(Option(tuple(word for word, _ in words), words[-1][1], said))
    takes: dict[str, tuple[str, ...]] = dict.fromkeys(commands, ())
    buckets, files = set(), set()
    verbs: dict[str, tuple[str, ...]] = {}
    for line in usage:
        for command in commands:
            if re.search(rf"[ (]{command}(?=[ )]|$)", line):
                takes[command] += tuple(re.findall(r"--[a-z-]+", line))
                if verb := re.search(rf"\] {command} ([a-z]+)", line):
                    verbs[command] = (*verbs.get(command, ()), verb[1])
                buckets |= {command} if "<bucket>" in line or "<name>" in line else set()
                files |= {command} if "file>" in line else set()
    return Interface(
        headline.strip(),
        usage,
        commands,
        tuple(options),
        takes,
        frozenset(buckets),
        frozenset(files),
        verbs,
        notes.strip(),
        _entries(statuses_text),
    )


def _entries(text: str) -> dict[str, str]:
    """`  name  what it is`, where what it is may go on on deeper lines."""
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        entry = re.match(r"^  (\S.*?)(?:  +(.*))?$", line)
        if entry and not line.startswith("    "):
            last = entry[1]
            found[last] = entry[2] or ""
        elif last and line.strip():
            found[last] = f"{found[last]} {line.strip()}".strip()
    return found


# Bucket names for the shells: those of the state file, without a question to AWS.
_NAMES = "migrate-v2 --quiet status 2>/dev/null | cut -f1"


def bash() -> str:
    it = interface()
    cases = "\n".join(
        f"        {command}) options='{' '.join(n for o in it.of(command) for n in o.names)}'"
        f" verbs='{' '.join(it.verbs.get(command, ()))}'"
        f" names={'buckets' if command in it.buckets else 'files' if command in it.files else 'none'} ;;"
        for command in it.commands
    )
    values = "|".join(o.long for o in it.options if o.value)
    return f"""# bash completion for migrate-v2; made from its --help by `make docs`.
_migrate_v2() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command= options names=none i
    COMPREPLY=()
    # bash takes the "=" of --option=value for a word of its own.
    [[ $word == = ]] && word=
    [[ $before == = ]] && before=${{COMP_WORDS[COMP_CWORD - 2]}}
    case $before in
        {"|".join(_FOLDERS)}) mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
        {"|".join(_FILES)}) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        --engine) mapfile -t COMPREPLY < <(compgen -W '{" ".join(_WORDS["--engine"])}' -- "$word"); return ;;
        {values}) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case " {" ".join(it.commands)} " in
            *" ${{COMP_WORDS[i]}} "*) command=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    case $command in
{cases}
        *) options='{" ".join(n for o in it.options for n in o.names)}' ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W '{" ".join(it.commands)}' -- "$word")
    elif [[ $names == buckets ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$verbs $({_NAMES})" -- "$word")
    elif [[ $names == files ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
}}
complete -F _migrate_v2 migrate-v2
"""


def zsh() -> str:
    it = interface()
    commands = "\n".join(f"        '{name}:{_quoted(text)}'" for name, text in it.commands.items())
    cases = []
    for command in it.commands:
        specs = [_zsh_option(o) for o in it.of(command)]
        if command in it.verbs:
            specs.append(f"'1:verb:({' '.join(it.verbs[command])})'")
        if command in it.buckets:
            specs.append("'*:bucket:_migrate_v2_buckets'")
        elif command in it.files:
            specs.append("'1:file:_files'")
        cases.append(
            f"        {command})\n            _arguments \\\n"
            + " \\\n".join(f"                {s}" for s in specs)
            + " ;;"
        )
    every = " \\\n".join(f"                    {_zsh_option(o)}" for o in it.options)
    cases_text = "\n".join(cases)
    return f"""#compdef migrate-v2
# zsh completion for migrate-v2; made from its --help by `make docs`.
_migrate_v2_buckets() {{
    local -a names
    names=(${{(f)"$({_NAMES})"}})
    compadd -a names
}}

_migrate_v2() {{
    local -a commands
    local command word
    commands=(
{commands}
    )
    for word in ${{words[2,CURRENT-1]}}; do
        if (( ${{commands[(I)$word:*]}} )); then command=$word; break; fi
    done
    case $command in
{cases_text}
        *)
            if [[ $words[CURRENT] == -* ]]; then
                _arguments \\
{every}
            else
                _describe command commands
            fi ;;
    esac
}}

_migrate_v2 "$@"
"""


def _zsh_option(option: Option) -> str:
    value = ""
    if option.value:
        action = "_directories" if option.long in _FOLDERS else "_files" if option.long in _FILES else ""
        words = " ".join(_WORDS.get(option.long, ()))
        value = f":{option.value}:{action or (f'({words})' if words else ' ')}"
    text = _quoted(option.text).replace("[", "\\[").replace("]", "\\]")
    return f"'{option.long}{'=' if option.value else ''}[{text}]{value}'"


def fish() -> str:
    it = interface()
    lines = ["# fish completion for migrate-v2; made from its --help by `make docs`.", "complete -c migrate-v2 -f"]
    for name, text in it.commands.items():
        lines.append(f"complete -c migrate-v2 -n __fish_use_subcommand -a {name} -d '{_escaped(text)}'")
    for option in it.options:
        takers = [command for command in it.commands if option.long in it.takes[command]]
        where = f" -n '__fish_seen_subcommand_from {' '.join(takers)}'" if takers else ""
        short = "".join(f" -s {n[1:]}" for n in option.names if not n.startswith("--"))
        value = ""
        if option.value:
            value = " -r" + (" -F" if option.long in (*_FILES, *_FOLDERS) else "")
            value += f" -a '{' '.join(_WORDS[option.long])}'" if option.long in _WORDS else ""
        lines.append(f"complete -c migrate-v2{where}{short} -l {option.long[2:]}{value} -d '{_escaped(option.text)}'")
    for command, verbs in it.verbs.items():
        lines.append(f"complete -c migrate-v2 -n '__fish_seen_subcommand_from {command}' -a '{' '.join(verbs)}'")
    takers = [command for command in it.commands if command in it.buckets]
    lines.append(f"complete -c migrate-v2 -n '__fish_seen_subcommand_from {' '.join(takers)}' -a '({_NAMES})'")
    files = [command for command in it.commands if command in it.files]
    lines.append(f"complete -c migrate-v2 -n '__fish_seen_subcommand_from {' '.join(files)}' -F")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """For a place between single quotes of zsh where a colon would end it."""
    return text.replace("'", "'\\''").replace(":", "\\:")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def manual() -> str:
    """migrate-v2(1), in the macros of man(7)."""
    it = interface()
    lines = [
        '.\\" Made from the docstring of migrate_v2/cli.py by `make docs`.',
        f'.TH MIGRATE\\-V2 1 "" "migrate\\-v2 {__version__}" "User Commands"',
        ".SH NAME",
        f"migrate\\-v2 \\- {_roff(it.headline.rstrip('.'))}",
        ".SH SYNOPSIS",
        ".nf",
        *(_roff(line) for line in it.usage),
        ".fi",
        ".SH COMMANDS",
    ]
    for name, text in it.commands.items():
        lines += [".TP", f".B {_roff(name)}", _roff(text)]
    lines += [".PP", *(_roff(line) for line in it.notes.splitlines()), ".SH OPTIONS"]
    for option in it.options:
        value = f"=\\fI{option.value}\\fR" if option.value else ""
        lines += [".TP", f"\\fB{', '.join(_roff(n) for n in option.names)}\\fR{value}", _roff(option.text)]
    lines.append(".SH EXIT STATUS")
    for status, text in it.statuses.items():
        lines += [".TP", f".B {status}", _roff(text)]
    lines += [
        ".SH ENVIRONMENT",
        "Every setting as MIGRATE_V2_ and its name in capitals, and what the AWS CLI reads (AWS_PROFILE, AWS_REGION, ...).",
        ".SH FILES",
        "The settings are in ./migrate\\-v2.toml or ~/.config/migrate\\-v2/config.toml; the state file is s3_migration_state.db.",
        ".SH SEE ALSO",
        ".BR aws (1)",
    ]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


# Where each is kept in the project.
FILES = {
    "completions/migrate-v2.bash": bash,
    "completions/_migrate-v2": zsh,
    "completions/migrate-v2.fish": fish,
    "docs/migrate-v2.1": manual,
}
