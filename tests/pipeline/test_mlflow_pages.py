"""What MLflow's pages show without set-up, asked of a real server as its pages ask."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_helpers import COMMIT, MACHINE, ablation, build_workspace
from support import PATIENCE, wait_until

from pipeline.tracking import finish_pipeline, publish
from pipeline.tracking.cells import create_run
from pipeline.tracking.store import connect
from semimae.options.cell import cell_id

pytestmark = pytest.mark.slow


class Server:
    """MLflow's own server on the store of a workspace."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        store = ("--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, "--port", port, "--workers", "1"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.is_healthy, lambda: self.process.poll() is None)

    def is_healthy(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.address}/health", timeout=PATIENCE)
        except OSError:  # of urllib too
            return False
        return True

    def post(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)


def named(entries: list[dict[str, str]]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in entries}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("store")
    params = ablation(mask_ratio=[0.75], seed=[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DVC_EXP_NAME", raising=False)
        build_workspace(root, patch)(params, headline=False)
        for first, *_ in params.grid().values():
            assert publish(Path("runs") / first.folder, root)
        (root / "reports").mkdir()
        for name, text in (
            ("index.html", "a page"),
            ("summary.json", "{}"),
            ("report.md", "# Report\n\n## Which setting won?\n\nSemi-MAE.\n\n## Leaderboard\n"),
        ):
            (root / "reports" / name).write_text(text)
        assert finish_pipeline(root, Path("runs/headline"), root / "reports")
        server = Server(root)
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait()


@pytest.fixture(scope="module")
def runs(pages: Server) -> dict[str, Any]:
    """All runs of the experiment by their name, as the list asks for them."""
    found = pages.post("experiments/search", max_results=10, filter="name = 'semi-mae'")
    (experiment,) = found["experiments"]
    tags = named(experiment["tags"])
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    where_to_click, what_is_there = tags["mlflow.note.content"].split("\n\n")
    link = f"#/experiments/{experiment['experiment_id']}/runs?viewStateShareKey=scores&"
    assert f"[See the scores]({link}workflowType=machine_learning)" in where_to_click
    assert "those named `report ...`; each holds the report" in what_is_there
    answer = pages.post(
        "runs/search",
        experiment_ids=[experiment["experiment_id"]],
        order_by=["attributes.start_time DESC"],
        max_results=100,
    )
    return {run["info"]["run_name"]: run for run in answer["runs"]}


def test_the_list_is_flat_and_says_what_each_run_is(runs: dict[str, Any]) -> None:
    assert len(runs) == 3
    assert {"semi_mae m0.75 f0.1 s0", "supervised f0.1 s0"} < runs.keys()
    for run in runs.values():
        assert run["info"]["status"] == "FINISHED"
        assert "mlflow.parentRunId" not in named(run["data"]["tags"])
    (invocation,) = [run for name, run in runs.items() if name.startswith("report workspace@")]
    assert (
        named(invocation["data"]["tags"])["mlflow.note.content"]
        == "Which setting won?\n\nSemi-MAE.\n"
    )
    source = named(invocation["data"]["tags"])["mlflow.source.name"]
    assert source == "reports/index.html"  # the runs of cells have their folder there
    note = named(runs["semi_mae m0.75 f0.1 s0"]["data"]["tags"])["mlflow.note.content"]
    assert "100 labeled and 900 unlabeled images, 240 steps, seed 0" in note
    assert "`runs/semi_mae-0.75-0.1-0-images-plain/`" in note


def test_the_columns_of_the_view_that_the_note_opens_are_there(
    runs: dict[str, Any], pages: Server
) -> None:
    (experiment,) = pages.post("experiments/search", max_results=10, filter="name = 'semi-mae'")[
        "experiments"
    ]
    view = json.loads(named(experiment["tags"])["mlflow.sharedViewState.scores"])
    data = runs["semi_mae m0.75 f0.1 s0"]["data"]
    there = {f"metrics.`{metric['key']}`" for metric in data["metrics"]}
    there |= {f"params.`{name}`" for name in named(data["params"])}
    assert len(view["selectedColumns"]) == 6
    assert {*view["selectedColumns"], view["orderByKey"]} <= there
    compared = pages.post(
        "runs/search",
        experiment_ids=[experiment["experiment_id"]],
        filter=view["searchFilter"],
        max_results=100,
    )
    names = {run["info"]["run_name"] for run in compared["runs"]}
    assert names == {name for name in runs if not name.startswith("report ")}


def test_a_run_in_progress_shows_its_dataset(tmp_path: Path) -> None:
    params = ablation(method=["supervised"], seed=[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        build_workspace(tmp_path, patch)(params, headline=False)
        (folder,) = Path("runs").iterdir()
        shutil.rmtree(folder / "train")
        store = connect(tmp_path)
        run = create_run(store, folder)
        (dataset,) = run.inputs.dataset_inputs
        assert dataset.dataset.name == "digits"
        assert run.info.status == "RUNNING"
        assert run.data.params["method"] == "supervised"


def test_time_and_commit_are_those_of_the_training(runs: dict[str, Any]) -> None:
    run = runs["supervised f0.1 s0"]
    assert run["info"]["start_time"] == 9000  # step 10: at 10 s, after 1 s of training
    assert run["info"]["end_time"] == 20000
    tags = named(run["data"]["tags"])
    assert tags["mlflow.source.git.commit"] == COMMIT
    assert tags["semimae.flops"] == str(MACHINE["flops"])


def test_the_compare_page_draws_test_accuracy_over_what_differs(runs: dict[str, Any]) -> None:
    """It begins with the first metric that the runs share, and three parameters that differ."""
    cells = [run["data"] for name, run in runs.items() if not name.startswith("report")]
    assert len(cells) == 2
    for data in cells:
        assert data["metrics"][0]["key"] == "test/classifier/top1"
    params = [named(data["params"]) for data in cells]
    differing = sorted(k for k in params[0] if params[0][k] != params[1].get(k, params[0][k]))
    assert differing[0] == "method"
    assert {p.get("mask_ratio") for p in params} == {None, "0.75"}
    assert params[0]["train.steps"] == params[1]["train.steps"]


def test_metrics_are_few_and_in_named_groups(runs: dict[str, Any], pages: Server) -> None:
    run = runs["semi_mae m0.75 f0.1 s0"]
    groups = {metric["key"].partition("/")[0] for metric in run["data"]["metrics"]}
    assert groups == {"test", "val", "loss", "pseudo", "gradient", "seconds", "cpu_seconds"}
    query = f"run_id={run['info']['run_id']}&metric_key=val/top1"
    address = f"{pages.address}/api/2.0/mlflow/metrics/get-history?{query}"
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        history = json.load(answer)["metrics"]
    assert [point["step"] for point in history] == [10, 20]


def test_the_report_s_search_finds_the_run(runs: dict[str, Any], pages: Server) -> None:
    run = runs["supervised f0.1 s0"]
    identity = named(run["data"]["tags"])["semimae.cell_id"]
    found = pages.post(
        "runs/search",
        experiment_ids=[run["info"]["experiment_id"]],
        filter=f"tags.semimae.cell_id = '{identity}'",
    )
    assert [r["info"]["run_id"] for r in found["runs"]] == [run["info"]["run_id"]]
    assert cell_id(Path(named(run["data"]["tags"])["mlflow.source.name"])) == identity
