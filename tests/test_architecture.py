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

from pipeline.inputs import OF_SPLIT
from semimae.options.cell import Cell
from semimae.options.data import READ_BY_PREPARE, DataConfig
from semimae.options.grid import GridPoint
from semimae.options.method import METHODS

# From the bottom to the top; a module imports from its own layer and from those above it in this
# list.
LAYERS = [
    "semimae.types",
    "semimae.files",
    "semimae.patches",
    "semimae.options",  # free of torch, so that the commands that only read options start fast
    "semimae.random",
    "semimae.positions",
    "semimae.tensors",
    "semimae.mixing",
    "semimae.distributed",
    "semimae.data",
    "semimae.ingest",
    "semimae.backbones",
    "semimae.losses",
    "semimae.calibration",
    "semimae.mim",
    "semimae.model",
    "semimae.model_file",
    "semimae.methods",
    "semimae.engine",
    "semimae.evaluation",
    "semimae.inference",
    "semimae.training",
    "pipeline.source_code",
    "pipeline.workspace",
    "pipeline.noted",
    "pipeline.stage",
    "pipeline.progress",
    "pipeline.model_card",
    "pipeline.tracking",
    "pipeline.thumbnails",
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
    "altair",
    "vl_convert",
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
    holders = [entry for entry in LAYERS if name == entry or name.startswith(f"{entry}.")]
    assert holders, f"{name} is in no layer"
    return LAYERS.index(max(holders, key=len))


def package(name: str) -> str:
    return name.rpartition(".")[0]


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
        assert layer(target) <= layer(name), where


def test_no_modules_import_each_other() -> None:
    graph = {name: {t for t, _ in ours(path) if t != name} for name, path in PATHS.items()}
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
        assert name in PATHS, name


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
    others.add("semimae.evaluation.trained_probes")  # its attention over tokens
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


@pytest.mark.parametrize("path", sorted(REPO.glob("semimae/options/*.py")), ids=lambda p: p.stem)
def test_options_need_nothing_but_pydantic(path: Path) -> None:
    ground = {"semimae.types", "semimae.files", "semimae.patches"}
    for found in imports(path):
        name = module(found.target) if found.target.startswith("semimae") else found.target
        if name.startswith("semimae"):
            assert name in ground or name.startswith("semimae.options"), found
        else:
            top = name.split(".")[0]
            assert top in {"pydantic", "pydantic_core", "ruamel", *sys.stdlib_module_names}, found
    functions = {n.name for n in ast.walk(ast.parse(path.read_text())) if hasattr(n, "name")}
    assert "build" not in functions


def test_packages_hold_no_code_of_their_own() -> None:
    """Which code a stage runs is computed from its modules, see `pipeline.source_code`."""
    for path in FILES:
        if path.name == "__init__.py" and path.parent.name not in ("semimae", "tracking"):
            assert all(isinstance(n, ast.Expr) for n in ast.parse(path.read_text()).body), path


# --- DVC's stages

STAGES: dict[str, Any] = YAML(typ="safe").load(REPO / "dvc.yaml")["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe").load(REPO / "params.yaml")
CELL = (
    *("train", "grid_train", "baseline_train"),
    *("linear_probe", "grid_linear_probe", "baseline_linear_probe", "fine_tune"),
)


def own_params(stage: dict[str, Any]) -> set[str]:
    return {key for key in stage.get("params", []) if isinstance(key, str)}


@pytest.mark.parametrize("name", ["prepare", "split", "grid_split", "baseline_split", *CELL])
def test_code_is_a_dependency_through_the_file_that_is_computed(name: str) -> None:
    deps = [Path(dep) for dep in STAGES[name]["deps"]]
    assert sum("inputs" in dep.parts for dep in deps) == 1
    assert not any({"semimae", "pipeline"} & set(dep.parts) for dep in deps)


@pytest.mark.parametrize("name", CELL)
def test_a_cell_depends_on_its_own_files_and_not_on_params(name: str) -> None:
    assert "params" not in STAGES[name]
    assert {"config.json", "split.json", "../../prepared"} <= set(STAGES[name]["deps"])


@pytest.mark.parametrize("name", STAGES)
def test_keys_that_a_stage_names_are_there(name: str) -> None:
    for key in own_params(STAGES[name]):
        node = PARAMS
        for part in key.split("."):
            assert part in node, f"{key} is not in params.yaml"
            node = node[part]


def test_splitting_notices_all_of_params_yaml_that_is_in_a_cell() -> None:
    sections = {f for options in METHODS.values() for f in options.model_fields}
    fields = (set(Cell.model_fields) | sections) & PARAMS.keys() | {"method", "mask_ratio"}
    assert {"data", "backbone", "mim", "pseudo_label", "ssmae", "start", "seed"} <= fields
    by_name = {"ablation.time_factor", "ablation.changes"}  # what budget and variant mean
    assert own_params(STAGES["split"]) | set(OF_SPLIT) == fields | by_name
    named = {k.replace("_", "-") for k in STAGES["grid_split"]["matrix"]}
    assert all(f"--{option} " in STAGES["grid_split"]["cmd"] + " " for option in named)
    by_option = {option.replace("-", "_") for option in named} - {"label_fraction"}  # null: theirs
    assert set(OF_SPLIT) == (fields - by_option) | by_name


@pytest.mark.parametrize("step", ["split", "train", "linear_probe"])
def test_baselines_are_made_as_the_grid_is(step: str) -> None:
    ours, grid = (dict(STAGES[f"{kind}_{step}"]) for kind in ("baseline", "grid"))
    for stage in (ours, grid):  # folders are named by them, in this order
        assert tuple(stage.pop("matrix")) == GridPoint._fields
    assert ours == grid


def test_whatever_is_in_params_yaml_or_the_code_is_noted_anew() -> None:
    assert STAGES["inputs"]["params"] == [{"params.yaml": None}]
    assert set(STAGES["inputs"]["deps"]) == {"pipeline", "semimae", "lists"}


def test_preparing_notices_all_of_params_yaml_that_it_reads() -> None:
    assert own_params(STAGES["prepare"]) == {"dataset"} | {f"data.{k}" for k in READ_BY_PREPARE}
    assert DataConfig.model_fields.keys() > READ_BY_PREPARE


def test_equal_cells_share_one_command() -> None:
    """DVC's run cache knows a run by its command, its dependencies and its outputs."""
    for plain in ("train", "linear_probe"):
        one, other = STAGES[plain], STAGES[f"grid_{plain}"]
        assert (one["cmd"], one["outs"]) == (other["cmd"], other["outs"])
        same = [dep.replace("${item.method}", "${method}") for dep in other["deps"]]
        assert one["deps"] == same
