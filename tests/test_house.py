"""The page in migrate_v2/__init__.py is true of every file of the package."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrate_v2

ROOT = Path(migrate_v2.__file__).parent
PAGE, OWNERS_PAGE = (migrate_v2.__doc__ or "").split("What is outside", 1)
FLOORS = ("ground", "edges", "steps", "roof")


def rooms() -> list[list[str]]:
    """The modules of the page, a list a line; a line without a new floor's name continues the floor, not the line."""
    lines = []
    for line in PAGE.splitlines()[1:]:
        if not line.startswith("    "):
            continue
        left = re.split(r"\s{4,}", line.strip())
        words = list(" ".join(left[:2] if left[0].split()[0] in FLOORS else left[:1]).split())
        words = [word for word in words if word not in FLOORS]
        names = [word for word in words if (ROOT / (word.replace(".", "/") + ".py")).exists()]
        if names:
            lines.append(names)
    return lines


def owners() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for line in OWNERS_PAGE.splitlines():
        if line.startswith("    "):
            libraries, modules = re.split(r"\s{2,}", line.strip())
            for library in libraries.split():
                table[library] = set(modules.split())
    return table


LEVEL = {name: number for number, line in enumerate(rooms()) for name in line}
OWNER = owners()
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py") if path.name != "__init__.py"
)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if (ROOT.parent / (whole.replace(".", "/") + ".py")).exists() else str(node.module)


def faults(module: str, source: str) -> list[str]:
    """What in this source breaks the page, were it the source of this module."""
    tree = ast.parse(source)
    found = []
    for name in imports(tree):
        if name == "migrate_v2" or name == "migrate_v2.__init__":
            continue
        if name.startswith("migrate_v2."):
            below = name.removeprefix("migrate_v2.")
            if below not in LEVEL or LEVEL[below] >= LEVEL[module]:
                found.append(f"{module} imports {below}, which is not below it")
            continue
        top = name.split(".")[0]
        if top in OWNER:
            if module not in OWNER[top]:
                found.append(f"{module} imports {top}, which belongs to {' and '.join(sorted(OWNER[top]))}")
        elif top not in sys.stdlib_module_names:
            found.append(f"{module} imports {top}, which belongs to nobody")
    if module not in OWNER["sqlite3"]:
        sql = re.compile(r"\b(SELECT\s.+\sFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\s", re.DOTALL)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and sql.search(node.value):
                found.append(f"{module} holds SQL")
    if module != "report" and module != "cli":
        found += [
            f"{module} prints"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    called = {
        (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    if module != "model" and {"Proof", "_sealed", "_seal"} & called:
        found.append(f"{module} makes a Proof")
    mentioned = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    mentioned |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    mentioned |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    if module != "model" and mentioned & {"_sealed", "_seal", "_KEY"}:
        found.append(f"{module} reaches for the seal of a Proof")
    if module != "edges.s3":
        calls = r"delete_(objects?|bucket)|(put|delete)_(bucket_\w+|public_access_block)"
        found += [f"{module} calls {name}" for name in sorted(called) if re.fullmatch(calls, name)]
    # Whose hands hold something that deletes, that asks Glacier for money, or that changes a setting of a bucket.
    for name, allowed in {
        "Deleter": {"edges.s3", "steps.delete", "pipeline"},
        "Restorer": {"edges.s3", "steps.restore", "pipeline"},
        "PolicySetter": {"edges.s3", "steps.policy", "pipeline"},
        "BatchRestorer": {"edges.s3control", "steps.batch", "pipeline"},
    }.items():
        if name in mentioned and module not in allowed:
            found.append(f"{module} holds a {name}")
    if module.startswith("steps.") and any(n.startswith("migrate_v2.steps.") for n in imports(tree)):
        found.append(f"{module} imports another step")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_page_is_true(module: str) -> None:
    assert module in LEVEL, "not on the page"
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
    assert faults(module, source) == []
    assert ast.get_docstring(ast.parse(source)), "a module says in one sentence what is true because of it"


def test_every_room_of_the_page_exists() -> None:
    assert sorted(LEVEL) == MODULES


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("__main__", "events")])
def test_every_module_has_its_tests(module: str) -> None:
    parts = module.split(".")
    mirror = Path(__file__).parent.joinpath(*parts[:-1], f"test_{parts[-1]}.py")
    assert mirror.exists(), f"{mirror} is missing"


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("model", "import migrate_v2.edges.store", "not below"),
        ("steps.scan", "from migrate_v2.steps import fetch", "not below"),
        ("steps.scan", "from migrate_v2 import pipeline", "not below"),
        ("steps.scan", "import boto3", "belongs to edges.s3"),
        ("report", "import sqlite3", "belongs to"),
        ("cli", "import requests", "belongs to nobody"),
        ("steps.scan", "x = 'SELECT a FROM b WHERE c'", "holds SQL"),
        ("steps.scan", "print(1)", "prints"),
        ("steps.delete", "Proof(1)", "makes a Proof"),
        ("steps.delete", "from migrate_v2.model import _KEY", "seal"),
        ("steps.verify", "from migrate_v2.edges.s3 import Deleter", "holds a Deleter"),
        ("steps.sync", "s3.delete_objects(Bucket='b')", "calls delete_objects"),
        ("pipeline", "client.delete_bucket(Bucket='b')", "calls delete_bucket"),
        ("steps.fetch", "from migrate_v2.edges.s3 import Restorer", "holds a Restorer"),
        ("steps.delete", "from migrate_v2.edges.s3 import PolicySetter", "holds a PolicySetter"),
        ("steps.policy", "client.put_bucket_policy(Bucket='b')", "calls put_bucket_policy"),
        ("steps.restore", "from migrate_v2.edges.s3control import BatchRestorer", "holds a BatchRestorer"),
    ],
)
def test_the_check_can_fail(module: str, source: str, fault: str) -> None:
    assert any(fault in found for found in faults(module, source))
