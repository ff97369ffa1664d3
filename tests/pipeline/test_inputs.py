"""Stage inputs notes what each stage of a cell depends on, no more and no less."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPO, set_params

from semimae.options.method import METHODS

ALL = {f"train/{name}" for name in METHODS}
SCORING = {"linear_probe", "fine_tune"}
ENTROPY = '''
class EntropyOptions(MethodOptions):
    """Confident predictions."""

    implementation = "semimae.methods.entropy:Entropy"
    name: Literal["entropy"]


'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copied(tmp_path)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the stage writes of the code and the params as they are."""
    return written(copied(tmp_path_factory.mktemp("before")))


def copied(folder: Path) -> Path:
    for name in ("pipeline", "semimae"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "params.yaml", folder)
    return folder


def run(project: Path) -> subprocess.CompletedProcess[str]:
    """Run the stage on the project's own copy of the code."""
    command = [sys.executable, "-m", "pipeline", "inputs"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def written(project: Path) -> dict[str, str]:
    done = run(project)
    assert done.returncode == 0, done.stderr
    folder = project / "inputs"
    files = folder.rglob("*.json")
    return {path.relative_to(folder).with_suffix("").as_posix(): path.read_text() for path in files}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def edit(path: Path) -> None:
    with path.open("a") as code:
        code.write("# an edit\n")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("semimae/engine/loop.py", ALL | {"fine_tune"}),
        ("semimae/engine/infer.py", ALL | SCORING),
        ("semimae/data/split.py", ALL | SCORING | {"split"}),
        ("semimae/methods/freematch.py", {"train/freematch"}),
        ("semimae/methods/semi_mae.py", {"train/semi_mae"}),
        (
            "semimae/methods/mae.py",
            {f"train/{name}" for name in ("mae", "mae_finetune", "semi_vit")},
        ),
        ("semimae/methods/ssmae.py", {"train/ssmae"}),
        ("semimae/evaluation/metrics.py", SCORING),
        ("semimae/evaluation/reconstruct.py", {"linear_probe"}),
        ("semimae/evaluation/flops.py", set()),
        ("semimae/inference/predict.py", set()),
        ("semimae/ingest/datasets.py", {"prepare"}),
        ("semimae/ingest/choose.py", {"split"}),
        ("semimae/options/params.py", {"split"}),
        ("semimae/options/method.py", {"split"}),
        ("pipeline/split.py", set()),
        ("pipeline/progress.py", set()),
        ("pipeline/report.py", set()),
    ],
)
def test_an_edit_of_the_code_reaches_the_stages_that_run_it(
    project: Path, before: dict[str, str], file: str, stages: set[str]
) -> None:
    edit(project / file)
    assert changed(before, written(project)) == stages


def test_a_new_method_changes_no_training_input_of_another(
    project: Path, before: dict[str, str]
) -> None:
    shutil.copy(project / "semimae/methods/fixmatch.py", project / "semimae/methods/entropy.py")
    registry = project / "semimae/options/method.py"
    text = registry.read_text()
    text = text.replace("# The registry:", f"{ENTROPY}# The registry:")
    registry.write_text(
        text.replace("    | SemiMAEOptions,", "    | SemiMAEOptions\n    | EntropyOptions,")
    )
    after = written(project)
    assert changed(before, after) == {"split", "train/entropy"}
    assert "semimae/methods/entropy.py" in json.loads(after["train/entropy"])["code"]


def test_a_rule_counts_for_the_methods_that_take_it(project: Path) -> None:
    set_params(project, pseudo_label__rule="free")
    before = written(project)
    edit(project / "semimae/methods/freematch.py")
    takers = {"train/freematch", "train/semi_mae", "train/semi_vit"}
    assert changed(before, written(project)) == takers


def test_a_rule_of_a_variant_counts_too(project: Path) -> None:
    variant = {"soft": {"pseudo_label": {"rule": "soft"}}}
    set_params(project, ablation__variant=["plain", "soft"], ablation__changes=variant)
    code = json.loads(written(project)["train/semi_mae"])["code"]
    assert {"semimae/methods/softmatch.py", "semimae/methods/rules.py"} <= code.keys()
    assert "semimae/methods/freematch.py" not in code


def test_a_new_module_counts_where_it_is_imported(project: Path) -> None:
    before = written(project)
    (project / "semimae/mim/new.py").write_text('"""New."""\n')
    assert changed(before, written(project)) == set()
    with (project / "semimae/methods/ssmae.py").open("a") as code:
        code.write("\n\ndef later():\n    from semimae.mim import new\n")
    before = written(project)
    edit(project / "semimae/mim/new.py")
    assert changed(before, written(project)) == {"train/ssmae"}


@pytest.mark.parametrize(
    ("section", "values", "stages"),
    [
        ("optim", {"lr": 0.123}, {"split"}),
        ("data", {"hflip": True}, {"split"}),
        ("linear_probe", {"knn_k": 3}, {"linear_probe"}),
        ("fine_tune", {"steps": 77}, {"fine_tune"}),
        ("ablation", {"changes": {"heavy": {"mim": {"lambda_mim": 9.0}}}}, {"split"}),
        ("ablation", {"seed": [5, 6]}, set()),
        ("tracking", {"experiment": "other"}, set()),
    ],
)
def test_an_edit_of_params_reaches_the_stages_that_read_it(
    project: Path, before: dict[str, str], section: str, values: dict[str, object], stages: set[str]
) -> None:
    set_params(project, **{f"{section}__{name}": value for name, value in values.items()})
    assert changed(before, written(project)) == stages


def test_a_comment_or_another_spelling_of_a_number_changes_nothing(
    project: Path, before: dict[str, str]
) -> None:
    text = (project / "params.yaml").read_text()
    assert "lr: 2e-3" in text
    (project / "params.yaml").write_text("# a comment\n" + text.replace("lr: 2e-3", "lr: 0.002"))
    assert changed(before, written(project)) == set()


def test_the_files_say_which_value_and_which_module(before: dict[str, str]) -> None:
    split = json.loads(before["split"])
    assert split["settings"]["optim"]["lr"] == 2e-3
    assert split["settings"]["ablation.changes"] == {}
    assert set(map(len, split["code"].values())) == {64}
    assert {"semimae/ingest/choose.py", "semimae/data/split.py"} <= split["code"].keys()


def test_a_method_that_nobody_asks_for_need_not_fit(project: Path) -> None:
    # Of semi_vit, which has a warm-up too.
    set_params(project, optim__warmup_steps=60, start__supervised_steps=50)
    assert "train/semi_vit" in written(project)


def test_params_with_an_error_leave_the_files_alone(project: Path) -> None:
    before = written(project)
    set_params(project, optim__lr="fast")
    done = run(project)
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml: optim.lr")
    folder = project / "inputs"
    assert before == {name: (folder / f"{name}.json").read_text() for name in before}


def test_a_changed_list_of_labeled_images_reaches_the_split(project: Path) -> None:
    set_params(project, data__labeled_list="lists/mine.txt", label_fraction=None)
    missing = run(project)
    assert missing.returncode == 2
    assert "data.labeled_list=lists/mine.txt cannot be read (No such file" in missing.stderr
    (project / "lists").mkdir()
    (project / "lists/mine.txt").write_text("train/000001\n")
    first = written(project)
    assert changed(first, written(project)) == set()
    (project / "lists/mine.txt").write_text("train/000002\n")
    assert changed(first, written(project)) == {"split"}


def test_a_list_that_is_not_watched_is_warned_of(project: Path) -> None:
    set_params(project, data__labeled_list="mine.txt", label_fraction=None)
    (project / "mine.txt").write_text("train/000001\n")
    assert "warning: DVC tracks the lists in lists/, not mine.txt" in run(project).stderr


@pytest.mark.parametrize("where", ["headline", "variant", "baseline"])
def test_missing_weights_are_found_before_anything_runs(project: Path, where: str) -> None:
    weights = "vit.safetensors"
    warm = {"warm": {"backbone": {"weights": weights}}}
    if where == "headline":
        set_params(project, backbone__weights=weights)
    elif where == "variant":
        set_params(project, ablation__variant=["plain", "warm"], ablation__changes=warm)
    else:
        set_params(project, ablation__baseline__variant=["warm"], ablation__changes=warm)
    done = run(project)
    assert done.returncode == 2
    assert "backbone.weights=vit.safetensors: there is no file" in done.stderr
    assert not (project / "inputs").exists()
