"""``$`` expressions of a config: MONAI evaluates them as Python, so they are read here before.

Everything is refused that is not known to be harmless: an allow-list of names and modules, not a list of bad words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator

# "@a::b::0" is a reference, "%file.json::a" a piece of another file.
REFERENCE = re.compile(r"@(?:::|#)*\w+(?:(?:::|#)\w+)*")
MACRO = re.compile(r"%(?:::|#)*[\w./\\-]+(?:(?:::|#)\w+)*")
HARMLESS_NAMES = frozenset((
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "False", "filter", "float", "frozenset", "int",
    "isinstance", "len", "list", "map", "max", "min", "None", "pow", "print", "range", "reversed", "round", "set",
    "slice", "sorted", "str", "sum", "True", "tuple", "type", "zip",
))  # fmt: skip
# Modules that an expression may import and use.
HARMLESS_MODULES = frozenset(("glob", "ichseg", "ignite", "math", "monai", "np", "numpy", "scipy", "torch"))
# Parts of those modules that read, write, fetch or run things, and ways out of them.
HARMFUL_PARTS = frozenset((
    "__builtins__", "apps", "DataSource", "datasets", "from_file", "fromregex", "npyio",
    "builtins", "bundle", "classes", "cli", "compile", "cpp_extension", "ctypes",
    "ctypeslib", "distutils", "download_and_extract", "download_url", "eval", "exec", "f2py", "fromfile",
    "frompyfunc", "genfromtxt", "get_torch_version_tuple", "hub", "importlib", "io", "jit", "launch", "load",
    "load_library", "load_submodules", "loadtxt", "memmap", "multiprocessing", "open", "ops", "optional_import",
    "os", "package", "pathlib", "pickle", "popen", "run", "run_bundle", "save", "savetxt", "savez",
    "savez_compressed", "serialization", "shutil", "socket", "subprocess", "sys", "system", "testing", "tofile",
    "utils", "weave",
))  # fmt: skip


def doubts_of_expression(text: str, known: Collection[str] = ()) -> list[str]:
    """One short sentence per reason not to evaluate an expression.

    Args:
        text: the expression, with or without its ``$``.
        known: further names that the config imports.
    """
    code = text.removeprefix("$").strip()
    if MACRO.match(code):
        return []
    code = REFERENCE.sub("_reference", code)
    try:
        tree: ast.AST = ast.parse(code, mode="exec" if code.startswith(("import ", "from ")) else "eval")
    except (SyntaxError, ValueError) as error:
        return [f"is no Python expression ({getattr(error, 'msg', error)})"]
    allowed = {*HARMLESS_NAMES, *HARMLESS_MODULES, *known, "_reference", *_bound(tree)}
    found: list[str] = []
    for node in ast.walk(tree):  # outermost first: of a.b.c the whole is told, not a.b again
        for doubt in _doubts(node, allowed):
            if not any(doubt.split("'")[:2] == other.split("'")[:2] or _begins(other, doubt) for other in found):
                found.append(doubt)
    return found


def imported_names(text: str) -> set[str]:
    """Names that an ``import`` in an expression binds, if its modules are harmless."""
    try:
        tree = ast.parse(text.removeprefix("$").strip())
    except (SyntaxError, ValueError):
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def _bound(tree: ast.AST) -> Iterator[str]:
    """Names that the expression itself binds: arguments of lambdas, variables of comprehensions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _doubts(node: ast.AST, allowed: Collection[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"imports '{alias.name}'" for alias in node.names if not _harmless(alias.name))
    elif isinstance(node, ast.ImportFrom):
        if not _harmless(node.module or "."):
            yield f"imports '{node.module}'"
        yield from (f"imports '{alias.name}'" for alias in node.names if alias.name in HARMFUL_PARTS)
    elif isinstance(node, ast.Name) and node.id not in allowed:
        yield f"uses '{node.id}', which is not on the list of harmless names"
    elif isinstance(node, ast.Attribute):
        if node.attr.startswith("_"):
            yield f"reaches for '{node.attr}'"
        elif _of_a_module(node) and node.attr in HARMFUL_PARTS:
            yield f"uses '{ast.unparse(node)}', which reads, writes, fetches or runs things"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "__" in node.value:
        yield "holds '__' in a text, a way around such checks"


def _begins(longer: str, doubt: str) -> bool:
    return longer.startswith(doubt.partition("',")[0] + ".")


def _harmless(module: str) -> bool:
    parts = module.split(".")
    return parts[0] in HARMLESS_MODULES and not HARMFUL_PARTS & set(parts[1:])


def _of_a_module(node: ast.Attribute) -> bool:
    """True for ``torch.a.b``, False for an attribute of a reference or of a value."""
    inner: ast.AST = node
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    return isinstance(inner, ast.Name) and inner.id != "_reference"
