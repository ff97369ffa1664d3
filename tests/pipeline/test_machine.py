from pathlib import Path

import torch
from support import changed_params

from pipeline.machine import machine
from pipeline.reporting.read import read_origin
from pipeline.workspace import write_json
from semimae.engine.device import device_name
from semimae.evaluation.flops import step_flops


def test_machine_and_arithmetic_reach_the_report(tmp_path: Path) -> None:
    cell = changed_params(method="fixmatch", train__steps=7).cell()
    found = machine(cell, 10)
    assert (found["device"], found["device_name"]) == ("cpu", device_name(torch.device("cpu")))
    assert (found["processes"], found["threads"]) == (1, torch.get_num_threads())
    assert found["flops"] == 7 * step_flops(cell, 10)
    write_json(tmp_path / "machine.json", {"code": "0123abcd", **found})
    write_json(tmp_path / "origin.json", {"mlflow.source.git.commit": "abc", "dvc.stage": "train"})
    read = read_origin(tmp_path)
    assert (read.commit, read.code, read.flops) == ("abc", "0123abcd", found["flops"])
    assert read.torch == torch.__version__
    assert read.machine == f"cpu ({found['device_name']}, {found['threads']} thread)"


def test_what_was_not_recorded_is_not_invented(tmp_path: Path) -> None:
    assert read_origin(tmp_path).machine == "not recorded"
