"""``$`` expressions of a config: MONAI evaluates them as Python, so they are read here before.

Everything is refused that is not known to be harmless: modules are never handed out, a dotted name is looked up in
:mod:`ichseg.check.names`, and what is asked of a value has no name that reads, writes or runs.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import types
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath

from ichseg.check.names import ALLOWED, EXACTLY, MODULES, REFUSED, below, doubt_of_name, resolved

HARMLESS_NAMES = frozenset((
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "False", "filter", "float", "frozenset", "int",
    "isinstance", "len", "list", "map", "max", "min", "None", "pow", "print", "range", "reversed", "round",
    "set", "slice", "sorted", "str", "sum", "True", "tuple", "type", "zip",
))  # fmt: skip
# Parts of values that read, write or run things; "run" and "eval" are those of evaluators and networks.
HARMFUL_PARTS = frozenset((
    "builtins", "ctypes", "dump", "dumps", "exec", "from_file", "fromfile", "importlib", "load", "loads", "memmap",
    "modules", "mro", "os", "pathlib", "pickle", "popen", "save", "savez", "serialization", "shutil", "subprocess",
    "sys", "system", "to_csv", "to_filename", "to_pickle", "tofile", "with_traceback", "write",
))  # fmt: skip
# Of paths: whatever is more than their text, but for questions; "replace" is one of texts too.
OF_PATHS = frozenset(dir(Path)) - frozenset(dir(PurePath)) - frozenset((
    "absolute", "exists", "glob", "is_dir", "is_file", "is_mount", "is_symlink", "resolve", "rglob", "stat",
))  # fmt: skip
# Of frames, generators and tracebacks: from there everything can be reached.
OF_FRAMES = frozenset(
    name
    for kind in (types.AsyncGeneratorType, types.CodeType, types.CoroutineType, types.FrameType, types.GeneratorType,
                 types.TracebackType)
    for name in dir(kind) if re.match("[a-z]+_", name)
)  # fmt: skip
# Arguments that let loaders run what they read.
HARMFUL_ARGUMENTS = {"allow_pickle": False, "weights_only": True}
PRETRAINED = "pretrained"  # lets many of MONAI's networks fetch weights
# What MONAI puts where an expression has "@a::b".
REFERENCES = "__local_refs"
IMPORTS = "imports"
MONAI_NAMES = {"monai": {"monai"}, "np": {"numpy"}, "numpy": {"numpy"}, "torch": {"torch"}}


def doubts_of_expression(text: str, key: str = "", known: Mapping[str, Collection[str]] | None = None) -> list[str]:
    """One short sentence per reason not to evaluate an expression.

    Args:
        text: the expression, with or without its ``$``.
        key: where it stands in the config, for relative references.
        known: further names that the config imports -> the dotted names they may mean.
    """
    try:
        code = python_of(text, key)
        tree = ast.parse(code, mode="exec")
    except (SyntaxError, ValueError) as error:
        return [f"is not valid Python ({getattr(error, 'msg', error)})"]
    if tree.body and isinstance(tree.body[0], ast.Import | ast.ImportFrom):
        doubts = list(_of_import(tree))
        if doubts == [] and key and key.split("::")[0] != IMPORTS:
            doubts.append("imports a module outside of 'imports'")
        return doubts
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return ["contains more than a single expression"]
    return list(dict.fromkeys(_Reading(known or {}).of(tree.body[0].value)))


def python_of(text: str, key: str = "") -> str:
    """The Python that MONAI makes of an expression: references are replaced as it does it, inside texts too.

    Raises:
        ValueError: a relative reference leads out of the config.
    """
    from monai.bundle import ConfigParser, ReferenceResolver

    code = ConfigParser.resolve_relative_ids(key, text).removeprefix("$")
    for reference in sorted(ReferenceResolver.id_matcher.findall(code), key=len, reverse=True):
        code = code.replace(reference, f"{REFERENCES}['{reference[1:]}']")
    return code.strip()


def references_of(text: str, key: str) -> list[str]:
    """The keys that a reference or an expression at ``key`` refers to, from the top of the config."""
    from monai.bundle import ConfigParser, ReferenceResolver

    try:
        code = ConfigParser.resolve_relative_ids(key, text)
    except ValueError:
        return []  # told by the expression
    found = [reference[1:] for reference in ReferenceResolver.id_matcher.findall(code)]
    return found if text.startswith("$") else [name for name in found if code == f"@{name}"]


def imported_names(text: str) -> dict[str, set[str]]:
    """Names that an ``import`` in an expression binds -> the dotted names they mean."""
    try:
        tree = ast.parse(text.removeprefix("$").strip())
    except (SyntaxError, ValueError):
        return {}
    names: dict[str, set[str]] = {}
    for node in tree.body[:1]:
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            names.setdefault(alias.asname or alias.name, set()).add(whole)
    return names


def _of_import(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            yield "does more than import"
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            if whole.split(".")[0] not in MODULES or (isinstance(node, ast.ImportFrom) and node.level):
                yield f"imports '{whole}'"
            elif "." in whole and not (isinstance(node, ast.Import) and _module_of_lists(whole)):
                doubt = doubt_of_name(whole)
                if doubt is not None:
                    yield f"imports '{whole}': {doubt}"
            if hasattr(builtins, alias.asname or alias.name):
                yield f"imports something under the built-in name '{alias.asname or alias.name}'"


def _module_of_lists(dotted: str) -> bool:
    """True for modules of which names may be used: the names are judged where they are used."""
    listed = any(name.startswith(f"{dotted}.") for name in EXACTLY)
    return inspect.ismodule(resolved(dotted)) and (listed or (below(dotted, ALLOWED) and not below(dotted, REFUSED)))


class _Reading:
    """One expression, from the outside in."""

    def __init__(self, known: Mapping[str, Collection[str]]) -> None:
        self.modules = {name: set(meant) for name, meant in MONAI_NAMES.items()}
        for name, meant in known.items():
            self.modules.setdefault(name, set()).update(meant)

    def of(self, tree: ast.AST) -> Iterator[str]:
        self.bound: set[str] = set()
        for node in ast.walk(tree):
            name = node.arg if isinstance(node, ast.arg) else None
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            if name is not None and (hasattr(builtins, name) or name in self.modules or name.startswith("__")):
                yield f"redefines '{name}'"
            elif name is not None:
                self.bound.add(name)
        yield from self._node(tree)

    def _node(self, node: ast.AST) -> Iterator[str]:
        dotted = _dotted(node)
        if dotted is not None and dotted[0] in self.modules:  # nothing else can be called so
            for meant in sorted(self.modules[dotted[0]]):
                whole = ".".join([meant, *dotted[1:]])
                doubt = doubt_of_name(whole)
                if doubt is not None:
                    yield doubt
            return
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == REFERENCES:
            if not (isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)):
                yield f"uses '{REFERENCES}', MONAI's internal table"
            elif node.slice.value.split("::")[0] == IMPORTS:
                yield "refers to an import, which exposes a module"
            return
        if isinstance(node, ast.Name) and node.id not in HARMLESS_NAMES and node.id not in self.bound:
            yield f"uses '{node.id}', which is not on the list of allowed names"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            yield f"accesses the private attribute '{node.attr}'"
        elif isinstance(node, ast.Call) and _replaces_text(node):
            for child in (node.func.value, *node.args):  # type: ignore[attr-defined]
                yield from self._node(child)
            return
        elif isinstance(node, ast.Attribute) and node.attr in HARMFUL_PARTS | OF_PATHS | OF_FRAMES:
            yield f"uses the attribute '{node.attr}', which may read or write files or run code"
        elif isinstance(node, ast.keyword) and (node.arg in HARMFUL_ARGUMENTS or node.arg == PRETRAINED):
            yield f"sets '{node.arg}'"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "__" in node.value:
            yield "contains '__' in a string, which can bypass these checks"
        for child in ast.iter_child_nodes(node):
            yield from self._node(child)


def _replaces_text(node: ast.Call) -> bool:
    """True for ``x.replace(a, b)``: of a path, which is renamed by it, this takes one argument."""
    plain = not node.keywords and not any(isinstance(one, ast.Starred) for one in node.args)
    return isinstance(node.func, ast.Attribute) and node.func.attr == "replace" and plain and len(node.args) == 2


def _dotted(node: ast.AST) -> list[str] | None:
    """``[a, b, c]`` of ``a.b.c``, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None
