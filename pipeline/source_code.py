"""The files of the library that a stage runs, with their hashes, found through imports."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import semimae
from semimae.files import file_hash
from semimae.options.method import SupervisedOptions
from semimae.options.method_base import MethodOptions

_ROOT = Path(semimae.__file__).parent.parent
# Options only hold values, and every value that affects the weights is in config.json.
_OPTIONS = "semimae.options"
_TRAINING = "semimae.engine.folds"


def code_of(modules: Iterable[str], *, options: bool = False) -> dict[str, str]:
    """Return the files that modules of ``semimae`` run, and their SHA-256.

    Imports inside functions are followed as well; imports for type checkers are not. A module that
    is imported by a string must be among ``modules``.

    Args:
        modules: The modules to start from.
        options: Whether to include ``semimae/options``.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if module in found or path is None or (module.startswith(_OPTIONS) and not options):
            continue
        found.add(module)
        waiting += imports(path)
    files = sorted(path for module in found if (path := _file(module)) is not None)
    return {path.relative_to(_ROOT).as_posix(): file_hash(path) for path in files}


def training_code(methods: Iterable[MethodOptions]) -> dict[str, str]:
    """Return the files that affect the weights of these methods, in all their phases."""
    names = [
        name
        for method in methods
        for phase in method.phases()
        for name in (*method.code(), *phase.options.code())
    ]
    return code_of([_TRAINING, *(name.partition(":")[0] for name in names)])


def fine_tuning_code() -> dict[str, str]:
    """Return the files that affect the result of fine-tuning."""
    supervised, _, _ = SupervisedOptions.implementation.partition(":")
    return stage_code("fine_tune") | code_of([_TRAINING, supervised])


def stage_code(stage: str, *, options: bool = False) -> dict[str, str]:
    """Return the files of the library that a command of ``pipeline`` runs.

    Among the other files of ``pipeline``, only `pipeline.stage` can change an output.
    """
    found = imports(Path(__file__).with_name(f"{stage}.py"))
    if "pipeline.stage" in found:
        found = found + imports(Path(__file__).with_name("stage.py"))
    return code_of(found, options=options)


def library_hashes() -> dict[str, str]:
    """Return the SHA-256 of each file of the library as it is now, by path."""
    files = sorted((_ROOT / "semimae").rglob("*.py"))
    return {path.relative_to(_ROOT).as_posix(): file_hash(path) for path in files}


def short_hash(code: dict[str, str]) -> str:
    """Return a short hash of code. Work that other code began is not continued."""
    return hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:8]


@cache
def imports(path: Path) -> list[str]:
    """Return the names that a file imports, and the modules that they come from."""
    return sorted(set(_imports(ast.parse(path.read_bytes()))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        yield from _imports(node)


def _file(module: str) -> Path | None:
    """Return the file of a module of ``semimae``. Packages contain no code of their own."""
    path = _ROOT / f"{module.replace('.', '/')}.py"
    return path if module.startswith("semimae.") and path.is_file() else None
