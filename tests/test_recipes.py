"""Each recipe is honest about its origin and trains; overlays; and the commands around them."""

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from support import REPO
from typer.testing import CliRunner

from pipeline.__main__ import app, main
from pipeline.overlay import FREE_FORM, complete, read
from pipeline.recipe import Recipe
from pipeline.round_trip import load
from pipeline.time_factors import _write as write_factors
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.loop import train
from semimae.engine.optim import build_optimizer
from semimae.engine.phases import phases
from semimae.methods.registry import build_method
from semimae.model import SemiModel, build_model
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.options.params import Params
from semimae.options.train import Rhythm
from semimae.random import uniform
from semimae.types import Batch, Step, UserError

RECIPES = sorted((REPO / "recipes").glob("*.yaml"))
BASES = sorted((REPO / "recipes/base").glob("*.yaml"))
DEFAULTS = REPO / "recipes/base/defaults.yaml"
EXPECTED = {
    *("digits", "compare_digits", "study_cifar10", "study_cifar10_cpu"),
    "remedies_cifar10",
    "remedies_cifar10_cpu",
    "remedy_cifar10_cpu",
    *("labels_cifar10_cpu", "methods_cifar10_cpu", "backbones_cifar10_cpu"),
    *("imagefolder", "imagefolder_try", "own_images", "from_pretrained"),
    *("study_own_images", "study_own_digits"),
    *("cifar10", "cifar10_vit_s", "cifar100", "cifar100_vit_s"),
    *("usb_cifar100_200", "usb_cifar100_400", "usb_stl10_40", "usb_stl10_100"),
    *(f"imagenet_{n}pct_{model}" for n in (1, 10) for model in ("vit_s", "vit_b", "vit_b_mae")),
    "imagenet_10pct_vit_s_dino",
}
NUM_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "stl10": 10, "imagefolder": 10}
MILLIONS = {
    64: 0.15,
    96: 0.45,
    256: 1.58,  # two blocks
    192: 5.34,
    384: 21.3,
    768: 85.1,
}  # parameters of all blocks, by width
HEADER = ["Source", "Steps", "Hardware", "Hours", "Seeds", "Score"]

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def settings(text: str) -> list[str]:
    """Return the lines of a params file without the comment at its top."""
    lines = text.splitlines()
    return lines[next(i for i, line in enumerate(lines) if not line.startswith("#")) :]


def keys(tree: Any, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {prefix}
    return set().union(*(keys(value, f"{prefix}.{key}") for key, value in tree.items()))


def num_classes(path: Path) -> int:
    return 1000 if path.stem.startswith("imagenet") else NUM_CLASSES[read(path).dataset]


def build(cell: Cell, classes: int) -> SemiModel:
    """Build a cell's model. Files of weights are not part of the project: it starts fresh."""
    return build_model(
        cell.backbone.model_copy(update={"weights": None}),
        cell.mim,
        image_size=cell.data.image_size,
        channels=cell.data.channels,
        num_classes=classes,
        seed=cell.seed,
    )


def test_all_are_there() -> None:
    assert {path.stem for path in RECIPES} == EXPECTED


def test_digits_is_the_default() -> None:
    digits = complete(REPO / "recipes/digits.yaml")
    assert settings(digits) == settings((REPO / "params.yaml").read_text())


# --- overlays


def overlays(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return a recipe, its base, the base of that, and so on, each with what it states."""
    tree = load(path)
    base = tree.pop("base", None)
    yield path, tree
    if base is not None:
        yield from overlays(path.parent / f"{base}.yaml")


def test_recipes_are_short() -> None:
    assert sum(len(path.read_text().splitlines()) for path in RECIPES + BASES) <= 1600


def test_one_file_states_every_key_and_all_recipes_build_on_it() -> None:
    for path in RECIPES:
        assert [file for file, _ in overlays(path)][-1].samefile(DEFAULTS), path
    assert keys(load(DEFAULTS)) == keys(Params.read(DEFAULTS).model_dump())
    assert settings(DEFAULTS.read_text()) == settings((REPO / "params.yaml").read_text())


def test_every_base_is_used() -> None:
    users = [tree["base"] for tree in map(load, RECIPES + BASES) if "base" in tree]
    assert {path.stem for path in BASES} <= {Path(name).name for name in users}


@pytest.mark.parametrize("path", RECIPES + BASES, ids=lambda path: path.stem)
def test_an_overlay_states_only_what_differs_from_its_base(path: Path) -> None:
    tree = load(path)
    if "base" not in tree:
        return
    base = load_complete(path.parent / f"{tree.pop('base')}.yaml")
    assert same(tree, base) == []


def load_complete(path: Path) -> Any:
    return YAML(typ="safe").load(complete(path))


def same(overlay: Any, base: Any, prefix: str = "") -> list[str]:
    """Return the keys of an overlay that change nothing, and the sections that hold nothing."""
    if not isinstance(overlay, dict) or prefix.rpartition(".")[2] in FREE_FORM:
        return [prefix] if overlay == base else []
    if base is None or overlay.get("name", base.get("name")) != base.get("name"):
        return []  # of a phase's own settings, or another member of a union: as a whole
    found = [same(value, base.get(key), f"{prefix}.{key}") for key, value in overlay.items()]
    return sum(found, [] if overlay or not prefix else [prefix])


# --- each recipe


@each_recipe
def test_states_every_field(path: Path) -> None:
    assert keys(YAML(typ="safe").load(complete(path))) == keys(read(path).model_dump())


@each_recipe
def test_header_says_where_it_comes_from_and_what_it_led_to(path: Path) -> None:
    recipe = Recipe(path, path.read_text())
    header = "\n".join(recipe.header)
    assert recipe.description.endswith((".", "?"))
    for part in HEADER:
        assert re.search(rf"^{part}: \S", header, re.M), part
    assert re.search(r"^Hours: [^:]*\d", header, re.M)
    assert re.search(r"estimate|measured", header.partition("\nHours:")[2])
    score = re.search(r"^Score: (unrun$|\d+\.\d \+- |(results/\w+)$)", header, re.M)
    assert score
    assert score[2] is None or (REPO / score[2] / "about.json").is_file()
    assert recipe.is_measured != header.endswith("Score: unrun")
    assert max(map(len, complete(path).splitlines())) <= 100


@each_recipe
def test_schedule_fits(path: Path) -> None:
    params = read(path)
    assert params.optim.warmup_steps < params.train.steps / 5
    assert params.fine_tune.optim.warmup_steps <= params.fine_tune.steps / 10
    assert params.train.eval_every <= params.train.steps


def how_labeled(path: Path) -> set[tuple[float | None, int | None, str | None]]:
    """Return the ways in which headline and grid choose labels: share, number, list."""
    params = read(path)
    cells = [params.cell(), *params.grid()]
    return {(cell.label_fraction, cell.num_labels, cell.data.labeled_list) for cell in cells}


@pytest.mark.parametrize(
    ("name", "labels"), [("cifar100", 200), ("cifar100", 400), ("stl10", 40), ("stl10", 100)]
)
def test_usb_grid_has_as_many_labels_as_the_headline(name: str, labels: int) -> None:
    path = REPO / f"recipes/usb_{name}_{labels}.yaml"
    assert how_labeled(path) == {(None, labels, None)}
    assert header_labels(path) == [labels]


@pytest.mark.parametrize(
    ("percent", "labels", "model"),
    [
        *[(1, 12_811, model) for model in ("vit_s", "vit_b", "vit_b_mae")],
        *[(10, 128_116, model) for model in ("vit_s", "vit_b", "vit_b_mae", "vit_s_dino")],
    ],
)
def test_imagenet_takes_the_customary_list(percent: int, labels: int, model: str) -> None:
    path = REPO / f"recipes/imagenet_{percent}pct_{model}.yaml"
    assert how_labeled(path) == {(None, None, f"lists/imagenet_{percent}percent.txt")}
    header = "\n".join(Recipe(path, path.read_text()).header)
    assert f"lists/imagenet_{percent}percent.txt in this project: " in " ".join(header.split())
    assert header_labels(path)[0] == labels


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        *[("digits", 1348), ("compare_digits", 1348), ("study_cifar10", 50_000)],
        ("study_cifar10_cpu", 10_000),
        *[("cifar10", 50_000), ("cifar10_vit_s", 50_000)],
        *[("cifar100", 50_000), ("cifar100_vit_s", 50_000)],
    ],
)
def test_header_counts_the_labels_that_the_split_takes(name: str, rows: int) -> None:
    path = REPO / f"recipes/{name}.yaml"
    rest = rows - round(rows * read(path).data.val_fraction)
    shares = [share or 0 for share, _, _ in how_labeled(path)]
    named = header_labels(path)
    assert {min(round(share * rows), rest) for share in shares} <= {*named}
    assert rows in named


def header_labels(path: Path) -> list[int]:
    """Return the whole numbers of the header's paragraph about labels."""
    header = "\n".join(Recipe(path, path.read_text()).header)
    paragraph = re.split(r"\n(?=\S)", header.partition("\nLabels: ")[2])[0]
    numbers = re.findall(r"(?<![\d.])\d[\d,]*(?![\d.]*%)(?!\.\d)", paragraph)
    return [int(number.replace(",", "")) for number in numbers if number.strip(",")]


def test_compare_digits_covers_all_methods_that_classify() -> None:
    methods = set(read(REPO / "recipes/compare_digits.yaml").ablation.method)
    assert methods == METHODS.keys() - {"mae", "self_training"}  # which is for pretrained weights


@each_recipe
def test_model_has_the_size_it_claims(path: Path) -> None:
    """The model in full, on the meta device, where it costs neither memory nor time."""
    cell = read(path).cell()
    with torch.device("meta"):
        model = build(cell, num_classes(path))
    blocks = [p for name, p in model.named_parameters() if ".blocks." in name and "mim" not in name]
    millions = sum(p.numel() for p in blocks) / 1e6
    assert millions == pytest.approx(MILLIONS[cell.backbone.embed_dim], rel=0.03)


@each_recipe
def test_every_method_of_it_trains_a_step(path: Path, tmp_path: Path) -> None:
    """One real step of each phase on two labeled and two unlabeled images of the right shape.

    Two of the twelve equal blocks of the larger models are enough: the whole is built above.
    """
    params, classes = read(path), num_classes(path)
    cells = {(c.method, c.backbone.name): c for c in [params.cell(), *params.grid()]}
    for cell in cells.values():
        for phase in phases(cell):
            one_step(small(phase), params.train, classes, Checkpoints(tmp_path))


def small(cell: Cell) -> Cell:
    backbone = cell.backbone
    if getattr(backbone, "embed_dim", 0) >= 384:
        backbone = backbone.model_copy(update={"depth": 2})
    train_update = {
        **{"steps": 1, "batch_size": 2, "mu": 1},
        **{"device": "cpu", "precision": "fp32", "threads": 1},
    }
    return cell.model_copy(
        update={
            "backbone": backbone,
            "optim": cell.optim.model_copy(update={"warmup_steps": 0}),
            "train": cell.train.model_copy(update=train_update),
        }
    )


def one_step(cell: Cell, rhythm: Rhythm, classes: int, checkpoints: Checkpoints) -> None:
    model = build(cell, classes)
    before = copy.deepcopy(model.state_dict())
    method = build_method(cell.options, classes, num_unlabeled=10)
    optimizer = build_optimizer(model, model.backbone, cell.optim)  # type: ignore[arg-type]
    ema = copy.deepcopy(model).requires_grad_(False)
    state = TrainState(model=model, ema=ema, method=method, optimizer=optimizer)
    train(
        state,
        lambda step: random_step(cell, classes, model.backbone.num_patches),
        cell.train,
        rhythm,
        cell.optim,
        autocast=nullcontext,  # type: ignore[arg-type]
        evaluate=lambda state: {},
        on_row=lambda kind, row: None,
        checkpoints=checkpoints,
        should_stop=lambda: False,
    )
    assert state.history[-1]["loss/total"] > 0, cell.method
    assert "bad_steps" not in state.history[-1], cell.method
    changed = [name for name, old in before.items() if not old.equal(model.state_dict()[name])]
    assert any(name.startswith("backbone.") for name in changed), cell.method
    assert (cell.mim is not None) == any(name.startswith("mim.") for name in changed), cell.method


def random_step(cell: Cell, classes: int, num_patches: int) -> Step:
    side, channels, unlabeled = cell.data.image_size, cell.data.channels, cell.num_unlabeled

    def images(count: int, name: str) -> torch.Tensor:
        return 2 * uniform((count, channels, side, side), name) - 1

    batch = Batch(
        labeled=images(2, "labeled"),
        labels=torch.tensor([0, classes - 1]),
        weak=images(unlabeled, "weak"),
        strong=images(unlabeled, "strong"),
        mask_noise=uniform((unlabeled, num_patches), "mask"),
        mix_noise=uniform((unlabeled, 4), "mix"),
        unlabeled_index=torch.arange(unlabeled),
        progress=0.5,
    )
    return Step(batch, torch.full((unlabeled,), -1))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the recipes and a committed params.yaml."""
    shutil.copytree(REPO / "recipes", tmp_path / "recipes")
    shutil.copy(REPO / "params.yaml", tmp_path)
    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@t commit -qm start"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def recipe(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["recipe", *arguments])
    if result.exception:
        raise result.exception
    return result.stdout


def test_list_names_all_with_their_state(project: Path) -> None:
    lines = recipe("list").splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in RECIPES]
    assert {line.split()[1] for line in lines} == {"measured", "unrun"}
    assert all(line.endswith((".", "?")) for line in lines)


def test_show_prints_the_params_file(project: Path) -> None:
    assert recipe("show", "cifar10") == complete(REPO / "recipes/cifar10.yaml")


def test_use_replaces_params_and_can_be_followed_by_another(project: Path) -> None:
    for name in ("cifar10", "imagefolder"):
        assert name in recipe("use", name)
        text = (project / "params.yaml").read_text()
        assert text == complete(REPO / f"recipes/{name}.yaml")


def test_use_writes_a_missing_params_file(project: Path) -> None:
    (project / "params.yaml").unlink()
    recipe("use", "digits")
    assert Params.read(project / "params.yaml") == Params.read(REPO / "params.yaml")


@pytest.mark.parametrize("without_git", [False, True])
def test_use_keeps_own_work_unless_forced(project: Path, without_git: bool) -> None:
    if without_git:
        shutil.rmtree(project / ".git")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    mine = params.read_text()
    with pytest.raises(UserError, match=r"uncommitted changes; .*--force"):
        recipe("use", "cifar10")
    assert params.read_text() == mine
    recipe("use", "cifar10", "--force")
    assert params.read_text() != mine


def test_use_follows_a_study_whose_factors_were_measured(project: Path) -> None:
    recipe("use", "study_cifar10_cpu")
    params = project / "params.yaml"
    write_factors(params, {"supervised": 4.0, "fixmatch": 1.5, "semi_mae": 1.0})
    assert "time" in Params.read(params).ablation.budget
    recipe("use", "remedies_cifar10_cpu")
    assert params.read_text() == complete(REPO / "recipes/remedies_cifar10_cpu.yaml")


def test_use_overwrites_what_git_has(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    commit = "-c user.name=t -c user.email=t@t commit -qam mine"
    subprocess.run(["git", *commit.split()], cwd=project, check=True)
    recipe("use", "cifar10")
    assert Params.read(params).dataset == "cifar10"


def test_use_refuses_a_broken_recipe_and_writes_nothing(project: Path) -> None:
    broken = project / "recipes/broken.yaml"
    broken.write_text((project / "params.yaml").read_text().replace("mu: 4", "mu: 0"))
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"broken\.yaml: train\.mu: got 0"):
        recipe("use", "broken")
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("command", ["show", "use"])
def test_unknown_name_ends_with_the_nearest_and_code_2(
    command: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["semimae", "recipe", command, "cifar_10"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert output.startswith("error: there is no recipe 'cifar_10' (did you mean 'cifar10'?)")
    assert output.count("\n") == 1


def test_no_recipes_is_said(project: Path) -> None:
    shutil.rmtree(project / "recipes")
    with pytest.raises(UserError, match="there are no recipes in"):
        recipe("list")


def test_a_lookup_needs_no_torch() -> None:
    code = "import sys, pipeline.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0
