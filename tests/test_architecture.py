"""The rules of docs/architecture.md, executable: who may import what, and what nobody may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hazards import hazards
from ruamel.yaml import YAML
from support import REPO

from pipeline.inputs import STAGES as INPUTS
from semimae.options.cell import Cell
from semimae.options.data import READ_BY_PREPARE, DataConfig

# From the bottom to the top; a module imports from its own layer and from those above it in this
# list. "*.config" are the modules of that name in all packages: free of torch, so that the commands
# that only read options start fast. They name their owners in `build`, see `may_build`.
LAYERS = [
    "semimae.types",
    "semimae.random",
    "semimae.distributed",
    "semimae.patches",
    "semimae.positions",
    "*.config",
    "semimae.options.cell",
    "semimae.data",
    "semimae.backbones",
    "semimae.losses",
    "semimae.mim",
    "semimae.model",
    "semimae.methods",
    "semimae.engine",
    "semimae.evaluation",
    "semimae.inference",
    "semimae.options.explain",
    "semimae.options.grid",
    "semimae.options.params",
    "pipeline.workspace",
    "pipeline.progress",
    "pipeline.model_card",
    "pipeline.tracking",
    "pipeline.reporting",
    "pipeline",  # the commands
    "pipeline.__main__",
]
FILES = sorted([*REPO.glob("semimae/**/*.py"), *REPO.glob("pipeline/**/*.py")])
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "mlflow",
    "dvc",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
}


class Import(NamedTuple):
    target: str  # module, or module and name
    line: int
    lazy: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING`


def name_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in FILES}


def module(target: str) -> str:
    """The module that a dotted name is or is in."""
    return target if target in PATHS else target.rpartition(".")[0]


@cache
def imports(path: Path) -> tuple[Import, ...]:
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(a.name, node.lineno, lazy, typing_only) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
            found.extend(Import(name, node.lineno, lazy, typing_only) for name in names)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, inside, True)
            for child in node.orelse:
                visit(child, inside, typing_only)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child, inside, typing_only)

    visit(ast.parse(path.read_text()), False, False)
    return tuple(found)


def ours(path: Path) -> Iterator[tuple[str, Import]]:
    """The imports of a file that are from this repository."""
    for found in imports(path):
        if found.target.split(".")[0] in ("semimae", "pipeline"):
            yield module(found.target), found


def layer(name: str) -> int:
    if name == "semimae":
        return 0  # it imports nothing
    if name.startswith("semimae.") and name.endswith(".config"):
        return LAYERS.index("*.config")
    holders = [entry for entry in LAYERS if name == entry or name.startswith(f"{entry}.")]
    assert holders, f"{name} is in no layer"
    return LAYERS.index(max(holders, key=len))


def package(name: str) -> str:
    return name.rpartition(".")[0]


def is_config(name: str) -> bool:
    return layer(name) == LAYERS.index("*.config")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPO)))


# --- direction


@every_file
def test_imports_point_one_way(path: Path) -> None:
    name = name_of(path)
    if name == "semimae":
        assert not list(ours(path)), "the package's front page imports all of it: commands get slow"
        return
    for target, found in ours(path):
        where = f"{path.relative_to(REPO)}:{found.line} imports {target}"
        assert target in PATHS, f"{where}, which is not there"
        if is_config(name):
            # An options class builds its owner, and says so in the type of `build`.
            if found.lazy and package(target) == package(name):
                continue
            if found.typing_only:
                continue
        assert layer(target) <= layer(name), where


def test_no_modules_import_each_other() -> None:
    graph = {
        name: {
            t for t, found in ours(path) if not found.lazy and not found.typing_only and t != name
        }
        for name, path in PATHS.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_layer_is_there() -> None:
    for name in LAYERS:
        assert name == "*.config" or name in PATHS, name


# --- what is kept out of where


@every_file
def test_the_library_knows_neither_trackers_nor_terminals(path: Path) -> None:
    if name_of(path).startswith("pipeline"):
        return
    for found in imports(path):
        assert found.target.split(".")[0] not in {"mlflow", "dvc", "typer", "rich", "click"}, found
    assert "print" not in {name for name, _ in calls(path)}


@every_file
def test_one_package_knows_mlflow(path: Path) -> None:
    knows = any(found.target.split(".")[0] == "mlflow" for found in imports(path))
    assert not knows or name_of(path).startswith("pipeline.tracking")


@every_file
def test_timm_is_known_to_backbones_the_decoder_and_what_leaves_for_it(path: Path) -> None:
    name = name_of(path)
    others = {"semimae.mim.mae", "semimae.inference.timm_folder", "pipeline.tracking.served"}
    if any(found.target.split(".")[0] == "timm" for found in imports(path)):
        assert package(name) == "semimae.backbones" or name in others


def test_what_travels_with_a_model_imports_nothing_of_ours() -> None:
    assert not list(ours(PATHS["pipeline.tracking.served"]))


@pytest.mark.parametrize(
    "path",
    sorted([*FILES, *REPO.glob("benchmarks/**/*.py")]),
    ids=lambda path: str(path.relative_to(REPO)),
)
def test_nothing_runs_what_it_reads(path: Path) -> None:
    """Data, checkpoints and options are never code."""
    assert hazards(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os.path, pickle as safe",
        "from pickle import loads",
        "def f():\n    from yaml import load",
        "import marshal",
        "from joblib import load",
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import builtins\nbuiltins.eval(text)",
        "run = eval",
        "list(map(eval, texts))",
        "import os\nos.system('ls')",
        "from os import system\nsystem('ls')",
        "from os import system as call\ncall('ls')",
        "import os as o\no.popen('ls')",
        "import os\nos.execv(path, arguments)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=wanted)",
        "from subprocess import getoutput\ngetoutput('ls')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch as t\nt.load(path, weights_only=safe)",
        "from torch import load\nload(path)",
        "import torch\ntorch.hub.load('a', 'b')",
        "import torch\ntorch.jit.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy\nnumpy.load(path, allow_pickle=wanted)",
        "import pandas as pd\npd.read_pickle(path)",
        "import tempfile\ntempfile.mktemp()",
        "from jinja2 import Environment\nEnvironment(loader=x)",
        "import jinja2\njinja2.Environment(autoescape=False)",
        "from jinja2 import Template\nTemplate(text)",
        "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
        "from ruamel.yaml import YAML\nYAML(typ=kind)",
        "import tarfile\ntarfile.open(path).extractall()",
        "import shutil\nshutil.unpack_archive(path)",
        "import importlib\nimportlib.import_module(name)",
    ],
)
def test_what_runs_what_it_reads_is_found(source: str) -> None:
    assert hazards(source)


def test_what_only_looks_like_it_is_not() -> None:
    source = """
import re, subprocess, numpy as np, torch
from jinja2 import Environment
from ruamel.yaml import YAML
model.eval()
module.compile()
re.compile("x")
torch.compile(model)
np.load(path)
np.load(path, allow_pickle=False)
torch.load(path, map_location="cpu", weights_only=True)
subprocess.run(["ls"], shell=False)
Environment(autoescape=True)
YAML(typ="safe"), YAML()
"""
    assert hazards(source) == []


@every_file
def test_no_global_seed_and_no_global_generator(path: Path) -> None:
    """Everything random is drawn from a key; `torch.manual_seed` only inside a fork."""
    for name, call in calls(path):
        where = f"{path.relative_to(REPO)}:{call.lineno} {name}"
        assert name not in {"np.random.seed", "random.seed", "torch.seed", "torch.cuda.manual_seed"}
        assert not name.startswith("random."), where
        if name in {"torch.rand", "torch.randn", "torch.randperm", "torch.randint"}:
            assert "generator" in {k.arg for k in call.keywords}, where
    text = path.read_text()
    assert text.count("torch.manual_seed(") == text.count("torch.random.fork_rng(")


# --- what a command loads before it is called


@pytest.mark.parametrize(
    "name",
    ["semimae.options.params", "semimae.options.cell", "pipeline.__main__", "pipeline.tracking"],
)
def test_reading_options_loads_nothing_heavy(name: str) -> None:
    code = f"import sys, {name}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""


# --- DVC's stages

STAGES: dict[str, Any] = YAML(typ="safe").load(REPO / "dvc.yaml")["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe").load(REPO / "params.yaml")
# `prepare` reads every image, so it must not run again for an edit of, say, a method's options.
# Of params.yaml it uses the keys that are among its `params`.
UNTRACKED = {
    "prepare": {
        "semimae.options.params",
        "semimae.options.grid",
        "semimae.options.explain",
        "semimae.options.cell",
        "semimae.types",
    }
    | {name for name in PATHS if is_config(name) and name != "semimae.options.data"},
}


def commands() -> dict[str, str]:
    """Command -> module, as pipeline/__main__.py registers them."""
    found = {}
    for _, call in calls(PATHS["pipeline.__main__"]):
        if isinstance(call.func, ast.Call) and ast.unparse(call.func.func) == "app.command":
            (name,) = call.func.args
            (function,) = call.args
            assert isinstance(name, ast.Constant)
            found[name.value] = f"pipeline.{ast.unparse(function).split('.')[0]}"
    return found


def stage_module(stage: dict[str, Any]) -> str:
    words = stage["cmd"].split()
    return commands()[words[words.index("pipeline") + 1]]


def tracked(stage: dict[str, Any]) -> list[Path]:
    """What a stage depends on; a file of stage `inputs` stands for the code that it notes."""
    folder = REPO / stage.get("wdir", ".").replace("${key}", "x")
    paths = [(folder / dep).resolve() for dep in stage["deps"]]
    noted = [INPUTS[path.stem].code for path in paths if path.parent == REPO / "inputs"]
    return [*paths, *(REPO / entry for code in noted for entry in code)]


def settings_of(stage: dict[str, Any]) -> set[str]:
    """The keys of params.yaml that a stage depends on, by itself or through stage `inputs`."""
    paths = [Path(dep) for dep in stage["deps"]]
    noted = [INPUTS[path.stem].settings for path in paths if path.parent.name == "inputs"]
    own = [key for key in stage.get("params", []) if isinstance(key, str)]
    return {*own, *(key for settings in noted for key in settings)}


def covers(deps: list[Path], path: Path) -> bool:
    return any(path == dep or dep in path.parents for dep in deps)


def has_code(path: Path) -> bool:
    return any(not isinstance(n, ast.Expr) for n in ast.parse(path.read_text()).body)


def reached(start: str, deps: list[Path]) -> set[str]:
    """All modules of ours that a command may load, from its own file on.

    Other files of pipeline/ are followed where the stage depends on them: the rest (progress,
    tracking) changes no output. What an options class builds is only loaded when a model is built.
    """
    found: set[str] = set()
    built = False

    def visit(name: str) -> None:
        nonlocal built
        if name in found or name not in PATHS:
            return
        if name.startswith("pipeline") and name != start and not covers(deps, PATHS[name]):
            return
        found.add(name)
        visit(package(name))
        for target, entry in ours(PATHS[name]):
            if not entry.typing_only and not (is_config(name) and entry.lazy):
                visit(target)

    visit(start)
    if "semimae.model" in found:
        for config in [name for name in found if is_config(name)]:
            for target, entry in ours(PATHS[config]):
                if entry.lazy:
                    visit(target)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(name: str) -> None:
    stage = STAGES[name]
    deps, start = tracked(stage), stage_module(stage)
    missing = {
        module
        for module in reached(start, deps) - UNTRACKED.get(name, set())
        if module.startswith("semimae") and has_code(PATHS[module])
        if module != "semimae" and not covers(deps, PATHS[module])  # that one has the version only
    }
    files = sorted(str(PATHS[module].relative_to(REPO)) for module in missing)
    assert not files, f"stage {name} does not notice edits of {', '.join(files)}"


@pytest.mark.parametrize("name", ["prepare", "inputs", "split", "grid_split", "report"])
def test_a_cheap_stage_depends_on_its_own_file(name: str) -> None:
    assert covers(tracked(STAGES[name]), PATHS[stage_module(STAGES[name])])


@pytest.mark.parametrize("name", [n for n in STAGES if "wdir" in STAGES[n]])
def test_training_and_scoring_depend_on_the_library_alone(name: str) -> None:
    """An edit of a progress bar must not train for days again."""
    assert not any(REPO / "pipeline" in [dep, *dep.parents] for dep in tracked(STAGES[name]))


@pytest.mark.parametrize("name", [n for n in STAGES if n.endswith("train")])
def test_training_does_not_depend_on_scoring(name: str) -> None:
    deps = tracked(STAGES[name])
    assert not covers(deps, REPO / "semimae" / "evaluation" / "metrics.py")
    assert not covers(deps, REPO / "params.yaml")


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_names_is_there(name: str) -> None:
    for dep in tracked(STAGES[name]):
        if REPO / "semimae" in [dep, *dep.parents] or REPO / "pipeline" in [dep, *dep.parents]:
            assert dep.exists(), dep
    for key in settings_of(STAGES[name]):
        node = PARAMS
        for part in key.split("."):
            assert part in node, f"{key} is not in params.yaml"
            node = node[part]


def test_splitting_notices_all_of_params_yaml_that_is_in_a_cell() -> None:
    fields = set(Cell.model_fields) & PARAMS.keys()
    assert {"data", "backbone", "optim", "train", "seed", "mask_ratio"} <= fields
    by_name = {"ablation.time_factor", "ablation.changes"}  # what budget and variant mean
    assert settings_of(STAGES["split"]) == fields | by_name
    named = {k.replace("_", "-") for k in STAGES["grid_split"]["matrix"]}
    assert all(f"--{option} " in STAGES["grid_split"]["cmd"] + " " for option in named)
    by_option = {option.replace("-", "_") for option in named} - {"label_fraction"}  # null: theirs
    assert settings_of(STAGES["grid_split"]) == (fields - by_option) | by_name


@pytest.mark.parametrize("name", ["linear_probe", "grid_linear_probe", "fine_tune"])
def test_scoring_notices_its_own_section_alone(name: str) -> None:
    assert settings_of(STAGES[name]) == {name.removeprefix("grid_")}


def test_whatever_is_in_params_yaml_or_the_code_is_noted_anew() -> None:
    assert STAGES["inputs"]["params"] == [{"params.yaml": None}]
    assert set(STAGES["inputs"]["deps"]) == {"pipeline", "semimae"}
    assert [f"inputs/{name}.json" for name in INPUTS] == [
        next(iter(out)) for out in STAGES["inputs"]["outs"]
    ]


def test_preparing_notices_all_of_params_yaml_that_it_reads() -> None:
    assert set(STAGES["prepare"]["params"]) == {"dataset"} | {f"data.{k}" for k in READ_BY_PREPARE}
    assert DataConfig.model_fields.keys() > READ_BY_PREPARE


def test_equal_cells_share_one_command() -> None:
    """DVC's run cache knows a run by its command, its dependencies and its outputs."""
    for plain in ("train", "linear_probe"):
        one, other = STAGES[plain], STAGES[f"grid_{plain}"]
        assert one["cmd"] == other["cmd"]
        assert one["deps"] == other["deps"]
        assert "params" not in one | other
