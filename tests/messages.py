"""List every message, flag and help text of the package, to be read aloud: python tests/messages.py"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CALLS = {"IchsegError", "ScanError", "ValueError", "TypeError", "RuntimeError", "Finding", "print", "info", "warning",
         "add_argument", "add_parser", "append", "warn", "write"}  # fmt: skip
WORDS = ("help", "description", "epilog", "desc")


def text(node: ast.AST) -> str:
    """The text of an expression, ``{…}`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text(node.left) + text(node.right)
    return f"[{text(node.body)}|{text(node.orelse)}]" if isinstance(node, ast.IfExp) else ""


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every message in a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name in CALLS:
            for part in [*node.args, *(word.value for word in node.keywords if word.arg in WORDS)]:
                if " " in (found := text(part)).strip():
                    yield node.lineno, found


if __name__ == "__main__":
    for path in sorted(Path(__file__).resolve().parents[1].joinpath("ichseg").rglob("*.py")):
        for line, found in messages(path):
            sys.stdout.write(f"{path.name}:{line}: {found}\n")
