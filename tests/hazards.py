"""Finds calls that could run what they read; used by test_architecture.py."""

import ast
from collections.abc import Iterator

# Modules whose use is to turn bytes into objects, and calls that run text or a shell.
MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml",
    "pty", "commands", "code", "codeop", "runpy", "jsonpickle",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp", "jinja2.Template", "torch.jit.load", "torch.hub.load", "torch.package",
    "pandas.read_pickle", "numpy.lib.format.read_array", "shutil.unpack_archive",
    "importlib.import_module",
}  # fmt: skip
PREFIXES = ("os.exec", "os.spawn", "os.posix_spawn", "torch.hub.")
METHODS = {"extractall", "extract", "read_pickle"}  # of an archive or a table, whatever its name


def hazards(source: str) -> list[str]:
    """Return "line: what" for each hazard in a module; names are followed through its imports."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    return sorted({f"{line}: {what}" for line, what in _found(tree, names)})


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield local names of imports and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name of a function, e.g. ``numpy.load`` of ``np.load``."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _found(tree: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            )
            for module in modules:
                if (module or "").split(".")[0] in MODULES:
                    yield node.lineno, f"imports {module}"
        if isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _of_call(node, names))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = _dotted(node, names)  # also where it is passed on and not called here
            if name in CALLS or name.startswith(PREFIXES):
                yield node.lineno, name


def _of_call(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = _dotted(call.func, names)
    options = {
        k.arg: k.value.value if isinstance(k.value, ast.Constant) else ... for k in call.keywords
    }
    if options.get("shell", False) is not False:
        yield f"{name} with a shell"
    if options.get("allow_pickle", False) is not False:
        yield f"{name} with pickles"
    if name == "torch.load" and options.get("weights_only") is not True:
        yield "torch.load without weights_only=True"
    if name.endswith(("jinja2.Environment", "SandboxedEnvironment")) and not options.get(
        "autoescape"
    ):
        yield f"{name} without autoescape"
    if name.endswith("YAML") and options.get("typ", "rt") not in ("safe", "rt", None):
        yield f"{name} that makes objects"
    if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        yield f"{call.func.attr} of {name}"
