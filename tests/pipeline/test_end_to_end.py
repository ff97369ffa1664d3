"""The real `dvc repro` on a copy of the project: which stages run after each kind of change."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from stages import TIMES
from support import copy_project, set_params, wait_until

pytestmark = pytest.mark.slow

SMALL: dict[str, object] = {
    "train__steps": 6,
    "train__log_every": 2,
    "train__eval_every": 3,
    "optim__warmup_steps": 2,
    "fine_tune__steps": 3,
    "fine_tune__optim__warmup_steps": 0,
    "ablation__method": ["fixmatch", "semi_mae"],
    "ablation__mask_ratio": [0.5, 0.75],
    "ablation__label_fraction": [0.1],
    "ablation__seed": [0],
    "label_fraction": 0.1,
    "tracking__log_model": False,  # test_registered_model.py has it
}

# Python runs it before all else. A worker dies as it saves its second checkpoint, and the grid with
# half of dvc.lock written as it records the first cell that is done; each once.
DEATHS = """
import os, pathlib, signal, sys
root = pathlib.Path.cwd()

def die(once, cut=None):
    if not (root / once).exists():
        (root / once).touch()
        if cut:
            os.truncate(cut, 99)
        os.kill(os.getpid(), signal.SIGKILL)

def watch(event, arguments):
    if event == "os.rename" and "/step-" in str(arguments[1]):
        if any(root.glob(".semimae/resume/*/step-*.json")):
            die("worker.died")
    if event == "open" and str(arguments[0]).endswith("dvc.lock") and "w" in str(arguments[1]):
        if any(root.glob(".semimae/cells/*/linear_probe.json")):
            die("grid.died", cut=arguments[0])

if sys.orig_argv[2:4] in (["pipeline", "cell"], ["pipeline", "grid"]):
    sys.addaudithook(watch)
"""


class Project:
    """A copy of the working tree under its own git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_project(folder)
        set_params(folder, **SMALL)
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            self.run("git", *arguments)

    def run(self, *command: str, status: int = 0, **variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
        environment |= variables
        for who in ("AUTHOR", "COMMITTER"):
            environment |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@localhost"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def dvc(self, *arguments: str) -> tuple[set[str], set[str]]:
        """Run dvc; return the stages that were computed and those that came from its cache."""
        output = self.run(sys.executable, "-m", "dvc", *arguments)
        running = set(re.findall(r"Running stage '([^']+)'", output))
        cached = set(re.findall(r"Stage '([^']+)' is cached", output))
        return running, cached

    def files(self) -> dict[str, bytes]:
        """What the cells' folders hold, less when and where it was made."""
        paths = [path for path in (self.folder / "runs").rglob("*") if path.is_file()]
        taken = [path for path in paths if path.name not in {*TIMES, "phases.json"}]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in taken}

    def append(self, name: str, text: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(text)

    def read(self, name: str) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.folder / name).read_text())
        return content


def kinds(stages: set[str]) -> set[str]:
    return {stage.split("@")[0] for stage in stages}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


# The tests of this module are steps of one story and run in their order.


def test_1_a_fresh_clone_runs_every_stage_and_trains_equal_cells_once(project: Project) -> None:
    running, cached = project.dvc("repro")
    computed = {stage for stage in running if "train" in stage} - cached
    assert len(computed) == 3, computed  # fixmatch, semi_mae at two ratios; the headline is one
    assert {"prepare", "split", "linear_probe", "fine_tune", "report"} <= running
    assert (project.folder / "reports/index.html").stat().st_size > 10_000
    assert project.read("reports/summary.json")


def test_2_a_second_run_does_nothing(project: Project) -> None:
    assert project.dvc("repro") == (set(), set())


def test_3_the_store_has_a_run_per_distinct_cell_with_training_and_scores(project: Project) -> None:
    client = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    cells = [run for run in runs if "semimae.cell_id" in run.data.tags]
    (report,) = [run for run in runs if "semimae.pipeline" in run.data.tags]
    assert len(cells) == 3
    assert report.info.status == "FINISHED"
    artifacts = {file.path for file in client.list_artifacts(report.info.run_id, "reports")}
    assert "reports/index.html" in artifacts
    for run in cells:
        assert run.info.status == "FINISHED"
        assert "mlflow.parentRunId" not in run.data.tags  # MLflow's pages would fold it away
        assert run.data.tags["semimae.invocation"] == report.data.tags["semimae.pipeline"]
        assert {"loss/total", "val/top1", "test/classifier/top1", "test/knn/top1"} <= set(
            run.data.metrics
        )
        assert run.data.params["label_fraction"] == "0.1"
        assert [i.dataset.name for i in run.inputs.dataset_inputs] == ["digits"]
    ratios = {run.data.params.get("mask_ratio") for run in cells}
    assert ratios == {None, "0.5", "0.75"}
    page = (project.folder / "reports/index.html").read_text()
    for run in cells:
        assert f"/runs/{run.info.run_id}" in page
        assert int(run.data.tags["semimae.flops"]) > 0


def test_3b_a_grid_whose_processes_are_killed_writes_the_same_files_and_nothing_is_left_to_do(
    project: Project, tmp_path: Path
) -> None:
    other = Project(tmp_path / "other")
    set_params(other.folder, train__save_every=2)
    (tmp_path / "sitecustomize.py").write_text(DEATHS)
    grid = (sys.executable, "-m", "pipeline", "grid", "--jobs", "1")
    said = other.run(*grid, status=-signal.SIGKILL, PYTHONPATH=str(tmp_path))
    assert "Cells to train or score: 3, 1 at a time." in said
    assert "for lack of memory; it is continued, attempt 2 of 3.\n" in said
    notes = list(other.folder.glob(".semimae/cells/*/linear_probe.json"))
    made = [note.stat().st_mtime_ns for note in notes]
    said = other.run(*grid, PYTHONPATH=str(tmp_path))
    assert "Cells to train or score: 3" not in said  # what was done is recorded
    assert made == [note.stat().st_mtime_ns for note in notes] != []
    assert other.files() == project.files()
    assert "up to date" in other.run(sys.executable, "-m", "dvc", "status")
    assert other.dvc("repro") == (set(), set())
    # What workers did is in DVC's run cache too.
    shutil.rmtree(other.folder / "runs" / "headline" / "train")
    (other.folder / "dvc.lock").unlink()
    shutil.rmtree(other.folder / ".semimae")
    assert "Cells to train" not in other.run(*grid)
    assert other.files() == project.files()
    assert other.run(*grid) == "Everything is up to date.\n"


def test_4_one_more_grid_value_runs_only_its_cells_and_the_report(project: Project) -> None:
    set_params(project.folder, ablation__seed=[0, 1])
    running, _ = project.dvc("repro")
    assert {
        stage for stage in running if "@" in stage and not stage.endswith("-1-images-plain")
    } == set()
    own = {"grid_split", "grid_train", "grid_linear_probe"}
    assert kinds(running) == {"inputs", *own, "report"}
    set_params(project.folder, ablation__seed=[0])


def test_5_an_option_of_the_evaluation_retrains_nothing(project: Project) -> None:
    set_params(project.folder, linear_probe__knn_k=3)
    running, _ = project.dvc("repro", "linear_probe")
    assert running == {"inputs", "linear_probe"}


def test_6_an_edit_of_the_evaluation_code_retrains_nothing(project: Project) -> None:
    project.append("semimae/evaluation/metrics.py", "\n# an edit\n")
    running, _ = project.dvc("repro", "linear_probe", "fine_tune")
    assert running == {"inputs", "linear_probe", "fine_tune"}


def test_7_an_experiment_trains_again_but_leaves_the_data_stages(project: Project) -> None:
    project.run("git", "add", "-A")
    running, cached = project.dvc("exp", "run", "-S", "mask_ratio=0.25", "-S", "ablation.seed=[0]")
    assert "prepare" not in running
    assert {"split", "train", "linear_probe", "fine_tune", "report"} <= running
    assert "grid_train" not in kinds(running - cached)


def test_8_an_experiment_that_is_a_cell_of_the_grid_trains_nothing(project: Project) -> None:
    running, cached = project.dvc("exp", "run", "-S", "mask_ratio=0.5")
    assert "split" in running
    assert "train" in cached


def test_9_queued_experiments_run_side_by_side_in_workspaces_of_their_own(project: Project) -> None:
    project.run(sys.executable, "-m", "dvc", "exp", "run", "--queue", "-S", "mask_ratio=0.4,0.6")
    project.run(sys.executable, "-m", "dvc", "queue", "start", "-j", "2")
    status = ""

    def is_done() -> bool:
        nonlocal status
        status = project.run(sys.executable, "-m", "dvc", "queue", "status")
        return "Running" not in status and "Queued" not in status.split("Worker status")[0]

    wait_until(is_done)
    assert status.count("Success") == 2, status
    shown = project.run(sys.executable, "-m", "dvc", "exp", "show", "--md")
    assert "0.4" in shown
    assert "0.6" in shown
    client = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    ratios = {
        run.data.params.get("mask_ratio") for run in client.search_runs([experiment.experiment_id])
    }
    assert {"0.4", "0.6"} <= ratios  # logged to the project's store, not to the workspace's
