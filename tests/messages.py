"""Every way in which the program says that it failed, read from its source: for the index in docs/TROUBLESHOOTING.md."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import migrate_v2
from migrate_v2.errors import Failure

ROOT = Path(migrate_v2.__file__).parent


def _modules() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("migrate_v2", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        if not name.endswith("__main__"):
            yield name, ast.parse(path.read_text())


def _template(node: ast.expr | None) -> str:
    """What is constant in a text, with … for what is filled in; "" where nothing is."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)  # type: ignore[misc]
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return (_template(left) or "…") + (_template(right) or "…")
        case ast.IfExp(body=body, orelse=orelse):
            return _template(body) or _template(orelse)
    return ""


def _said(text: str) -> str:
    return " ".join(text.split())


def messages() -> dict[str, set[int]]:
    """The text of each, with the exit statuses that it may come with."""
    found: dict[str, set[int]] = {}
    for name, tree in _modules():
        module = importlib.import_module(name)
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Failure) and kind.__module__ == name:
                text = _said((kind.__doc__ or "").replace("{0}", "…").replace("{}", "…"))
                if text.strip("… "):
                    found.setdefault(text, set()).add(kind.code)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            kind = getattr(module, node.func.id, None)
            if not (inspect.isclass(kind) and issubclass(kind, Failure)):
                continue
            # Of a class with a sentence of its own only a name is given; that sentence is in the list already.
            if (kind.__doc__ or "").strip() not in ("{}", "{0}"):
                continue
            text = _said(_template(node.args[0]))
            if text.strip("… "):
                found.setdefault(text, set()).add(kind.code)
    return found
